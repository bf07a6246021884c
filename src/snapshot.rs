//! Snapshots: what a kernel holds or should hold, in a file.
//!
//! A snapshot has the elements, slots included, so that it represents a kernel exactly; and, if it
//! was made from manifests, the objects they were compiled from, so that reasons can be given.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::iter;
use std::path::Path;

use anyhow::Context;
use rulec_compiler::change::{Change, Origin, Sourced};
use rulec_compiler::ipvs;
use rulec_compiler::net::Family;
use rulec_compiler::nft::chain::ChainId;
use rulec_compiler::nft::element::Element;
use rulec_compiler::nft::set::SetId;
use rulec_compiler::nft::{self, text as nft_text};
use rulec_compiler::state::{ChainContent, State, Table};
use rulec_compiler::{Delta, Model, Op, Program, Settings};
use serde::{Deserialize, Serialize};

const API_VERSION: &str = "rulec.io/v1alpha1";
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
    objects: Option<Vec<Sourced>>,
}

/// A table. Its constant parts are not saved.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedTable {
    picks: Vec<ChainId>,
    elements: Vec<Element>,
}

impl Snapshot {
    /// Creates a snapshot of a program and the model it was compiled from.
    pub fn of(program: &Program, model: &Model) -> Self {
        let objects = Some(model.objects().collect());
        Self::new(&program.state(), program.settings(), objects)
    }

    /// Creates a snapshot of a state; the objects are those it was compiled from, if they are
    /// known.
    pub fn new(state: &State, settings: &Settings, objects: Option<Vec<Sourced>>) -> Self {
        let tables = state.tables.iter().map(|(family, table)| {
            let is_pick = |chain: &&ChainId| matches!(chain, ChainId::Pick(..));
            let picks = table.chains.keys().filter(is_pick).copied().collect();
            let elements = table.elements.iter().map(|(key, held)| held.element(*key));
            (*family, SavedTable { picks, elements: elements.collect() })
        });
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            settings: settings.clone(),
            tables: tables.collect(),
            ipvs: state.ipvs.clone(),
            objects,
        }
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
        let start: String =
            String::from_utf8_lossy(&start).chars().filter(|c| !c.is_whitespace()).collect();
        start.starts_with('{') && start.contains(&format!("\"kind\":\"{KIND}\""))
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is of an unknown version, or holds what a kernel could not hold.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = fs::File::open(path)?;
        let snapshot: Self = serde_json::from_reader(std::io::BufReader::new(file))?;
        anyhow::ensure!(
            snapshot.api_version == API_VERSION && snapshot.kind == KIND,
            "{} {} is not {API_VERSION} {KIND}",
            snapshot.api_version,
            snapshot.kind
        );
        snapshot.check()?;
        Ok(snapshot)
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
            let chains = || ChainId::CONSTANT.iter().chain(&saved.picks);
            let ops = iter::once(nft::Op::AddTable(family))
                .chain(SetId::ALL.map(|set| nft::Op::AddSet(family, set)))
                .chain(chains().map(|chain| nft::Op::AddChain(family, *chain)))
                .chain(chains().map(|chain| nft::Op::FillChain(family, *chain)))
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
        let mut name = path.file_name().context("the path names no file")?.to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        let text = serde_json::to_vec(self)?;
        fs::write(&new, text).with_context(|| format!("writing {}", new.display()))?;
        fs::rename(&new, path).with_context(|| format!("writing {}", path.display()))
    }

    /// Returns the settings it was compiled with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the state.
    pub fn state(&self) -> State {
        let tables = self.tables.iter().map(|(family, saved)| {
            let chains = ChainId::CONSTANT.iter().chain(&saved.picks);
            let elements = saved.elements.iter().map(|element| (element.key, element.into()));
            let table = Table {
                sets: SetId::ALL.into_iter().collect(),
                chains: chains.map(|chain| (*chain, ChainContent::Complete)).collect(),
                elements: elements.collect(),
                foreign: Vec::new(),
            };
            (*family, table)
        });
        State { tables: tables.collect(), ipvs: self.ipvs.clone() }
    }

    /// Returns the model, if it is known.
    pub fn model(&self) -> Option<Model> {
        let objects = self.objects.clone()?;
        let mut model = Model::default();
        model.apply(Origin::Manifests, Change::everything(objects));
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
    fn an_impossible_kernel_state_is_refused_with_a_reason() {
        let refused = |what: &str, damage: &dyn Fn(&mut Json, &mut Json)| {
            let mut json = good();
            let [v4, _] = families(&json);
            let mut table = json["tables"][&v4].take();
            let (mut picks, mut elements) = (table["picks"].take(), table["elements"].take());
            damage(&mut picks, &mut elements);
            json["tables"][&v4] = json!({"picks": picks, "elements": elements});
            let error = read(&json).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        };
        refused("table ip rulec", &|_, elements| {
            let json = good();
            let alien = json["tables"][&families(&json)[1]]["elements"][0].clone();
            elements.as_array_mut().unwrap().push(alien);
        });
        refused("leads to a chain that does not exist: add element ip rulec picks", &|picks, _| {
            *picks = json!([]);
        });
        refused("the chain already exists: add chain ip rulec", &|picks, _| {
            let twice = picks[0].clone();
            picks.as_array_mut().unwrap().push(twice);
        });
        refused("the chain already exists: add chain ip rulec dispatch", &|picks, _| {
            picks.as_array_mut().unwrap().push(json!("Dispatch"));
        });
        refused("has no code", &|picks, _| {
            let mut other = picks[0].clone();
            other["Pick"][2]["backends"] = json!(0);
            picks.as_array_mut().unwrap().push(other);
        });
        refused("the element already exists", &|_, elements| {
            let twice = elements[0].clone();
            elements.as_array_mut().unwrap().push(twice);
        });
        refused(
            "the value is not valid for the key: add element ip rulec services",
            &|_, elements| {
                let at = position(elements, "Service");
                elements[at]["value"] = json!({"Id": 7});
            },
        );
        refused(
            "the value is not valid for the key: add element ip rulec endpoints",
            &|_, elements| {
                let at = position(elements, "Endpoint");
                elements[at]["value"] = json!({"Backend": "[2001:db8::1]:80"});
            },
        );
        refused("the value is not valid for the key", &|_, elements| {
            let at = position(elements, "Pick");
            elements[at]["value"] = json!("Present");
        });
    }
}
