//! The files in `deploy/`: they parse, and agree with each other and with the program. Also the
//! daemon's protocol with the service manager.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

mod ci;
mod kubectl;
mod kubernetes;
mod man;
mod monitoring;
mod package;
mod relay;
mod service;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use rulec::cli::{Cli, Command, LogArgs, RunArgs};
use rulec::config::Surroundings;
use serde_json::Value;

/// Returns the path of a file of the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Reads a file of the repository.
fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Parses the documents of a YAML file of the repository.
fn yaml(name: &str) -> Vec<Value> {
    parse(name, &read(name))
}

fn parse(name: &str, text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the string at a JSON pointer.
fn string<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("no string at {pointer} of {value:#}"))
}

/// Returns the list at a JSON pointer.
fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let found = value.pointer(pointer).and_then(Value::as_array);
    found.unwrap_or_else(|| panic!("no list at {pointer} of {value:#}"))
}

/// Returns the member of a list that has a name.
fn named<'a>(value: &'a Value, pointer: &str, name: &str) -> &'a Value {
    let found = list(value, pointer).iter().find(|member| member["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {pointer} of {value:#}"))
}

/// Returns the strings of a list that may be absent.
fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().map(|member| member.as_str().unwrap())
}

/// Returns the object of a kind and name in a file.
fn object(file: &str, kind: &str, name: &str) -> Value {
    let mut found = yaml(file);
    found.retain(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    assert_eq!(found.len(), 1, "{kind} {name} in {file}");
    found.remove(0)
}

/// Returns the arguments of a container.
fn args(container: &Value) -> Vec<&str> {
    list(container, "/args").iter().map(|arg| arg.as_str().unwrap()).collect()
}

/// Returns what a ClusterRole grants, as `VERB RESOURCE.GROUP`.
fn granted(role: &Value) -> BTreeSet<String> {
    let mut granted = BTreeSet::new();
    for rule in list(role, "/rules") {
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                for verb in strings(&rule["verbs"]) {
                    granted.insert(format!("{verb} {resource}.{group}"));
                }
            }
        }
    }
    granted
}

/// Returns what the daemon finds in a Pod.
fn surroundings() -> Surroundings {
    Surroundings {
        hostname: "host".to_owned(),
        in_cluster: true,
        has_pods_api: |_| Ok(false),
        has_podman: |_| Ok(false),
        has_directory: |_| Ok(false),
    }
}

/// Parses the arguments of `rulec run`, which begin with `run`.
fn run_args(args: &[&str]) -> (RunArgs, LogArgs) {
    let all = ["rulec"].into_iter().chain(args.iter().copied());
    let cli = Cli::try_parse_from(all).unwrap_or_else(|error| panic!("{args:?}: {error}"));
    let Command::Run(run) = cli.command else { panic!("{args:?}: {:?}", cli.command) };
    (*run, cli.log)
}
