//! The two programs and their arguments.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::audit::Audit;
use super::client::Client;
use super::{Assets, PATIENCE, role};
use crate::serve::Port;
use crate::tls::Tls;

/// The range of cluster addresses.
const SERVICE_CIDR: &str = "10.90.0.0/16";

/// A process that is killed when this value is dropped.
#[derive(Debug)]
pub(super) struct Process(Child);

impl Process {
    pub(super) fn start(mut command: Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("the log opens");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log opens twice"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killing fails if it has already ended, which is fine.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// An etcd process.
#[derive(Debug)]
pub(super) struct Etcd {
    // Fields are dropped in this order.
    client: Client,
    _process: Process,
    url: String,
}

impl Etcd {
    /// Starts etcd, and returns when it answers.
    pub(super) fn start(assets: &Assets, directory: &Path) -> Self {
        let (url, peers) = (free_url(), free_url());
        let mut command = Command::new(&assets.etcd);
        command
            .args(["--name", "test"])
            .arg("--data-dir")
            .arg(directory.join("etcd"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("test={peers}")]);
        let log = directory.join("etcd.log");
        let process = Process::start(command, &log);
        let etcd = Self { client: Client::with_url(&url), _process: process, url };
        let end = Instant::now() + PATIENCE;
        while etcd.revision().is_none() {
            assert!(Instant::now() < end, "etcd does not answer; its log ends:\n{}", tail(&log));
            thread::sleep(Duration::from_millis(20));
        }
        etcd
    }

    /// Forgets all revisions but the latest.
    pub(super) fn compact(&self) {
        let revision = self.revision().expect("etcd answers");
        let body = json!({ "revision": revision, "physical": true });
        let answer = self.client.send(Method::POST, "/v3/kv/compaction", Some(&body));
        assert!(answer.as_ref().is_ok_and(super::Answer::is_success), "{answer:?}");
    }

    /// Writes values under keys, many at a time.
    pub(super) fn put_all(&self, entries: impl Iterator<Item = (String, Value)>) {
        // etcd's default limit of operations in one transaction.
        const OPERATIONS: usize = 128;
        let put = |(key, value): (String, Value)| {
            let encode = |text: &str| STANDARD.encode(text);
            json!({"requestPut": {"key": encode(&key), "value": encode(&value.to_string())}})
        };
        let mut puts = entries.map(put).peekable();
        while puts.peek().is_some() {
            let success: Vec<Value> = puts.by_ref().take(OPERATIONS).collect();
            let body = json!({ "success": success });
            let answer = self.client.send(Method::POST, "/v3/kv/txn", Some(&body));
            assert!(answer.as_ref().is_ok_and(super::Answer::is_success), "{answer:?}");
        }
    }

    fn revision(&self) -> Option<String> {
        // The key is a zero byte, in base64.
        let body = json!({ "key": "AA==" });
        let answer = self.client.send(Method::POST, "/v3/kv/range", Some(&body)).ok()?;
        answer.body["header"]["revision"].as_str().map(str::to_owned)
    }
}

/// A kube-apiserver that can be started again on the same port.
#[derive(Debug)]
pub(super) struct ApiProcess {
    process: Option<Process>,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    // Keeps other programs from taking the port while no process listens on it.
    _port: Port,
}

impl ApiProcess {
    /// Prepares a server without starting it.
    pub(super) fn new(
        assets: &Assets,
        directory: &Path,
        port: Port,
        etcd: &Etcd,
        tls: &Tls,
        streaming_lists: bool,
    ) -> Self {
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).expect("a file in a directory of our own is written");
            path.display().to_string()
        };
        let (certificate, key) = tls.own_pem();
        let signer = KeyPair::generate().expect("a key is made");
        let public = write("service-account.pub", signer.public_key_pem());
        let signer = write("service-account.key", signer.serialize_pem());
        let mut arguments = vec![
            format!("--etcd-servers={}", etcd.url),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--external-hostname=localhost".to_owned(),
            format!("--secure-port={}", port.address().port()),
            "--permit-port-sharing=true".to_owned(),
            format!("--tls-cert-file={}", write("server.crt", certificate)),
            format!("--tls-private-key-file={}", write("server.key", key)),
            format!("--client-ca-file={}", write("clients.crt", tls.clients_pem())),
            format!("--token-auth-file={}", role::tokens_path(directory).display()),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={signer}"),
            format!("--service-account-key-file={public}"),
            "--authorization-mode=RBAC".to_owned(),
            format!("--service-cluster-ip-range={SERVICE_CIDR}"),
            // Only the test talks to this server, so that it need not publish its own endpoint.
            "--endpoint-reconciler-type=none".to_owned(),
            // There is no kubelet that would remove the taints of new nodes.
            "--disable-admission-plugins=TaintNodesByCondition".to_owned(),
            format!("--feature-gates=WatchList={streaming_lists}"),
        ];
        arguments.extend(Audit::arguments(directory));
        Self {
            process: None,
            program: assets.apiserver.clone(),
            arguments,
            log: directory.join("kube-apiserver.log"),
            _port: port,
        }
    }

    /// Starts the server in the client's network namespace, and does not wait for it.
    pub(super) fn start(&mut self, client: &Client) {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        let log = self.log.clone();
        self.process = Some(client.run(move || Process::start(command, &log)));
    }

    /// Kills the server with SIGKILL.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// Panics if the server has ended, with the end of its log.
    pub(super) fn assert_runs(&mut self) {
        let process = self.process.as_mut().expect("a process was started");
        let ended = process.0.try_wait().expect("the state of a child can be asked for");
        if let Some(status) = ended {
            panic!("kube-apiserver ended, {status}; its log ends:\n{}", self.log_end());
        }
    }

    pub(super) fn log_end(&self) -> String {
        tail(&self.log)
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Returns a URL with a port that was free a moment ago.
fn free_url() -> String {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .expect("a port of the loopback address is free");
    format!("http://{}", listener.local_addr().expect("a listener has an address"))
}
