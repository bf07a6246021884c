//! The man pages: the help of each command, and what only they say.

#[path = "../../../deploy/man/page.rs"]
mod page;
#[path = "../../../deploy/man/sections.rs"]
mod sections;

use std::collections::BTreeSet;

use clap::CommandFactory;
use rulec::cli::Cli;
use rulec::config::options::SocketArgs;

use super::read;
use sections::{PAGES, Page};

fn pages() -> Vec<(String, String)> {
    page::pages(Cli::command()).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Returns the command of a page.
fn command(page: &Page) -> clap::Command {
    let mut all = Cli::command();
    all.build();
    if page.command.is_empty() { all } else { all.find_subcommand(page.command).unwrap().clone() }
}

#[test]
fn every_command_has_a_page_with_every_section() {
    let pages = pages();
    let command = Cli::command();
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    let mut files: Vec<String> = commands.map(|it| format!("rulec-{}.1", it.get_name())).collect();
    files.insert(0, "rulec.1".to_owned());
    assert_eq!(pages.iter().map(|(file, _)| file.clone()).collect::<Vec<_>>(), files);
    for (file, text) in pages {
        let found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        let commands = if file == "rulec.1" { &["SUBCOMMANDS"][..] } else { &[] };
        let first = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"];
        let last = ["EXAMPLES", "\"EXIT STATUS\"", "FILES", "ENVIRONMENT", "\"SEE ALSO\""];
        assert_eq!(found, [&first[..], commands, &last].concat(), "{file}");
        if file == "rulec-run.1" {
            assert!(text.contains("\n.SS \"IPVS mode\"\n"), "options are in groups");
            assert!(text.contains("\n.SH SYNOPSIS\n\\fBrulec run\\fR [OPTIONS]\n"), "{text}");
        }
    }
}

/// What `man` would warn of.
#[test]
fn the_pages_are_well_formed() {
    for (file, text) in pages() {
        let mut open: Vec<&str> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let place = format!("{file}:{number}: {line:?}");
            assert!(!line.is_empty() && !line.starts_with('\'') && line.is_ascii(), "{place}");
            let Some(request) = line.strip_prefix('.') else { continue };
            match request.split(' ').next().unwrap() {
                "RS" => open.push("RE"),
                "nf" => open.push("fi"),
                end @ ("RE" | "fi") => assert_eq!(open.pop(), Some(end), "{place}"),
                "TH" | "SH" | "SS" | "PP" | "TP" | "IP" | "br" => {}
                // They say how roff writes quotes, at the head of a page.
                "ie" | "el" => assert!(number < 3, "{place}"),
                _ => panic!("{place}: what is that?"),
            }
        }
        assert_eq!(open, [""; 0], "{file}");
    }
}

#[test]
fn every_example_is_a_valid_command_line() {
    for page in PAGES {
        for (what, line) in page.examples {
            assert!(what.ends_with(':'), "{what}");
            let line =
                line.strip_prefix("source <(").map_or(*line, |line| line.trim_end_matches(')'));
            let words = line.split(' ').map(Into::into);
            if let Err(error) = Cli::read(words) {
                panic!("{line}: {error}");
            }
            let name = line.split(' ').nth(1).unwrap();
            assert!(page.command.is_empty() || page.command == name, "{line}");
        }
        assert!(!page.examples.is_empty(), "{}", page.command);
    }
}

#[test]
fn every_variable_that_sets_an_option_is_named() {
    for page in PAGES {
        let named: BTreeSet<&str> = page.environment.iter().map(|(name, _)| *name).collect();
        let command = command(page);
        for variable in command.get_arguments().filter_map(clap::Arg::get_env) {
            let variable = variable.to_str().unwrap();
            assert!(named.contains(variable), "{}: {variable}", command.get_name());
        }
    }
}

#[test]
fn the_files_are_those_of_the_program_and_of_the_package() {
    let all: BTreeSet<&str> = PAGES.iter().flat_map(|page| page.files).map(|row| row.0).collect();
    assert!(all.contains(SocketArgs::DEFAULT));
    let package = read("Cargo.toml");
    for path in all.iter().filter(|path| path.starts_with("/usr/share/")) {
        let (directory, _) = path[1..].rsplit_once('/').unwrap();
        assert!(package.contains(directory), "{path}");
    }
    let state = Cli::command().find_subcommand("show").unwrap().clone();
    let state = state.get_arguments().find(|arg| arg.get_long() == Some("state-dir")).unwrap();
    assert!(all.contains(state.get_default_values()[0].to_str().unwrap()));
}

/// A status that the help of a command names has a row of its page.
#[test]
fn exit_statuses_of_the_help_are_in_the_table() {
    for page in PAGES {
        let help = command(page).get_long_about().map(ToString::to_string).unwrap_or_default();
        let Some((_, statuses)) = help.split_once("Exits with ") else { continue };
        let digits = statuses.split(|it: char| !it.is_ascii_digit()).filter(|it| !it.is_empty());
        let named: BTreeSet<&str> = digits.collect();
        let rows: BTreeSet<&str> = page.exit_status.iter().map(|row| row.0).collect();
        assert_eq!(named, rows, "{}", page.command);
    }
}
