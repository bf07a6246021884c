//! The configuration file of a running daemon comes to say something else.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::path::PathBuf;

use rulec_testkit::{Namespace, require_root};
use tempfile::TempDir;

use crate::daemon::{Daemon, Manifests, SETTLED};
use crate::support::{service, slice};

/// A daemon with a configuration file.
struct Configured {
    daemon: Daemon,
    node: Namespace,
    _manifests: Manifests,
    directory: TempDir,
}

impl Configured {
    fn start(name: &str) -> Self {
        let node = Namespace::new(name);
        let documents = [service("web", "10.96.0.10", ""), slice("web", &["10.50.1.5"])];
        let manifests = Manifests::of(&documents.join("---\n"));
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("config.conf");
        fs::write(&path, configuration("clusterCIDR: 10.50.0.0/16")).unwrap();
        let (path, read) = (path.to_str().unwrap(), manifests.path());
        let args = ["--config", path, "--manifests", read.to_str().unwrap()];
        let mut daemon = Daemon::spawn_with(&node, &args);
        daemon.wait_for(SETTLED);
        Self { daemon, node, _manifests: manifests, directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("config.conf")
    }

    /// Writes the file as a mounted ConfigMap changes, by a rename.
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
fn another_setting_is_taken_in_by_the_same_process() {
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
    // The one setting is all that was written: what is not masqueraded and what is a pod's, each
    // one range out and one in. The Service was not touched.
    let log = configured.daemon.log();
    let last = log.lines().rfind(|line| line.contains(" committed ")).unwrap();
    assert!(last.contains("operations=4 "), "{last}");
}

#[test]
fn what_cannot_be_used_or_means_the_same_changes_nothing() {
    if !require_root() {
        return;
    }
    let mut configured = Configured::start("no-reload");
    configured.write(&configuration("# A comment.\nclusterCIDR: \"10.50.0.0/16\""));
    configured.daemon.wait_for("the configuration file changed, and means the same");
    configured.write(&configuration("clusterCIDR: nonsense"));
    configured.daemon.wait_for("the configuration in force stays");
    let log = configured.daemon.log();
    assert!(log.contains("config.conf:5: clusterCIDR"), "{log}");
    fs::remove_file(configured.path()).unwrap();
    configured.write(&configuration("clusterCIDR: 10.50.0.0/16"));
    configured.daemon.wait_for_count("the configuration file changed, and means the same", 2);
    assert_eq!(configured.daemon.count(SETTLED), 1, "it did not start over");
}
