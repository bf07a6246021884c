//! Changes of the configuration file of a running daemon.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use rulec_testkit::{Namespace, require_root};
use tempfile::TempDir;

use crate::daemon::{COMMITTED, Daemon, LOG, Manifests, NODE_NAME, SETTLED};
use crate::health::Metrics;
use crate::support::{RULEC, service, slice};

/// A daemon with a configuration file.
struct Configured {
    daemon: Daemon,
    node: Namespace,
    _manifests: Manifests,
    directory: TempDir,
}

impl Configured {
    fn start(name: &str) -> Self {
        Self::of(name, RULEC.as_ref())
    }

    fn of(name: &str, program: &Path) -> Self {
        let node = Namespace::new(name);
        let documents = [service("web", "10.96.0.10", ""), slice("web", &["10.50.1.5"])];
        let manifests = Manifests::of(&documents.join("---\n"));
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("config.conf");
        fs::write(&path, configuration("clusterCIDR: 10.50.0.0/16")).unwrap();
        let (path, read) = (path.to_str().unwrap(), manifests.path());
        let args = ["run", "--node-name", NODE_NAME, "--config", path];
        let mut command = node.command(program, args);
        command.args(["--manifests", read.to_str().unwrap()]);
        command.env("RULEC_LOG", LOG).env("NO_COLOR", "1").env("RULEC_SOCKET", "");
        let mut daemon = Daemon::of(command);
        daemon.wait_for(SETTLED);
        Self { daemon, node, _manifests: manifests, directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("config.conf")
    }

    /// Replaces the file by a rename, as a mounted ConfigMap changes.
    fn write(&self, text: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.path()).unwrap();
    }

    fn unmasqueraded(&self) -> String {
        self.node.sh("nft list set ip rulec unmasqueraded-sources")
    }
}

fn configuration(more: &str) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
         healthzBindAddress: 127.0.0.1:10256\n{more}\n"
    )
}

#[test]
fn a_changed_setting_is_applied_by_the_same_process() {
    if !require_root() {
        return;
    }
    let mut configured = Configured::start("reload");
    let pid = configured.daemon.pid();
    assert!(configured.unmasqueraded().contains("10.50.0.0/16"), "{}", configured.unmasqueraded());
    configured.write(&configuration("clusterCIDR: 10.60.0.0/16"));
    configured.daemon.wait_for_count(SETTLED, 2);
    assert!(configured.unmasqueraded().contains("10.60.0.0/16"), "{}", configured.unmasqueraded());
    assert!(configured.daemon.is_running());
    assert_eq!(configured.daemon.pid(), pid);
    // Only the setting was written: for the set of addresses that are not masqueraded and for the
    // set of pods, one range out and one in. The Service was not touched.
    let log = configured.daemon.log();
    let last = log.lines().rfind(|line| line.contains(COMMITTED)).unwrap();
    assert!(last.contains("operations=4 "), "{last}");
}

/// As when the package is upgraded without a restart of the daemon.
#[test]
fn a_reload_works_after_the_program_file_is_deleted() {
    if !require_root() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let program = directory.path().join("rulec");
    fs::copy(RULEC, &program).unwrap();
    let mut configured = Configured::of("reload-gone", &program);
    fs::remove_file(&program).unwrap();
    configured.write(&configuration("clusterCIDR: 10.60.0.0/16"));
    configured.daemon.wait_for_count(SETTLED, 2);
    assert!(configured.unmasqueraded().contains("10.60.0.0/16"), "{}", configured.unmasqueraded());
}

#[test]
fn an_invalid_or_equivalent_configuration_changes_nothing() {
    if !require_root() {
        return;
    }
    let mut configured = Configured::start("no-reload");
    configured.write(&configuration("# A comment.\nclusterCIDR: \"10.50.0.0/16\""));
    configured.daemon.wait_for("the configuration file changed, but its meaning did not");
    configured.write(&configuration("clusterCIDR: nonsense"));
    configured.daemon.wait_for("keeping the current configuration");
    let log = configured.daemon.log();
    assert!(log.contains("config.conf:5: clusterCIDR"), "{log}");
    // A configuration with which the daemon could not start must not end it. A kernel with IPVS
    // accepts this one.
    if !Path::new("/proc/net/ip_vs").exists() {
        configured.write(&configuration("clusterCIDR: 10.50.0.0/16").replace("nftables", "ipvs"));
        configured.daemon.wait_for("this kernel has no IPVS");
    }
    assert!(configured.daemon.is_running());
    fs::remove_file(configured.path()).unwrap();
    configured.write(&configuration("clusterCIDR: 10.50.0.0/16"));
    configured.daemon.wait_for_count("the configuration file changed, but its meaning did not", 2);
    assert_eq!(configured.daemon.count(SETTLED), 1, "it did not start over");
}

#[test]
fn sighup_reloads_and_reports_the_result() {
    if !require_root() {
        return;
    }
    let mut configured = Configured::start("hangup");
    let pid = configured.daemon.pid();
    configured.daemon.signal("HUP");
    configured.daemon.wait_for("reload requested: keeping the configuration");
    assert_eq!(configured.daemon.count(SETTLED), 1, "it did not start over");
    // An unusable configuration is reported at every request, and as a metric for an alert.
    configured.write(&configuration("clusterCIDR: nonsense"));
    for times in 1..=2 {
        configured.daemon.signal("HUP");
        configured.daemon.wait_for_count("reload requested", 1 + times);
    }
    assert!(configured.daemon.count("keeping the current configuration") >= 2);
    let refused = || Metrics::of(&configured.node).value("rulec_config_refused", "");
    assert_eq!(refused(), 1.0);
    configured.write(&configuration("clusterCIDR: 10.60.0.0/16"));
    configured.daemon.signal("HUP");
    configured.daemon.wait_for_count(SETTLED, 2);
    assert!(configured.unmasqueraded().contains("10.60.0.0/16"), "{}", configured.unmasqueraded());
    assert!(configured.daemon.is_running());
    assert_eq!(configured.daemon.pid(), pid);
}

/// A signal without a handler ends a process, and starting over removes the old handlers.
#[test]
fn signals_do_not_end_a_restarting_process() {
    if !require_root() {
        return;
    }
    let mut configured = Configured::start("storm");
    for round in 1..=5 {
        configured.write(&configuration(&format!("clusterCIDR: 10.{}.0.0/16", 60 + round)));
        for _ in 0..60 {
            configured.daemon.signal("HUP");
            configured.daemon.signal("USR1");
        }
        configured.daemon.wait_for_count("restarting", round);
        // By then the daemon has read this configuration, so that the next one makes it start over
        // again.
        configured.daemon.wait_for_count("starting version", round + 1);
        assert!(configured.daemon.is_running(), "{}", configured.daemon.log());
    }
    configured.daemon.wait_for_count(SETTLED, 2);
    assert!(configured.daemon.is_running());
}
