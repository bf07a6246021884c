//! `rulec completions`: bash completes command lines with its script.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::CommandFactory;
use rulec::cli::Cli;
use rulec_testkit::{Namespace, require_root};
use tempfile::TempDir;

use crate::daemon::{Daemon, Manifests};
use crate::support::{RULEC, finish, service};

/// Calls the function of the script as bash does when the key is pressed at the end of a line: with
/// the line broken at the characters of COMP_WORDBREAKS.
const PRESS: &str = r#"
. "$SCRIPT"
exec 3>&2
[ "$(complete -p rulec)" = "complete -F _rulec rulec" ] || exit 9
COMP_LINE=$1 COMP_POINT=${#1}
compopt() { printf 'compopt %s\n' "$*" >&3; }
read -ra COMP_WORDS <<<"$(printf '%s' "$1" | sed 's/[=:]/ & /g')"
case $1 in *[\ =:]) COMP_WORDS+=('') ;; esac
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_rulec rulec "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
for reply in "${COMPREPLY[@]}"; do printf '%s\n' "$reply"; done
"#;

/// A user's bash, with rulec in the path.
struct Shell {
    directory: TempDir,
    socket: PathBuf,
}

impl Shell {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("own/rulec.sock");
        let mut command = Command::new(RULEC);
        command.args(["completions", "bash"]);
        let ran = finish(command);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
        fs::write(directory.path().join("script"), ran.stdout).unwrap();
        fs::create_dir_all(directory.path().join("bin")).unwrap();
        symlink(RULEC, directory.path().join("bin/rulec")).unwrap();
        Self { directory, socket }
    }

    /// Returns what bash completes the last word of a line with, and what it printed elsewhere.
    fn press(&self, line: &str) -> (Vec<String>, String) {
        let path = format!("{}:/usr/bin:/bin", self.directory.path().join("bin").display());
        let mut command = Command::new("bash");
        command.current_dir(self.directory.path()).env("PATH", path).env_remove("RULEC_LOG");
        command.env("SCRIPT", "./script").env("RULEC_SOCKET", &self.socket);
        command.args(["--norc", "-c", PRESS, "bash", line]);
        let ran = finish(command);
        assert_eq!(ran.status, 0, "{line}: {ran:?}");
        (ran.stdout.lines().map(str::to_owned).collect(), ran.stderr)
    }

    fn replies(&self, line: &str) -> Vec<String> {
        self.press(line).0
    }
}

#[test]
fn bash_completes_names_of_the_running_daemon() {
    if !require_root() {
        return;
    }
    let shell = Shell::new();
    let node = Namespace::new("completions");
    let file = [("web", "172.30.0.1"), ("web-admin", "172.30.0.2"), ("db", "172.30.0.3")]
        .map(|(name, address)| service(name, address, ""))
        .join("---\n");
    let manifests = Manifests::of(&file);
    let socket = shell.socket.to_str().unwrap().to_owned();
    let none = [""; 0];
    assert_eq!(shell.press("rulec show services "), (Vec::new(), String::new()), "no daemon");
    let daemon = Daemon::start(&node, &manifests.path(), &["--socket", &socket]);
    let all = ["default/db", "default/web", "default/web-admin"];
    assert_eq!(shell.press("rulec show services "), (all.map(str::to_owned).into(), String::new()));
    assert_eq!(shell.replies("rulec show services default/w"), all[1..]);
    assert_eq!(shell.replies("rulec show endpoints -o json we"), ["web", "web-admin"]);
    assert_eq!(shell.replies("rulec show services -n default d"), ["db"]);
    assert_eq!(shell.replies("rulec show services -n "), ["default"]);
    assert_eq!(shell.replies("rulec explain default/d"), ["default/db"]);
    assert_eq!(shell.replies("rulec trace default/d"), ["default/db"]);
    assert_eq!(shell.replies("rulec show node "), ["na"]);
    assert_eq!(shell.replies("rulec show sources m"), ["manifests"]);
    // Another socket than the variable's, in both forms.
    for option in ["--socket /nonexistent", "--socket=/nonexistent"] {
        assert_eq!(shell.replies(&format!("rulec show services {option} ")), none, "{option}");
    }
    daemon.stop();
    assert_eq!(shell.press("rulec show services "), (Vec::new(), String::new()), "it has ended");
}

#[test]
fn bash_completes_commands_options_values_and_files() {
    let shell = Shell::new();
    fs::create_dir(shell.directory.path().join("manifests")).unwrap();
    fs::write(shell.directory.path().join("my file"), "").unwrap();
    fs::write(shell.directory.path().join("main.yaml"), "").unwrap();
    let words = [
        ("rulec cl", &["cleanup"][..]),
        ("rulec show --outp", &["--output"]),
        ("rulec show services -o y", &["yaml"]),
        // Bash replaces only what follows the equals sign.
        ("rulec show services --output=y", &["yaml"]),
        ("rulec check --ignore syntax,not-r", &["syntax,not-read"]),
    ];
    let files = [
        ("rulec run --config ma", &["main.yaml", "manifests"][..]),
        ("rulec run --config=mai", &["main.yaml"]),
        ("rulec diff --cni-cache m", &["manifests"]),
        (
            "rulec diff --from ",
            &["api", "bin", "kernel", "main.yaml", "manifests", "my file", "script"],
        ),
        ("rulec check my\\ f", &["my file"]),
    ];
    for (lines, options) in [(&words, ""), (&files, "compopt -o filenames\n")] {
        for (line, replies) in lines {
            let (mut found, said) = shell.press(line);
            found.sort();
            assert_eq!(found, *replies, "{line}");
            // Bash quotes them, and adds slashes to directories.
            assert_eq!(said, options, "{line}");
        }
    }
}

/// A user does not wait for a daemon that does not answer.
#[test]
fn a_silent_daemon_is_not_waited_for() {
    let shell = Shell::new();
    fs::create_dir_all(shell.socket.parent().unwrap()).unwrap();
    let _listener = UnixListener::bind(&shell.socket).unwrap();
    let mut command = Command::new(RULEC);
    command.args(["complete", "--", "show", "services", ""]).env("RULEC_SOCKET", &shell.socket);
    let start = Instant::now();
    let ran = finish(command);
    let took = start.elapsed();
    assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (0, "words\n", ""));
    // It gives up after 150 ms; the rest is for a busy machine.
    assert!(took > Duration::from_millis(140) && took < Duration::from_secs(60), "{took:?}");
}

/// Where these shells are installed: 38 MB are much for two looks at the syntax.
#[test]
#[allow(clippy::print_stdout, reason = "it says what is not tested")]
fn zsh_and_fish_can_read_their_scripts() {
    for (shell, without_running) in [("zsh", "-n"), ("fish", "--no-execute")] {
        let mut command = Command::new(RULEC);
        command.args(["completions", shell]);
        let directory = TempDir::new().unwrap();
        let (good, bad) = (directory.path().join("good"), directory.path().join("bad"));
        fs::write(&good, finish(command).stdout).unwrap();
        fs::write(&bad, "echo )\n").unwrap();
        let read = |path| Command::new(shell).arg(without_running).arg(path).output();
        match (read(&good), read(&bad)) {
            (Ok(of_good), Ok(of_bad)) => {
                assert!(of_good.status.success(), "{shell}: {of_good:?}");
                assert!(!of_bad.status.success(), "{shell} finds no fault: {of_bad:?}");
            }
            _ => println!("skipped: {shell} is not installed"),
        }
    }
}

#[test]
fn each_shell_has_a_script() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let options =
        run.get_arguments().filter(|it| !it.is_hide_set()).filter_map(clap::Arg::get_long);
    let options: Vec<&str> = options.collect();
    for (shell, is_asking) in
        [("bash", true), ("zsh", true), ("fish", true), ("elvish", false), ("powershell", false)]
    {
        let mut command = Command::new(RULEC);
        command.args(["completions", shell]);
        let ran = finish(command);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
        assert_eq!(ran.stdout.contains(" complete -- "), is_asking, "{shell}");
        let is_listed = |option: &&str| ran.stdout.contains(&format!("--{option}"));
        assert!(is_asking || options.iter().all(is_listed), "{shell}");
    }
    let mut command = Command::new(RULEC);
    command.args(["completions", "cmd.exe"]);
    let ran = finish(command);
    assert_eq!(ran.status, 3);
    assert!(ran.stderr.contains("bash"), "it lists the known shells: {}", ran.stderr);
}
