//! Snapshots: what a kernel holds or should hold, in a file.
//!
//! A snapshot has the elements, slots included, so that it represents a kernel exactly; and, if it
//! was made from manifests, the objects they were compiled from, so that reasons can be given.
//!
//! `step` is the way from one to the next.

mod step;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::iter;
use std::path::Path;

use anyhow::Context;
use rulec_compiler::change::{Change, Origin, Sourced};
use rulec_compiler::ipvs;
use rulec_compiler::net::Family;
use rulec_compiler::nft::chain::ChainId;
use rulec_compiler::nft::code::Affinity;
use rulec_compiler::nft::element::Element;
use rulec_compiler::nft::set::SetId;
use rulec_compiler::nft::{self, text as nft_text};
use rulec_compiler::state::{ChainContent, State, Table};
use rulec_compiler::{Delta, Model, Op, Program, Settings};
use rulec_sources::{Problem, replace_file};
use serde::{Deserialize, Serialize};

pub use step::{Replay, Step};

const API_VERSION: &str = "rulec.io/v1alpha2";
const KIND: &str = "Snapshot";

/// A snapshot as it is in the file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Snapshot {
    api_version: String,
    kind: String,
    /// The settings it was compiled with.
    settings: Settings,
    /// The tables, by family.
    tables: BTreeMap<Family, SavedTable>,
    /// The state of IPVS, if it is used.
    #[serde(default, skip_serializing_if = "ipvs::State::is_empty")]
    ipvs: ipvs::State,
    /// The objects it was compiled from, if they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    objects: Option<Vec<SavedObject>>,
    /// What could not be read or used when it was made, so that something may be missing in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    incomplete: Vec<Problem>,
}

/// An object as it is in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedObject {
    /// The source that has it. Snapshots of older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
    #[serde(flatten)]
    sourced: Sourced,
}

impl SavedObject {
    /// Returns all objects of a model that are not overridden.
    pub fn all(model: &Model) -> Vec<Self> {
        let all = model.objects_by_origin();
        all.map(|(origin, sourced)| Self { origin: Some(origin), sourced }).collect()
    }
}

/// A table. Its constant parts are not saved.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedTable {
    /// The classes of session affinity, each with a chain and a map.
    affinities: Vec<Affinity>,
    /// True if node ports answer on `localhost`, for which there are chains.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    localhost: bool,
    elements: Vec<Element>,
}

impl SavedTable {
    fn sets(&self) -> impl Iterator<Item = SetId> {
        let of_classes = self.affinities.iter().map(|affinity| SetId::Affinity(*affinity));
        SetId::CONSTANT.into_iter().chain(of_classes)
    }

    fn chains(&self) -> impl Iterator<Item = ChainId> {
        let of_classes = self.affinities.iter().map(|affinity| ChainId::Affinity(*affinity));
        let of_localhost = ChainId::OF_LOCALHOST.into_iter().filter(|_| self.localhost);
        ChainId::constant().chain(of_classes).chain(of_localhost)
    }
}

impl Snapshot {
    /// Creates a snapshot of a program and the model it was compiled from.
    pub fn of(program: &Program, model: &Model) -> Self {
        let objects = Some(SavedObject::all(model));
        Self::new(&program.state(), program.settings(), objects)
    }

    /// Creates a snapshot of a state; the objects are those it was compiled from, if they are
    /// known.
    pub fn new(state: &State, settings: &Settings, objects: Option<Vec<SavedObject>>) -> Self {
        let tables = state.tables.iter().map(|(family, table)| {
            let affinities = table.sets.iter().filter_map(|set| set.affinity()).collect();
            let elements = table.elements.iter().map(|(key, held)| held.element(*key));
            let (localhost, elements) = (table.serves_localhost(), elements.collect());
            (*family, SavedTable { affinities, localhost, elements })
        });
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            settings: settings.clone(),
            tables: tables.collect(),
            ipvs: state.ipvs.clone(),
            objects,
            incomplete: Vec::new(),
        }
    }

    /// Notes what could not be read or used, for whoever reads it.
    pub fn lacking<'a>(self, errors: impl Iterator<Item = &'a Problem>) -> Self {
        Self { incomplete: errors.cloned().collect(), ..self }
    }

    /// Returns what could not be read or used when it was made.
    pub fn incomplete(&self) -> &[Problem] {
        &self.incomplete
    }

    /// Returns whether the start of the file says that it is a snapshot, of whatever version and
    /// however broken. A snapshot that was read as a manifest would look like one without Services.
    pub fn is_one(path: &Path) -> bool {
        let mut start = Vec::new();
        let is_file = fs::metadata(path).is_ok_and(|data| data.is_file());
        if !is_file
            || fs::File::open(path).and_then(|f| f.take(512).read_to_end(&mut start)).is_err()
        {
            return false;
        }
        Self::begins(&start)
    }

    /// Returns whether a text begins like a snapshot.
    pub fn begins(text: &[u8]) -> bool {
        let start = text.get(..512).unwrap_or(text);
        let start: String =
            String::from_utf8_lossy(start).chars().filter(|c| !c.is_whitespace()).collect();
        start.starts_with('{') && start.contains(&format!("\"kind\":\"{KIND}\""))
    }

    /// Checks that a snapshot that was not read from a file can be used.
    ///
    /// # Errors
    ///
    /// If it is of an unknown version, or holds what a kernel could not hold.
    pub fn checked(self) -> anyhow::Result<Self> {
        anyhow::ensure!(
            self.api_version == API_VERSION && self.kind == KIND,
            "{} {} is not {API_VERSION} {KIND}",
            self.api_version,
            self.kind
        );
        self.check()?;
        Ok(self)
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is of an unknown version, or holds what a kernel could not hold.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = fs::File::open(path)?;
        let snapshot: Self = serde_json::from_reader(std::io::BufReader::new(file))?;
        snapshot.checked()
    }

    /// Checks that a kernel could hold it: builds it in the reference implementation, which refuses
    /// what a kernel would refuse.
    fn check(&self) -> anyhow::Result<()> {
        for (family, saved) in &self.tables {
            let (table, family) = (nft_text::table(*family), *family);
            if let Some(alien) = saved.elements.iter().find(|it| it.key.family() != family) {
                anyhow::bail!(
                    "table {table} holds an element of table {}: {}",
                    nft_text::table(alien.key.family()),
                    nft_text::element(alien)
                );
            }
            let ops = iter::once(nft::Op::AddTable(family))
                .chain(saved.sets().map(|set| nft::Op::AddSet(family, set)))
                .chain(saved.chains().map(|chain| nft::Op::AddChain(family, chain)))
                .chain(saved.chains().map(|chain| nft::Op::FillChain(family, chain)))
                .chain(saved.elements.iter().cloned().map(nft::Op::Add));
            let delta =
                Delta { shared: ops.map(Op::from).collect::<Vec<Op>>().into(), ..Delta::default() };
            if let Err(violation) = State::default().apply(&delta) {
                let mark = self.settings.masquerade_bit.mark();
                let command = violation.op.commands(mark);
                anyhow::bail!(
                    "table {table} is impossible: {}: {}",
                    violation.reason,
                    command.trim_end()
                );
            }
        }
        Ok(())
    }

    /// Writes it, so that a reader sees either the old file or the new one, never half of it.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec(self)?;
        replace_file(path, 0o666, |file| file.write_all(&text))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Returns the settings it was compiled with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the state.
    pub fn state(&self) -> State {
        let tables = self.tables.iter().map(|(family, saved)| {
            let elements = saved.elements.iter().map(|element| (element.key, element.into()));
            let table = Table {
                sets: saved.sets().collect(),
                chains: saved.chains().map(|chain| (chain, ChainContent::Complete)).collect(),
                elements: elements.collect(),
                foreign: Vec::new(),
            };
            (*family, table)
        });
        State { tables: tables.collect(), ipvs: self.ipvs.clone() }
    }

    /// Returns the model, if it is known.
    pub fn model(&self) -> Option<Model> {
        let mut model = Model::default();
        for SavedObject { origin, sourced } in self.objects.clone()? {
            model.apply(origin.unwrap_or(Origin::Manifests), Change::Apply(sourced));
        }
        Some(model)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rulec_compiler::name::NodeName;
    use serde_json::{Value as Json, json};

    use super::*;

    /// A snapshot of a Service in each family, one with affinity, as it is in the file.
    fn good() -> Json {
        let manifest = r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
             "spec": {"clusterIPs": ["10.96.0.10", "fd00:96::10"], "sessionAffinity": "ClientIP",
                      "ports": [{"port": 80}]}},
            {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
             "metadata": {"name": "web-4", "labels": {"kubernetes.io/service-name": "web"}},
             "ports": [{"name": "", "port": 8080}], "endpoints": [{"addresses": ["10.50.1.5"]}]},
            {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv6",
             "metadata": {"name": "web-6", "labels": {"kubernetes.io/service-name": "web"}},
             "ports": [{"name": "", "port": 8080}], "endpoints": [{"addresses": ["2001:db8:50::5"]}]}]}"#;
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("all.json"), manifest).unwrap();
        let reading = rulec_sources::read(directory.path()).unwrap();
        assert_eq!(reading.problems, []);
        let mut model = Model::default();
        model.apply(Origin::Manifests, Change::everything(reading.objects));
        let settings = Arc::new(Settings::new(NodeName::from("na")));
        let program = Program::compile(&model, settings, &State::default());
        serde_json::to_value(Snapshot::of(&program, &model)).unwrap()
    }

    fn read(json: &Json) -> anyhow::Result<Snapshot> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("snapshot.json");
        fs::write(&path, serde_json::to_vec(json).unwrap()).unwrap();
        Snapshot::read(&path)
    }

    /// The names of the families in the file.
    fn families(json: &Json) -> [String; 2] {
        let names = json["tables"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        names.try_into().unwrap()
    }

    /// The first element with this kind of key.
    fn position(elements: &Json, kind: &str) -> usize {
        let is_it = |element: &Json| element["key"].get(kind).is_some();
        elements.as_array().unwrap().iter().position(is_it).unwrap()
    }

    #[test]
    fn a_snapshot_round_trips() {
        let json = good();
        assert_eq!(serde_json::to_value(read(&json).unwrap()).unwrap(), json);
    }

    #[test]
    fn objects_keep_their_origin_and_older_snapshots_have_none() {
        let mut json = good();
        let origins = |json: &Json| {
            let model = read(json).unwrap().model().unwrap();
            model.services().map(|entry| entry.origin).collect::<Vec<_>>()
        };
        json["objects"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|it| it["origin"] = "api".into());
        assert_eq!(origins(&json), [Origin::Api]);
        let objects = json["objects"].as_array_mut().unwrap();
        objects.iter_mut().for_each(|it| drop(it.as_object_mut().unwrap().remove("origin")));
        assert_eq!(origins(&json), [Origin::Manifests]);
    }

    #[test]
    fn an_impossible_kernel_state_is_refused_with_a_reason() {
        let refused = |what: &str, damage: &dyn Fn(&mut Json, &mut Json)| {
            let mut json = good();
            let [v4, _] = families(&json);
            let mut table = json["tables"][&v4].take();
            let (mut classes, mut elements) =
                (table["affinities"].take(), table["elements"].take());
            damage(&mut classes, &mut elements);
            json["tables"][&v4] = json!({"affinities": classes, "elements": elements});
            let error = read(&json).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        };
        refused("table ip rulec", &|_, elements| {
            let json = good();
            let alien = json["tables"][&families(&json)[1]]["elements"][0].clone();
            elements.as_array_mut().unwrap().push(alien);
        });
        refused(
            "leads to a chain that does not exist: add element ip rulec classes",
            &|classes, _| {
                *classes = json!([]);
            },
        );
        refused("the set already exists: add map ip rulec affinity-10800", &|classes, _| {
            let twice = classes[0].clone();
            classes.as_array_mut().unwrap().push(twice);
        });
        refused("there is no such timeout", &|classes, _| {
            classes.as_array_mut().unwrap().push(json!({"timeout": 0, "map": 1}));
        });
        refused("the element already exists", &|_, elements| {
            let twice = elements[0].clone();
            elements.as_array_mut().unwrap().push(twice);
        });
        refused(
            "the value is not valid for the key: add element ip rulec services",
            &|_, elements| {
                let at = position(elements, "Service");
                elements[at]["value"] = json!("Present");
            },
        );
        refused(
            "the value is not valid for the key: add element ip rulec members",
            &|_, elements| {
                let at = position(elements, "Member");
                elements[at]["value"] = json!({"Backend": "[2001:db8::1]:80"});
            },
        );
        refused("the value is not valid for the key", &|_, elements| {
            let at = position(elements, "Class");
            elements[at]["value"] = json!("Present");
        });
    }
}
