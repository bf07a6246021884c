//! A node with a real kubelet, if `TEST_ASSET_KUBELET` names the program: its static Pods, which
//! containerd runs.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use rulec_kubelet::Credentials;
use rulec_testkit::{Namespace, require_root};
use tempfile::TempDir;

use super::{HEALTH, MANIFESTS, metric};
use crate::daemon::{Daemon, Manifests};
use crate::support::{answers, eventually, get};

/// A headless Service in which Pods have names.
const PEERS: &str = "
apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: web}}
";

/// A Service with a cluster address, and a headless one, of the same Pods.
fn services() -> Manifests {
    let web = MANIFESTS.split("---").next().unwrap();
    Manifests::of(&format!("{web}---{PEERS}"))
}

/// A Pod as a person writes it: without an address.
fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: web}}}}
spec:
  hostname: {name}
  subdomain: peers
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: localhost/busybox:latest
    imagePullPolicy: Never
    command: [/bin/busybox, nc, -ll, -p, '8080', -e, /bin/busybox, echo, {name}]
    ports: [{{name: http, containerPort: 8080}}]
    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
"
    )
}

/// A namespace with a kubelet; everything in it ends with this value.
struct Node {
    namespace: Namespace,
    process: Child,
    directory: TempDir,
}

impl Node {
    /// Starts the kubelet; `None`, with a message, if none is named.
    fn start(label: &str, credentials: Option<&Credentials>) -> Option<Self> {
        let Some(kubelet) = std::env::var_os("TEST_ASSET_KUBELET") else {
            #[expect(clippy::print_stderr, reason = "a test that did not run says so")]
            {
                eprintln!("not run: TEST_ASSET_KUBELET names no kubelet");
            }
            return None;
        };
        let kubelet = PathBuf::from(kubelet);
        assert!(kubelet.is_file(), "TEST_ASSET_KUBELET: there is no file {}", kubelet.display());
        if !require_root() {
            return None;
        }
        let namespace = Namespace::new(label);
        namespace.sh("ip link set lo up");
        let directory = tempfile::tempdir().unwrap();
        if let Some(Credentials { authority, server_certificate, server_key, .. }) = credentials {
            let files = [("ca", "crt", authority), ("server", "crt", server_certificate)];
            for (name, kind, pem) in files.into_iter().chain([("server", "key", server_key)]) {
                fs::write(directory.path().join(format!("{name}.{kind}")), pem).unwrap();
            }
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kubelet/node");
        let mut command = namespace.command(script, [kubelet.as_path(), directory.path()]);
        let log = File::create(directory.path().join("node.log")).unwrap();
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let process = process.spawn().unwrap();
        let node = Self { namespace, process, directory };
        node.until("it listens", || node.path("root/pods-api/pods-api.sock").exists());
        Some(node)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Adds or replaces a static Pod.
    fn put(&self, name: &str) {
        let draft = self.path("draft");
        fs::write(&draft, pod(name)).unwrap();
        fs::rename(draft, self.path("manifests").join(format!("{name}.yaml"))).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path("manifests").join(format!("{name}.yaml"))).unwrap();
    }

    /// Kills the kubelet, or starts it again.
    fn control(&self, command: &str) {
        fs::write(self.path("control"), format!("{command}\n")).unwrap();
    }

    fn daemon(&self, manifests: &Manifests, more: &[&str]) -> Daemon {
        let [root, pods, hosts] =
            ["root", "manifests", "hosts"].map(|name| self.path(name).display().to_string());
        let own = ["--kubelet-root-dir", &root, "--pod-manifest-path", &pods, "--cni-cache="];
        let services = ["--service-cidr=10.96.0.0/16,fd00:96::/112", "--service-route"];
        let args = [&own[..], &services, &["--hosts-file", &hosts], more].concat();
        Daemon::start(&self.namespace, &manifests.path(), &args)
    }

    /// Waits until exactly these Pods answer, over both families.
    fn answered_by(&self, names: &[&str]) {
        for address in ["10.96.0.10:80", "[fd00:96::10]:80"] {
            let address: SocketAddr = address.parse().unwrap();
            self.until(&format!("{names:?} at {address}"), || {
                let answers = answers(&self.namespace, address);
                answers.is_some_and(|it| it.iter().map(String::as_str).eq(names.iter().copied()))
            });
        }
    }

    /// Waits until a condition holds; says what the kubelet has said if it never does.
    #[expect(clippy::print_stderr, reason = "a failing test prints the log")]
    fn until(&self, what: &str, is_so: impl FnMut() -> bool) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, is_so);
        }));
        if let Err(panic) = outcome {
            for log in ["node.log", "kubelet.log"] {
                let text = fs::read_to_string(self.path(log)).unwrap_or_default();
                eprintln!("{log}:\n{text}");
            }
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn static_pods_of_a_real_kubelet_are_served() {
    let Some(node) = Node::start("real-kubelet", None) else { return };
    let manifests = services();
    let mut daemon = node.daemon(&manifests, &[]);
    assert!(metric(&node.namespace, "rulec_source_available{source=\"kubelet\"} 1"));
    node.put("first");
    node.answered_by(&["first"]);
    node.put("second");
    node.answered_by(&["first", "second"]);
    let hosts = fs::read_to_string(node.path("hosts")).unwrap();
    for name in ["first", "second"] {
        let name = format!(" {name}.peers.default.svc.cluster.local ");
        assert_eq!(hosts.matches(&name).count(), 2, "an address of each family: {hosts}");
    }

    node.control("kill");
    daemon.wait_for("kubelet: ");
    node.answered_by(&["first", "second"]);
    node.control("start");
    let is_current = || get(&node.namespace, HEALTH, "/readyz").body == "ok";
    node.until("the kubelet is back", is_current);
    node.answered_by(&["first", "second"]);
    assert!(!daemon.log().contains("−1 backend"), "{}", daemon.log());

    node.remove("first");
    node.answered_by(&["second"]);
    // The same file again is a Pod with the same UID.
    node.put("first");
    node.answered_by(&["first", "second"]);
}

#[test]
fn a_real_kubelet_can_be_asked_over_http() {
    let credentials = Credentials::make();
    let Some(node) = Node::start("real-kubelet-http", Some(&credentials)) else { return };
    node.put("first");
    let manifests = services();
    let daemon = node.daemon(&manifests, &["--kubelet-url", "http://127.0.0.1:10255"]);
    node.answered_by(&["first"]);
    drop(daemon);

    let file = |name: &str, text: &str| {
        fs::write(node.path(name), text).unwrap();
        node.path(name).display().to_string()
    };
    let certificate = file("client.crt", &credentials.certificate);
    let key = file("client.key", &credentials.key);
    let (url, authority) = ("https://127.0.0.1:10250", node.path("ca.crt").display().to_string());
    let asked = ["--kubelet-url", url, "--kubelet-certificate-authority", &authority];
    let shown = ["--kubelet-client-certificate", &certificate, "--kubelet-client-key", &key];
    let daemon = node.daemon(&manifests, &[asked, shown].concat());
    node.put("second");
    node.answered_by(&["first", "second"]);
    drop(daemon);

    // Whoever shows nothing is refused.
    let mut daemon = node.daemon(&manifests, &asked);
    daemon.wait_for("401 Unauthorized");
    let unavailable = || metric(&node.namespace, "rulec_source_available{source=\"kubelet\"} 0");
    node.until("the metric says so", unavailable);
}
