//! Command lines up to the word that is completed, and what can stand there. No daemon runs here.

use super::*;

/// Returns what can stand in the place of the last word of a command line, in one line.
fn found(line: &str) -> String {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let (paths, words) = complete(&words);
    let mut parts: Vec<String> = words.into_iter().map(|word| word.text).collect();
    if paths != Paths::None {
        parts.push(format!("+{}", paths.name()));
    }
    parts.join(" ")
}

#[test]
fn values_are_completed_by_their_type() {
    for (line, expected) in [
        ("sh", "show"),
        ("help st", "status"),
        ("show ", "services endpoints node sources"),
        ("show -o wide ", "services endpoints node sources"),
        ("show s", "services sources"),
        ("show services -o ", "text wide json yaml"),
        ("show services -oj", ""),
        ("show services --output=j", "json"),
        ("explain --state ", "api kernel +files"),
        ("explain --state k", "kernel +files"),
        ("explain --interface ", ""),
        ("diff --save ", "+files"),
        ("diff --cni-cache ", "+directories"),
        ("diff --state-dir=", "+directories"),
        ("check ", "+files"),
        ("check one two", "+files"),
        ("check -- --", "+files"),
        ("check --ignore unkn", "unknown-kind unknown-field unknown-target-port"),
        ("check --ignore syntax,unknown-k", "syntax,unknown-kind"),
        ("diff --proxy-mode i", "iptables ipvs"),
        ("run --proxy-mode i", "iptables ipvs"),
        ("run --detect-local-mode N", "NodeCIDR"),
        ("run --kubeconfig ", "+files"),
        ("run --manifests ", "+files"),
        ("run --load-balancing m", "maglev maglev-source"),
        ("run --maglev-table-size 1", "1021 16381"),
        ("run --ipvs-scheduler s", "sh sed"),
        ("run --ipvs-scheduler-flags sh", "sh-fallback sh-port"),
        ("run --masquerade-all=", "true false"),
        ("run --hostname-override ", ""),
        ("completions f", "fish"),
        (
            "nonsense ",
            "run diff explain trace check show status watch top history replay relay cleanup completions help",
        ),
    ] {
        assert_eq!(found(line), expected, "{line:?}");
    }
}

#[test]
fn options_are_completed_if_they_have_an_effect() {
    assert_eq!(found("run --config"), "--config");
    assert_eq!(found("run --conntrack-m"), "--conntrack-max-per-core --conntrack-min");
    assert_eq!(found("status --s"), "--socket");
    assert!(found("status ").starts_with("--socket --output "), "no word is missing but options");
    assert_eq!(found("run --masquerade-all --maglev"), "--maglev-table-size", "it takes no word");
    assert_eq!(found("run --no-such-option=x"), "");
    assert_eq!(found("cleanup extra w"), "");
}

#[test]
fn every_path_and_every_list_is_recognised() {
    let mut command = Cli::command();
    command.build();
    for command in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        for arg in command.get_arguments() {
            let name = arg.get_value_names().and_then(|names| names.first());
            let expected = match name.map(|name| name.as_str()) {
                Some("FILE" | "PATH") => Paths::Files,
                Some("DIRECTORY") => Paths::Directories,
                _ => continue,
            };
            let line = Line::read(command, &[]);
            let (paths, _) = values::of(arg, "", &line);
            assert_eq!(paths, expected, "{} {arg}", command.get_name());
        }
    }
}

#[test]
fn the_flags_of_schedulers_exist() {
    for name in values::SCHEDULER_FLAGS {
        let parsed = name.parse::<rulec_compiler::ipvs::SchedulerFlags>();
        assert!(parsed.is_ok_and(|flags| !flags.is_empty()), "{name}");
    }
}
