//! The content of a row: the fields of its YAML. tests/cases/README.md explains them.

use std::collections::BTreeMap;
use std::fs;
use std::mem;
use std::path::Path;
use std::time::Duration;

use rulec_testkit::{Family, patience};
use serde::Deserialize;
use serde_json::Value;

use super::mirror::mirror;

/// Merge patches by names of objects, such as `Service web`.
pub(super) type Patches = BTreeMap<String, Value>;

/// A case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) case: u32,
    pub(super) title: String,
    /// A note for readers.
    #[serde(default, rename = "note")]
    _note: Option<String>,
    /// How kube-proxy differs, and why rulec does not do the same.
    #[serde(default)]
    pub(super) deviates: Option<String>,
    /// The families that the row is for; both if absent.
    #[serde(default)]
    pub(super) families: Option<Vec<String>>,
    /// The set of objects in objects.yaml with which the row begins.
    #[serde(default = "web")]
    pub(super) given: String,
    /// Patches to these objects at the start.
    #[serde(default)]
    pub(super) with: Patches,
    /// Options of the daemon that replace the usual ones.
    #[serde(default)]
    pub(super) args: Option<String>,
    /// The source of the objects.
    #[serde(default)]
    pub(super) source: ObjectSource,
    pub(super) steps: Vec<Step>,
    /// Differences in mode ipvs.
    #[serde(default)]
    pub(super) ipvs: Option<InIpvs>,
}

/// The differences of a row in mode ipvs.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct InIpvs {
    /// How the outcome differs, and why.
    pub(super) deviates: Option<String>,
    /// Why the case does not exist in this mode.
    pub(super) without: Option<String>,
    /// Options of the daemon that replace the row's.
    pub(super) args: Option<String>,
    /// The packets and their outcomes, by the number of the step.
    pub(super) packets: BTreeMap<usize, String>,
    /// The growth of metrics, by the number of the step.
    pub(super) metrics: BTreeMap<usize, BTreeMap<String, Growth>>,
    /// How many of the row's steps are run.
    pub(super) steps: Option<usize>,
}

/// The part of the kernel that chooses backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Nftables,
    Ipvs,
}

fn web() -> String {
    "web".to_owned()
}

/// The daemon's source of objects.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum ObjectSource {
    /// A directory of manifests.
    #[default]
    Files,
    /// An API server.
    Api,
}

/// An action and the expected state after it, in the order of the fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Step {
    /// A command on the node.
    pub(super) run: Option<String>,
    /// A text in the command's output.
    pub(super) prints: Option<String>,
    /// A text that must not be in its output.
    pub(super) lacks: Option<String>,
    /// For this number of seconds, another process owns the other family's table.
    pub(super) seize: Option<f64>,
    /// Another process listens on this port of the node.
    pub(super) occupy: Option<String>,
    /// The process closes the port again.
    pub(super) vacate: Option<String>,
    /// The resources for which the API server does not answer from now on.
    pub(super) silence: Option<Vec<String>>,
    /// The daemon is down during the following fields.
    pub(super) daemon: Option<Life>,
    /// The daemon restarts with these options.
    pub(super) args: Option<String>,
    /// Packets that are sent continuously during the following fields; all of them must be
    /// answered.
    pub(super) throughout: Option<String>,
    /// Patches of objects, applied together.
    pub(super) apply: Patches,
    /// Objects that are created with this change, and deleted before the daemon has seen them.
    pub(super) fleeting: Patches,
    /// Files of the directory: their content, or null to remove them.
    pub(super) files: BTreeMap<String, Option<String>>,
    /// Renames a file of the directory.
    pub(super) rename: Option<[String; 2]>,
    /// Removes the directory of manifests.
    pub(super) remove_directory: bool,
    /// Creates this number of slices of the Service `web`, one after the other, within 200 ms.
    pub(super) burst: Option<usize>,
    /// The growth of metrics during this step.
    pub(super) metrics: BTreeMap<String, Growth>,
    /// Seconds to wait.
    pub(super) wait: Option<f64>,
    pub(super) packets: Option<String>,
    /// The answers of health servers.
    pub(super) health: Vec<Health>,
    /// A text that the daemon logs eventually.
    pub(super) log: Option<String>,
    /// The note of an Event that the API server receives.
    pub(super) event: Option<String>,
}

/// How the daemon ends before it is started again.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Life {
    /// It is stopped with SIGTERM, and started again after objects have changed.
    Restarts,
    /// It is killed, and started again likewise.
    Crashes,
}

/// The growth of a metric.
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

/// A request to a health server, and its answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Health {
    pub(super) get: String,
    /// The status code; 0 if the port refuses connections.
    pub(super) status: u16,
    /// The value of `X-Load-Balancing-Endpoint-Weight`.
    #[serde(default)]
    pub(super) weight: Option<u32>,
    /// Fields of the body.
    #[serde(default)]
    pub(super) body: BTreeMap<String, Value>,
}

/// Returns the rows of a file of tests/cases in their IPv4 form.
pub(super) fn read(file: &str) -> Vec<Row> {
    values(file).into_iter().map(row).collect()
}

/// Returns one row for a family and a mode; `None` if it is not for that mode.
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

/// Multiplies the times in a row on slow machines: those it waits for, and those of its actions.
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

/// Returns a value in the form for a family.
pub(super) fn of_family(value: &Value, family: Family) -> Value {
    match family {
        Family::V4 => value.clone(),
        Family::V6 => {
            let mut mirrored = mirror(value);
            // These fields describe the row and are not mirrored.
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

/// Reads a file of tests/cases.
pub(super) fn yaml(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}
