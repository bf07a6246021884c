//! What is the only source, if it is given: a recording or a state file. And where to record.

use std::path::PathBuf;

use rulec_sources::recording::{ReplayOptions, Speed};

use crate::config::check::read::text_if_given;
use crate::config::options::RunArgs;
use crate::config::values::Values;
use crate::config::{File, Recording, Surroundings};

/// How large a recording may be by default, in MiB.
const MIB: u64 = 64;

/// Returns where to record, if anywhere.
pub(super) fn recording(values: &mut Values, run: &RunArgs) -> Option<Recording> {
    let args = &run.recording;
    let Some(path) = args.to_file.clone() else {
        let given =
            [("--to-file-mib", args.to_file_mib.is_some()), ("--to-file-mask", args.to_file_mask)];
        for (option, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
            values.option_unused(option, "there is no --to-file");
        }
        return None;
    };
    if path.as_os_str().is_empty() {
        values.refuse_option("--to-file", "is empty: name a file");
    }
    if args.replay.as_ref() == Some(&path) {
        values.refuse_option("--to-file", "is the recording that is replayed: name another file");
    }
    let most = args.to_file_mib.unwrap_or(MIB) << 20;
    Some(Recording { path, most, is_masked: args.to_file_mask })
}

/// Returns what to replay, if anything. It is the only source then.
pub(super) fn replay(
    values: &mut Values,
    run: &RunArgs,
    file: Option<File<'_>>,
) -> Option<ReplayOptions> {
    let args = &run.recording;
    let Some(path) = args.replay.clone() else {
        let given = [
            ("--replay-speed", args.replay_speed.is_some()),
            ("--replay-from", args.replay_from.is_some()),
            ("--replay-until", args.replay_until.is_some()),
        ];
        for (option, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
            values.option_unused(option, "there is no --replay");
        }
        return None;
    };
    let why = "a recording is the only source, and has the settings";
    refuse_others(values, run, "--replay", why);
    for (option, is_given) in
        [("--state-file", run.state_file.is_some()), ("--config", file.is_some())]
    {
        if is_given {
            refuse(values, option, "--replay", why);
        }
    }
    if let (Some(from), Some(until)) = (args.replay_from, args.replay_until)
        && from > until
    {
        values.refuse_option("--replay-from", format!("is after --replay-until, {until}"));
    }
    Some(ReplayOptions {
        path,
        speed: args.replay_speed.unwrap_or(Speed::Times(1.0)),
        from: args.replay_from,
        until: args.replay_until,
    })
}

/// Returns the file that is the whole source, if there is one.
pub(super) fn state_file(
    values: &mut Values,
    run: &RunArgs,
    surroundings: &Surroundings,
) -> Option<PathBuf> {
    const OPTION: &str = "--state-file";
    let path = run.state_file.clone()?;
    refuse_others(values, run, OPTION, "it is the whole source");
    match (surroundings.has_directory)(&path) {
        _ if path.as_os_str().is_empty() => values.refuse_option(OPTION, "is empty: name a file"),
        Ok(true) => {
            let message = format!("{} is a directory: --manifests reads it", path.display());
            values.refuse_option(OPTION, message);
        }
        // The source says what is wrong, and waits for it to end.
        Ok(false) | Err(_) => {}
    }
    Some(path)
}

/// Refuses options that name other sources.
fn refuse_others(values: &mut Values, run: &RunArgs, only: &str, why: &str) {
    let others = [
        ("--manifests", !run.manifests.is_empty()),
        ("--manifests-url", !run.urls.manifests_url.is_empty()),
        ("--relay", run.relay.relay.as_ref().is_some_and(|url| !url.is_empty())),
        ("--master", run.master.as_ref().is_some_and(|url| !url.is_empty())),
        ("--in-cluster", run.in_cluster),
        ("--kubelet", run.kubelet.kubelet == Some(true)),
        ("--kubelet-url", run.kubelet.kubelet_url.is_some()),
        ("--podman", run.podman.podman == Some(true)),
    ];
    for (option, _) in others.into_iter().filter(|(_, is_given)| *is_given) {
        refuse(values, option, only, why);
    }
    let kubeconfig = text_if_given(values, "clientConnection.kubeconfig");
    if kubeconfig.is_some_and(|path| !path.is_empty()) {
        refuse(values, "--kubeconfig", only, why);
    }
}

fn refuse(values: &mut Values, option: &str, only: &str, why: &str) {
    values.refuse_option(option, format!("cannot be combined with {only}: {why}"));
}
