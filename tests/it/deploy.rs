//! What is in `deploy/`: that it parses, that its parts agree with each other, and that it agrees with the
//! program. And what the program does for a service manager.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

mod kubernetes;
mod monitoring;
mod package;
mod service;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use rulec::cli::{Cli, Command, LogArgs, RunArgs};
use serde_json::Value;

/// A path of the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A file of the repository.
fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The documents of a YAML file of the repository.
fn yaml(name: &str) -> Vec<Value> {
    parse(name, &read(name))
}

fn parse(name: &str, text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What stands at a JSON pointer and is a string.
fn string<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("no string at {pointer} of {value:#}"))
}

/// What stands at a JSON pointer and is a list.
fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let found = value.pointer(pointer).and_then(Value::as_array);
    found.unwrap_or_else(|| panic!("no list at {pointer} of {value:#}"))
}

/// The member of a list with a name.
fn named<'a>(value: &'a Value, pointer: &str, name: &str) -> &'a Value {
    let found = list(value, pointer).iter().find(|member| member["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {pointer} of {value:#}"))
}

/// What the program makes of the arguments of `rulec run`, with `run` at their head.
fn run_args(args: &[&str]) -> (RunArgs, LogArgs) {
    let all = ["rulec"].into_iter().chain(args.iter().copied());
    let cli = Cli::try_parse_from(all).unwrap_or_else(|error| panic!("{args:?}: {error}"));
    let Command::Run(run) = cli.command else { panic!("{args:?}: {:?}", cli.command) };
    (run, cli.log)
}
