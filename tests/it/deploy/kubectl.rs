//! `kubectl rulec`, with a kubectl that answers for a cluster of four nodes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{path, string, yaml};
use crate::support::{Ran, finish};

/// What kubectl does: `na` is well, on `nb` something is wrong, `nc` does not answer, and `ne` has no
/// Pod.
const KUBECTL: &str = r#"#!/bin/sh
printf '%s\n' "$*" >>"$ASKED"
while :; do case $1 in --context=* | --kubeconfig=* | --request-timeout=*) shift ;; *) break ;; esac; done
case "$1 $2" in
"get pods") printf 'na rulec-1\nnb rulec-2\nnc rulec-3\n' ;;
"get nodes") printf 'na\nnb\nne\n' ;;
"exec --namespace")
    [ "$4 $5" = "--container rulec" ] || exit 64
    pod=$6
    shift 7
    case $pod in
    rulec-1) echo "na: $*" ;;
    rulec-2)
        echo "nb: $*"
        echo "rulec: said on nb" >&2
        echo "command terminated with exit code 2" >&2
        exit 2
        ;;
    rulec-3)
        echo "Error from server: error dialing backend: connection refused" >&2
        exit 1
        ;;
    esac
    ;;
*) exit 64 ;;
esac
"#;

struct Cluster(TempDir);

impl Cluster {
    fn new() -> Self {
        let cluster = Self(TempDir::new().unwrap());
        let kubectl = cluster.0.path().join("kubectl");
        fs::write(&kubectl, KUBECTL).unwrap();
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
        cluster
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("asked")
    }

    fn plugin(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(path("deploy/kubectl/kubectl-rulec"));
        let search = format!("{}:/usr/bin:/bin", self.0.path().display());
        command.env("PATH", search).env("ASKED", self.log()).env("TMPDIR", self.0.path());
        command.args(args);
        finish(command)
    }

    /// Returns the command lines of kubectl so far, and forgets them.
    fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let _ = fs::remove_file(self.log());
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_node_is_asked_in_its_pod() {
    let cluster = Cluster::new();
    let ran = cluster.plugin(&["na", "show", "services", "default/web", "-o", "wide"]);
    let said = (ran.status, ran.stdout.as_str(), ran.stderr.as_str());
    assert_eq!(said, (0, "na: rulec show services default/web -o wide\n", ""));
    let asked = cluster.asked();
    let pods = "get pods --namespace kube-system --selector app.kubernetes.io/name=rulec \
                --field-selector status.phase=Running";
    assert!(asked[0].starts_with(pods), "{asked:?}");
    let exec = "exec --namespace kube-system --container rulec rulec-1 -- rulec show services \
                default/web -o wide";
    assert_eq!(asked[1..], [exec]);

    let options = ["--context=other", "--kubeconfig", "/k", "--request-timeout=9s", "-n", "proxy"];
    let ran = cluster.plugin(&[&options[..], &["-l", "app=r", "na", "status"]].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    for line in cluster.asked() {
        assert!(
            line.starts_with("--context=other --kubeconfig=/k --request-timeout=9s "),
            "{line}"
        );
        assert!(line.contains(" --namespace proxy "), "{line}");
        assert!(!line.contains(" get pods ") || line.contains(" --selector app=r "), "{line}");
    }
    assert_eq!(fs::read_dir(cluster.0.path()).unwrap().count(), 1, "nothing is left but kubectl");
}

#[test]
fn the_exit_status_is_that_of_the_worst_node() {
    let cluster = Cluster::new();
    let ran = cluster.plugin(&["nb", "status"]);
    let said = (ran.status, ran.stdout.as_str(), ran.stderr.as_str());
    assert_eq!(said, (2, "nb: rulec status\n", "rulec: said on nb\n"));
    let ran = cluster.plugin(&["nb", "na", "status"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, "nb: rulec status\nna: rulec status\n"));
    assert_eq!(ran.stderr, "== nb ==\nrulec: said on nb\n== na ==\n");

    // kubectl exits with 1 for itself, which would mean something else of rulec.
    let ran = cluster.plugin(&["nc", "na", "status"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (3, "na: rulec status\n"));
    assert!(ran.stderr.contains("error dialing backend"), "{}", ran.stderr);
    assert!(ran.stderr.contains("nc: cannot run rulec in the Pod rulec-3"), "{}", ran.stderr);
    let ran = cluster.plugin(&["nx", "na", "status"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (3, "na: rulec status\n"));
    assert!(ran.stderr.contains("nx: no running Pod of rulec in kube-system"), "{}", ran.stderr);

    cluster.asked();
    let ran = cluster.plugin(&["--all-nodes", "status", "--socket", "s"]);
    assert_eq!(ran.status, 3, "a node has no Pod: {ran:?}");
    assert_eq!(ran.stdout, "na: rulec status --socket s\nnb: rulec status --socket s\n");
    assert!(ran.stderr.contains("== ne ==\nkubectl rulec: ne: no running Pod"), "{}", ran.stderr);
    assert!(cluster.asked()[1].starts_with("get nodes --selector kubernetes.io/os=linux "));
}

#[test]
fn a_wrong_command_line_asks_nobody() {
    let cluster = Cluster::new();
    for (args, expected) in [
        (&["status"][..], "no node: name one, or use --all-nodes"),
        (&["na"], "no command"),
        (&[], "no command"),
        (&["na", "cleanup"], "no command"),
        (&["--all-nodes", "na", "status"], "--all-nodes, and nodes by name: na"),
        (&["--nonsense", "na", "status"], "there is no option --nonsense"),
        (&["na", "--context", "x", "status"], "options come before the nodes"),
        (&["--context"], "--context needs a value"),
        (&["-n", "", "na", "status"], "-n needs a value"),
        (&["n a", "status"], "\"n a\" is no name of a node"),
        (&["na;nb", "status"], "\"na;nb\" is no name of a node"),
    ] {
        let ran = cluster.plugin(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(expected), "{args:?}: {}", ran.stderr);
    }
    assert_eq!(cluster.asked(), [""; 0]);
    for option in ["-h", "--help"] {
        let ran = cluster.plugin(&[option]);
        assert_eq!(ran.status, 0);
        assert!(ran.stdout.contains("Usage: kubectl rulec "), "{}", ran.stdout);
        assert!(ran.stdout.lines().all(|line| line.len() <= 100), "{}", ran.stdout);
    }
    // kubectl itself fails.
    fs::write(cluster.0.path().join("kubectl"), "#!/bin/sh\nexit 1\n").unwrap();
    let ran = cluster.plugin(&["na", "status"]);
    assert_eq!(ran.status, 3);
    assert!(ran.stderr.contains("cannot list the Pods of rulec in kube-system"), "{}", ran.stderr);
}

/// What the plugin looks for is what the DaemonSet makes.
#[test]
fn the_defaults_are_those_of_the_daemon_set() {
    let script = super::read("deploy/kubectl/kubectl-rulec");
    let set = &yaml("deploy/kubernetes/base/daemonset.yaml")[0];
    let name = string(set, "/spec/template/metadata/labels/app.kubernetes.io~1name");
    assert!(script.contains(&format!("\nselector=app.kubernetes.io/name={name}\n")));
    let base = &yaml("deploy/kubernetes/base/kustomization.yaml")[0];
    let namespace = string(base, "/namespace");
    assert!(script.contains(&format!("\nnamespace={namespace}\n")));
    let container = string(set, "/spec/template/spec/containers/0/name");
    assert!(script.contains(&format!(" --container {container} ")));
    let os = string(set, "/spec/template/spec/nodeSelector/kubernetes.io~1os");
    assert!(script.contains(&format!(" --selector kubernetes.io/os={os} ")));
    let mode =
        fs::metadata(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubectl/kubectl-rulec"));
    assert_eq!(mode.unwrap().permissions().mode() & 0o111, 0o111, "it can be run");
    assert!(super::read("docs/kubectl-plugin.md").contains("deploy/kubectl/kubectl-rulec"));
}
