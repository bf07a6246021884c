//! What a row of the table says: the fields of its YAML. tests/cases/README.md explains them.

use std::collections::BTreeMap;
use std::fs;
use std::mem;
use std::path::Path;
use std::time::Duration;

use rulec_testkit::{Family, patience};
use serde::Deserialize;
use serde_json::Value;

use super::mirror::mirror;

/// Names of objects, such as `Service web`, and what is said about them.
pub(super) type Patches = BTreeMap<String, Value>;

/// A case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) case: u32,
    pub(super) title: String,
    /// For readers.
    #[serde(default, rename = "note")]
    _note: Option<String>,
    /// What kube-proxy does otherwise, and why this is not done here.
    #[serde(default)]
    pub(super) deviates: Option<String>,
    /// The families it is for; both if it does not say.
    #[serde(default)]
    pub(super) families: Option<Vec<String>>,
    /// Which objects of objects.yaml there are.
    #[serde(default = "web")]
    pub(super) given: String,
    /// What is different about them from the start.
    #[serde(default)]
    pub(super) with: Patches,
    /// Options of the daemon, in place of the usual ones.
    #[serde(default)]
    pub(super) args: Option<String>,
    /// Where objects come from.
    #[serde(default)]
    pub(super) source: Source,
    pub(super) steps: Vec<Step>,
    /// What is different in mode ipvs.
    #[serde(default)]
    pub(super) ipvs: Option<InIpvs>,
}

/// What is different about a row in mode ipvs.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct InIpvs {
    /// What comes out otherwise, and why.
    pub(super) deviates: Option<String>,
    /// Why there is no such case.
    pub(super) without: Option<String>,
    /// Options of the daemon, in place of the row's.
    pub(super) args: Option<String>,
    /// What comes of packets, by the number of the step.
    pub(super) packets: BTreeMap<usize, String>,
    /// By how much metrics grow, likewise.
    pub(super) metrics: BTreeMap<usize, BTreeMap<String, Growth>>,
    /// How many of the steps there are.
    pub(super) steps: Option<usize>,
}

/// Who chooses backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Nftables,
    Ipvs,
}

fn web() -> String {
    "web".to_owned()
}

/// Where the daemon learns of objects.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// A directory of manifests.
    #[default]
    Files,
    /// An API server.
    Api,
}

/// Something that happens, and what is so afterwards: in the order of the fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Step {
    /// A command on the node.
    pub(super) run: Option<String>,
    /// What it prints.
    pub(super) prints: Option<String>,
    /// What it does not print.
    pub(super) lacks: Option<String>,
    /// For so many seconds, another process has the table of the other family for its own.
    pub(super) seize: Option<f64>,
    /// Another process takes this port of the node.
    pub(super) occupy: Option<String>,
    /// And gives it back.
    pub(super) vacate: Option<String>,
    /// What of the API server does not answer from now on: names of resources.
    pub(super) silence: Option<Vec<String>>,
    /// Whether the next part happens while there is no daemon.
    pub(super) daemon: Option<Life>,
    /// The daemon starts anew, with these options.
    pub(super) args: Option<String>,
    /// Packets that are sent without a pause while the next part happens: all of them must arrive.
    pub(super) throughout: Option<String>,
    /// Objects change, all at once.
    pub(super) apply: Patches,
    /// Objects that come with this change, and go before anybody has looked.
    pub(super) fleeting: Patches,
    /// Files of the directory: their text, or nothing to remove them.
    pub(super) files: BTreeMap<String, Option<String>>,
    /// A file of the directory gets another name.
    pub(super) rename: Option<[String; 2]>,
    /// The directory of manifests is removed.
    pub(super) remove_directory: bool,
    /// So many slices of other Services come one after the other, within 200 ms.
    pub(super) burst: Option<usize>,
    /// By how much metrics have grown since the last step.
    pub(super) metrics: BTreeMap<String, Growth>,
    /// Seconds to wait.
    pub(super) wait: Option<f64>,
    pub(super) packets: Option<String>,
    /// What health servers say.
    pub(super) health: Vec<Health>,
    /// What the daemon comes to log.
    pub(super) log: Option<String>,
    /// What the API server gets as an Event's note.
    pub(super) event: Option<String>,
}

/// What becomes of the daemon.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Life {
    /// It stops, and starts again after objects have changed.
    Restarts,
    /// The same, but as after a crash.
    Crashes,
}

/// By how much a metric grows.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Growth {
    By(f64),
    #[serde(rename_all = "camelCase")]
    AtLeast {
        at_least: f64,
    },
    #[serde(rename_all = "camelCase")]
    AtMost {
        at_most: f64,
    },
}

/// A question to a health server, and its answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Health {
    pub(super) get: String,
    /// The code; 0 if nobody listens.
    pub(super) status: u16,
    /// What `X-Load-Balancing-Endpoint-Weight` is.
    #[serde(default)]
    pub(super) weight: Option<u32>,
    /// Fields of the answer.
    #[serde(default)]
    pub(super) body: BTreeMap<String, Value>,
}

/// The rows of a file of tests/cases, each as it is for IPv4.
pub(super) fn read(file: &str) -> Vec<Row> {
    values(file).into_iter().map(row).collect()
}

/// One row, as it is for a family in a mode; `None` if it is not for that mode.
pub(super) fn find(file: &str, case: u32, family: Family, mode: Mode) -> Option<Row> {
    let mut row = any(file, case, family);
    if mode == Mode::Ipvs {
        let ipvs = row.ipvs.take().unwrap_or_default();
        if ipvs.without.is_some() {
            return None;
        }
        row.args = ipvs.args.or(row.args);
        row.steps.truncate(ipvs.steps.unwrap_or(usize::MAX));
        let (packets, mut metrics) = (ipvs.packets, ipvs.metrics);
        for (number, step) in (1..).zip(&mut row.steps) {
            step.packets = packets.get(&number).cloned().or_else(|| step.packets.take());
            step.metrics = metrics.remove(&number).unwrap_or_else(|| mem::take(&mut step.metrics));
        }
    }
    Some(row)
}

fn any(file: &str, case: u32, family: Family) -> Row {
    let value = values(file)
        .into_iter()
        .find(|row| row["case"] == case)
        .unwrap_or_else(|| panic!("{file} has no case {case}"));
    let mut value = of_family(&value, family);
    stretch(&mut value);
    row(value)
}

/// Where everything takes longer, times that a row waits for are longer, too, and those of what
/// happens meanwhile.
fn stretch(value: &mut Value) {
    let times = ["seize", "wait", "timeoutSeconds"];
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_u64().filter(|_| times.contains(&name.as_str())) {
                    Some(seconds) => {
                        *value = patience(Duration::from_secs(seconds)).as_secs().into()
                    }
                    None => stretch(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(stretch),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Objects, as they are for a family.
pub(super) fn of_family(value: &Value, family: Family) -> Value {
    match family {
        Family::V4 => value.clone(),
        Family::V6 => {
            let mut mirrored = mirror(value);
            // These words are about the row, not of it.
            for field in ["families", "note", "deviates", "title"] {
                if let Some(original) = value.get(field) {
                    mirrored[field] = original.clone();
                }
            }
            mirrored
        }
    }
}

fn row(value: Value) -> Row {
    let case = value["case"].clone();
    serde_json::from_value(value).unwrap_or_else(|error| panic!("case {case}: {error}"))
}

fn values(file: &str) -> Vec<Value> {
    yaml(file).as_array().unwrap_or_else(|| panic!("{file} is not a list")).clone()
}

/// A file of tests/cases.
pub(super) fn yaml(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}
