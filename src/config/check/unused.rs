//! Rules for fields and options that have no effect.

use crate::config::check::read::duration;
use crate::config::duration::GoDuration;
use crate::config::options::RunArgs;
use crate::config::value::Typed;
use crate::config::values::Values;

/// Checks fields without an effect, too: a file must still be valid when it is given to kube-proxy
/// again.
pub(super) fn check(values: &mut Values) {
    const CONFIG_SYNC: &str = "configSyncPeriod";
    if duration(values, CONFIG_SYNC) <= GoDuration::ZERO {
        values.refuse(CONFIG_SYNC, "must be more than 0");
    }
    const BURST: &str = "clientConnection.burst";
    if matches!(values.look(BURST), Some(Typed::Int(..0))) {
        values.refuse(BURST, "must not be negative");
    }
    for path in ["iptables.masqueradeBit", "nftables.masqueradeBit"] {
        if matches!(values.look(path), Some(Typed::Int(..0 | 32..))) && !values.is_refused(path) {
            values.refuse(path, "must be between 0 and 31");
        }
    }
}

/// Warns of options for a source that there is not, or for a state that is not kept.
pub(super) fn options(values: &mut Values, run: &RunArgs, has_api: bool) {
    if run.rescan_seconds.is_some() && run.manifests.is_empty() && run.state_file.is_none() {
        values.option_unused("--rescan-seconds", "there are no manifests");
    }
    const GRACE: &str = "--state-grace-seconds";
    match run.state_grace_seconds {
        Some(_) if !has_api => values.option_unused(GRACE, "no API server is waited for"),
        Some(_) if run.state_dir.is_none() => {
            values.option_unused(GRACE, "there is no --state-dir");
        }
        Some(_) | None => {}
    }
}
