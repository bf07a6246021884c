//! The requests of clients, from the server's audit log.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::journal::Request;
use crate::resource::{Resource, Verb};

/// The log, to which the server appends a line for each stage of each request.
#[derive(Debug)]
pub(super) struct Audit {
    log: PathBuf,
    /// The offset at which the log of the current process begins: earlier requests that had not
    /// ended will never be logged as complete.
    begin: AtomicUsize,
}

impl Audit {
    pub(super) fn new(directory: &Path) -> Self {
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
            "rules": [
                // The test itself, and the server's requests to itself.
                { "level": "None", "userGroups": ["system:masters"] },
                { "level": "Metadata" },
            ],
        });
        fs::write(policy_path(directory), policy.to_string()).expect("the policy is written");
        Self { log: log_path(directory), begin: AtomicUsize::new(0) }
    }

    /// Returns the arguments that make a server write the log.
    pub(super) fn arguments(directory: &Path) -> [String; 3] {
        [
            format!("--audit-policy-file={}", policy_path(directory).display()),
            format!("--audit-log-path={}", log_path(directory).display()),
            "--audit-log-mode=blocking".to_owned(),
        ]
    }

    /// Marks that the server that wrote the log so far has ended.
    pub(super) fn begin_anew(&self) {
        self.begin.store(self.text().len(), Ordering::Release);
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        let received = stages(&self.text(), "RequestReceived");
        received.into_iter().filter_map(|event| request(&event)).collect()
    }

    /// Returns the requests that were answered with a code.
    pub(super) fn answered(&self, code: u16) -> Vec<String> {
        let complete = stages(&self.text(), "ResponseComplete").into_iter();
        complete
            .filter(|event| event["responseStatus"]["code"] == code)
            .map(|event| format!("{} {}", event["verb"], event["requestURI"]))
            .collect()
    }

    /// Counts the watches whose answer has begun and not ended.
    pub(super) fn open_watches(&self, resource: Resource) -> usize {
        let text = self.text();
        let text = text.get(self.begin.load(Ordering::Acquire)..).unwrap_or_default();
        let mut open = BTreeMap::new();
        for event in stages(text, "ResponseStarted") {
            let is_it = request(&event).is_some_and(|request| {
                (request.verb, request.resource) == (Verb::Watch, Some(resource))
            });
            if is_it {
                open.insert(event["auditID"].to_string(), ());
            }
        }
        for event in stages(text, "ResponseComplete") {
            open.remove(&event["auditID"].to_string());
        }
        open.len()
    }

    fn text(&self) -> String {
        // There is no log before the first request.
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn policy_path(directory: &Path) -> PathBuf {
    directory.join("audit-policy.json")
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("audit.log")
}

/// Returns the events of a stage. A line that is still being written is skipped.
fn stages(text: &str, stage: &str) -> Vec<Value> {
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["stage"] == stage).collect()
}

fn request(event: &Value) -> Option<Request> {
    let verb = match event["verb"].as_str()? {
        "create" => Verb::Create,
        "delete" => Verb::Delete,
        "get" => Verb::Get,
        "list" => Verb::List,
        "patch" => Verb::Patch,
        "update" => Verb::Update,
        "watch" => Verb::Watch,
        _ => return None,
    };
    let resource = event["objectRef"]["resource"].as_str();
    let uri = event["requestURI"].as_str()?;
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    Some(Request {
        verb,
        resource: Resource::ALL.into_iter().find(|known| Some(known.plural()) == resource),
        path: path.to_owned(),
        query: query.to_owned(),
    })
}
