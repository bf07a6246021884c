//! The help on the command line, on a terminal of 80 columns.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

use std::collections::BTreeSet;
use std::process::Command;

use clap::CommandFactory;
use rulec::cli::Cli;

use crate::support::{RULEC, finish};

/// Returns the help that a command line prints.
fn help(args: &[&str]) -> String {
    let mut command = Command::new(RULEC);
    command.env("COLUMNS", "80").args(args);
    // The help says what they are set to.
    for variable in ["KUBECONFIG", "RULEC_LOG", "RULEC_SOCKET", "STATE_DIRECTORY"] {
        command.env_remove(variable);
    }
    let ran = finish(command);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{args:?}");
    let wide = |line: &&str| line.chars().count() > 80;
    assert_eq!(ran.stdout.lines().find(wide), None, "{args:?}: for a terminal of 80 columns");
    ran.stdout
}

/// Returns the long names of options that a help describes.
fn options(help: &str) -> BTreeSet<&str> {
    let described = help.lines().filter_map(|line| {
        let line = line.trim_start_matches(' ');
        let (short, rest) = line.split_once("--")?;
        let is_name = short.is_empty() || (short.len() == 4 && short.starts_with('-'));
        is_name.then(|| rest.split(['[', '=', ' ']).next().unwrap())
    });
    described.collect()
}

#[test]
fn options_are_in_groups() {
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        insta::assert_snapshot!(format!("{name}-short"), help(&[name, "-h"]));
    }
    insta::assert_snapshot!("short", help(&["-h"]));
    insta::assert_snapshot!("run-long", help(&["run", "--help"]));
    insta::assert_snapshot!("run-all", help(&["run", "--help-all"]));
}

#[test]
fn options_without_effect_are_shown_only_if_all_are_asked_for() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let is_without_effect = |arg: &&clap::Arg| {
        arg.get_help().is_some_and(|help| help.to_string().starts_with("No effect: "))
    };
    let without: BTreeSet<&str> =
        run.get_arguments().filter(is_without_effect).filter_map(clap::Arg::get_long).collect();
    assert!(without.contains("config-sync-period"), "{without:?}");
    let all = help(&["run", "--help-all"]);
    for flag in ["-h", "--help"] {
        let shown = help(&["run", flag]);
        let hidden: BTreeSet<&str> = &options(&all) - &options(&shown);
        assert_eq!(hidden, without, "{flag}");
        assert!(!shown.contains("No effect: "), "{flag}");
    }
    let heading = "Options of kube-proxy that are accepted and have no effect:\n";
    let (with_effect, last) = all.split_once(heading).expect("the heading");
    assert_eq!(options(last), without, "nothing else is below the heading");
    assert_eq!(options(with_effect), options(&help(&["run", "--help"])));
}

/// Where the word is not an option, it is none.
#[test]
fn help_about_all_options_needs_nothing_else() {
    // `show` needs to know what, and `explain` needs a destination.
    for name in ["show", "explain"] {
        assert_eq!(help(&[name, "--help-all"]), help(&[name, "--help"]));
    }
    let mut command = Command::new(RULEC);
    command.args(["check", "--", "--help-all"]);
    let ran = finish(command);
    assert!(ran.stdout.contains("--help-all"), "a path that does not exist: {ran:?}");
    assert!(!ran.stdout.contains("Usage:"), "{}", ran.stdout);
}
