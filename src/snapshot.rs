//! Snapshots: what a kernel holds or should hold, in a file.
//!
//! A snapshot has the elements, slots included, so that it stands for a kernel exactly; and, if it
//! was made from manifests, the objects they were compiled from, so that reasons can be given.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use rulec_compiler::change::{Change, Origin, Sourced};
use rulec_compiler::net::Family;
use rulec_compiler::nft::Program;
use rulec_compiler::nft::element::Element;
use rulec_compiler::nft::skeleton::{ChainId, SetId};
use rulec_compiler::nft::state::{State, Table};
use rulec_compiler::{Model, Settings};
use serde::{Deserialize, Serialize};

const API_VERSION: &str = "rulec.io/v1alpha1";
const KIND: &str = "Snapshot";

/// A snapshot as it stands in the file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Snapshot {
    api_version: String,
    kind: String,
    /// What it was compiled with.
    settings: Settings,
    /// The tables, by family.
    tables: BTreeMap<Family, SavedTable>,
    /// The objects it was compiled from, if they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    objects: Option<Vec<Sourced>>,
}

/// A table: its constant parts go without saying.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedTable {
    picks: Vec<ChainId>,
    elements: Vec<Element>,
}

impl Snapshot {
    /// A snapshot of a program and the model it was compiled from.
    pub fn of(program: &Program, model: &Model) -> Self {
        let objects = Some(model.objects().collect());
        Self::new(&program.state(), program.settings(), objects)
    }

    /// A snapshot of a state; the objects are those it was compiled from, if they are known.
    pub fn new(state: &State, settings: &Settings, objects: Option<Vec<Sourced>>) -> Self {
        let tables = state.tables.iter().map(|(family, table)| {
            let is_pick = |chain: &&ChainId| matches!(chain, ChainId::Pick(..));
            let picks = table.chains.keys().filter(is_pick).copied().collect();
            let elements = table.elements.iter().map(|(key, (value, comment))| Element {
                key: *key,
                value: *value,
                comment: comment.clone(),
            });
            (*family, SavedTable { picks, elements: elements.collect() })
        });
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            settings: settings.clone(),
            tables: tables.collect(),
            objects,
        }
    }

    /// Whether the file is meant to be a snapshot, whatever its version and however broken: a look at
    /// its start. A snapshot that was taken for a manifest would pass for one without Services.
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
    /// If it cannot be read, or is of a version this program does not know.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = fs::File::open(path)?;
        let snapshot: Self = serde_json::from_reader(std::io::BufReader::new(file))?;
        anyhow::ensure!(
            snapshot.api_version == API_VERSION && snapshot.kind == KIND,
            "{} {} is not {API_VERSION} {KIND}",
            snapshot.api_version,
            snapshot.kind
        );
        Ok(snapshot)
    }

    /// Writes it, so that a reader sees the old file or the new one, never half of it.
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

    /// What it was compiled with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The state.
    pub fn state(&self) -> State {
        let tables = self.tables.iter().map(|(family, saved)| {
            let chains = ChainId::CONSTANT.iter().chain(&saved.picks);
            let elements = saved
                .elements
                .iter()
                .map(|element| (element.key, (element.value, element.comment.clone())));
            let table = Table {
                sets: SetId::ALL.into_iter().collect(),
                chains: chains.map(|chain| (*chain, true)).collect(),
                elements: elements.collect(),
                foreign: Vec::new(),
            };
            (*family, table)
        });
        State { tables: tables.collect() }
    }

    /// The model, if it is known.
    pub fn model(&self) -> Option<Model> {
        let objects = self.objects.clone()?;
        let mut model = Model::default();
        model.apply(Origin::Manifests, Change::everything(objects));
        Some(model)
    }
}
