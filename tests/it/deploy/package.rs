//! The Debian package and its systemd unit.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::CommandFactory;
use rulec::cli::Cli;

use super::{path, read, run_args};

/// Returns the assignments of the unit, by section and key.
fn unit() -> BTreeMap<(String, String), Vec<String>> {
    let mut section = String::new();
    let mut found: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for line in read("deploy/systemd/rulec.service").lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            let key = (section.clone(), key.to_owned());
            found.entry(key).or_default().push(value.to_owned());
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{line}");
        }
    }
    found
}

fn value(section: &str, key: &str) -> String {
    let all = unit().remove(&(section.to_owned(), key.to_owned())).unwrap_or_default();
    assert_eq!(all.len(), 1, "{section}: {key}");
    all.join("")
}

/// Returns the value of the last line that begins with `RULEC_OPTIONS=`, without quotes.
fn options(text: &str) -> String {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("RULEC_OPTIONS="));
    line.expect("RULEC_OPTIONS is set").trim_matches('"').to_owned()
}

#[test]
fn the_unit_runs_the_installed_program_with_valid_options() {
    assert_eq!(value("Service", "ExecStart"), "/usr/bin/rulec run $RULEC_OPTIONS");
    let before = "+/usr/bin/rulec run --init-only $RULEC_OPTIONS";
    assert_eq!(value("Service", "ExecStartPre"), before);
    assert!(run_args(&["run", "--init-only"]).0.init_only);
    assert!(read("Cargo.toml").contains(r#"["target/release/rulec", "usr/bin/", "755"]"#));
    assert_eq!(value("Service", "Type"), "notify");
    let default = read("deploy/systemd/rulec.default");
    let set = options(value("Service", "Environment").trim_matches('"'));
    assert_eq!(set, options(&default), "the same with and without the file");
    let examples = default.lines().filter_map(|line| line.split_once("RULEC_OPTIONS="));
    let mut directories = BTreeSet::new();
    for (_, example) in examples {
        let words = example.trim_matches('"').split_whitespace();
        let args: Vec<&str> = ["run"].into_iter().chain(words).collect();
        directories.extend(run_args(&args).0.manifests);
    }
    assert_eq!(directories, [Path::new("/etc/rulec/manifests").to_owned()].into());
    let made = value("Service", "ConfigurationDirectory");
    assert!(made.split(' ').any(|directory| directory == "rulec/manifests"));
    assert!(read("deploy/debian/postinst").contains("/etc/rulec/manifests"));
}

/// The service manager sets the directory in the environment, and purging the package removes it.
#[test]
fn the_unit_has_a_directory_for_the_state() {
    assert_eq!(value("Service", "StateDirectory"), "rulec");
    // The file of names is in the one other directory that it may write to.
    let names = value("Service", "ReadWritePaths");
    let names = names.strip_prefix('-').expect("it need not exist").to_owned() + "/hosts";
    for file in ["deploy/systemd/rulec.default", "docs/without-api-server.md"] {
        assert!(read(file).contains(&format!("--hosts-file {names}")), "{file}");
    }
    let run = Cli::command();
    let run = run.find_subcommand("run").unwrap();
    let option = run.get_arguments().find(|option| option.get_long() == Some("state-dir"));
    let variable = option.and_then(clap::Arg::get_env).expect("it is read from the environment");
    assert_eq!(variable, "STATE_DIRECTORY");
    assert!(read("deploy/debian/postrm").contains("/var/lib/private/rulec /var/lib/rulec"));
}

#[test]
fn the_unit_has_a_directory_for_the_socket() {
    let directory = Path::new(rulec::config::options::SocketArgs::DEFAULT).parent().unwrap();
    assert_eq!(directory, Path::new("/run").join(value("Service", "RuntimeDirectory")));
    assert_eq!(value("Service", "RuntimeDirectoryMode"), "0700");
}

#[test]
fn the_unit_grants_one_capability() {
    assert_eq!(value("Service", "CapabilityBoundingSet"), "CAP_NET_ADMIN");
    for key in ["User", "DynamicUser"] {
        let given = unit().remove(&("Service".to_owned(), key.to_owned()));
        assert_eq!(given, None, "only root may connect to the kubelet and to podman");
    }
    assert_eq!(value("Service", "NoNewPrivileges"), "yes");
    assert_eq!(value("Service", "ProtectSystem"), "strict");
    let families = value("Service", "RestrictAddressFamilies");
    assert_eq!(families, "AF_NETLINK AF_INET AF_INET6 AF_UNIX");
}

#[test]
fn every_man_page_named_by_the_unit_exists() {
    let command = Cli::command();
    let mut pages: BTreeSet<String> =
        command.get_subcommands().map(|command| format!("rulec-{}", command.get_name())).collect();
    pages.insert("rulec".to_owned());
    for page in value("Unit", "Documentation").split(' ') {
        let name = page.strip_prefix("man:").and_then(|page| page.strip_suffix("(1)")).unwrap();
        assert!(pages.contains(name), "{page}");
    }
}

/// Returns every quoted path in a section of Cargo.toml, up to the next section.
fn quoted(section: &str) -> Vec<String> {
    let text = read("Cargo.toml");
    let (_, text) = text.split_once(&format!("[{section}]\n")).expect(section);
    let text = text.split("\n[package").next().unwrap();
    let sources = text.lines().filter_map(|line| line.trim().strip_prefix("[\""));
    sources.map(|line| line.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn every_file_of_the_package_exists_or_is_made_by_the_makefile() {
    let makefile = read("Makefile");
    let sources = quoted("package.metadata.deb");
    assert!(sources.len() > 5, "{sources:?}");
    for source in sources {
        let name = source.split('*').next().unwrap();
        if source.starts_with("target/deb/") {
            assert!(makefile.contains(name.trim_end_matches('/')), "{source}");
        } else if !source.starts_with("target/release/") {
            assert!(path(name).exists(), "{source}");
        }
    }
    for script in ["postinst", "prerm", "postrm"] {
        let text = read(&format!("deploy/debian/{script}"));
        assert!(text.contains("\n#DEBHELPER#\n"), "{script}: cargo-deb replaces this line");
        assert!(text.starts_with("#!/bin/sh\nset -e\n"), "{script}");
        assert!(accepted("sh", &text), "{script} is no script of a shell");
    }
}

/// Returns whether a shell can parse a script.
fn accepted(shell: &str, script: &str) -> bool {
    let mut child = Command::new(shell).args(["-n", "-s"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    child.wait().unwrap().success()
}
