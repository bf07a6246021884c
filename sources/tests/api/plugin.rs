//! Credential plugins.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rulec_apiserver::{Cut, Fault, Resource, Scope, Verb};
use rulec_sources::{ApiOptions, ApiTiming, ErrorKind};
use serde_json::{Value, json};
use tempfile::TempDir;
use tracing_subscriber::fmt::MakeWriter;

use crate::objects::service;
use crate::world::{Following, World};

const VERSION: &str = "client.authentication.k8s.io/v1";

/// A server whose kubeconfig names a plugin: a script in a directory of its own.
struct Plugged {
    world: World,
    directory: TempDir,
}

impl Plugged {
    fn new(script: &str) -> Self {
        let plugged = Self { world: World::new(), directory: TempDir::new().unwrap() };
        plugged.world.server.apply(&service("web", 80));
        let head = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho run >> runs\n";
        fs::write(plugged.file("plugin"), format!("{head}{script}\n")).unwrap();
        fs::set_permissions(plugged.file("plugin"), fs::Permissions::from_mode(0o755)).unwrap();
        plugged.configure(|_| {});
        plugged
    }

    fn configure(&self, change: impl FnOnce(&mut Value)) {
        self.world.write_kubeconfig();
        let text = fs::read_to_string(self.world.kubeconfig()).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        let mut exec = json!({
            "apiVersion": VERSION, "command": self.file("plugin"), "interactiveMode": "Never",
            "args": ["one argument"], "env": [{ "name": "PLUGIN_KEY", "value": "sesame-key" }],
        });
        change(&mut exec);
        config["users"][0]["user"] = json!({ "exec": exec });
        fs::write(self.world.kubeconfig(), config.to_string()).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.file("runs")).unwrap_or_default().lines().count()
    }

    fn options(&self, limit: Duration) -> ApiOptions {
        let timing = ApiTiming { plugin: limit, ..self.world.options().timing };
        ApiOptions { timing, ..self.world.options() }
    }

    /// Waits for a process whose id the plugin has written to a file.
    async fn process(&self, name: &str) -> PathBuf {
        let id = || fs::read_to_string(self.file(name)).ok().filter(|id| id.ends_with('\n'));
        self.world.until(|_| id().is_some()).await;
        PathBuf::from("/proc").join(id().unwrap().trim())
    }
}

/// Returns whether a process has ended; it may still be a zombie.
fn is_gone(process: impl AsRef<Path>) -> bool {
    let stat = fs::read_to_string(process.as_ref().join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

fn prints(status: &Value) -> String {
    let credential = json!({ "apiVersion": VERSION, "kind": "ExecCredential", "status": status });
    format!("cat <<'END'\n{credential}\nEND")
}

#[tokio::test]
async fn a_plugin_runs_once_with_the_settings_of_the_kubeconfig() {
    let script = format!(
        "echo \"$1 $PLUGIN_KEY\" > given; echo \"$KUBERNETES_EXEC_INFO\" > info\n{}",
        prints(&json!({ "token": "token" }))
    );
    let plugged = Plugged::new(&script);
    plugged.configure(|exec| exec["provideClusterInfo"] = true.into());
    let mut following = plugged.world.following().await;
    assert_eq!(following.services(), ["web"]);
    // Broken connections do not require another credential.
    plugged.world.server.drop_connections();
    plugged.world.probe(&mut following).await;
    assert_eq!(plugged.runs(), 1);
    let given = fs::read_to_string(plugged.file("given")).unwrap();
    assert_eq!(given, "one argument sesame-key\n");
    let info = fs::read_to_string(plugged.file("info")).unwrap();
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!((&info["apiVersion"], &info["kind"]), (&json!(VERSION), &json!("ExecCredential")));
    assert_eq!(info["spec"]["interactive"], json!(false));
    assert_eq!(info["spec"]["cluster"]["server"], json!(plugged.world.server.url()));
}

#[tokio::test]
async fn a_refused_or_expired_credential_is_renewed() {
    let script = "if [ -e next ]; then token=next; else token=token; fi\n\
        printf '%s' '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",'\n\
        echo '\"status\":{\"token\":\"'$token'\"}}'";
    let plugged = Plugged::new(script);
    let mut following = plugged.world.following().await;
    fs::write(plugged.file("next"), "").unwrap();
    plugged.world.server.set_tokens(["next"]);
    plugged.world.server.drop_connections();
    plugged.world.probe(&mut following).await;
    assert!(following.status.errors(ErrorKind::Unauthorized) >= 1);
    assert_eq!(plugged.runs(), 2);

    // An expired credential is not used, even if the server would still accept it.
    let over = json!({ "token": "token", "expirationTimestamp": "2020-01-01T00:00:00Z" });
    let plugged = Plugged::new(&prints(&over));
    let mut following = plugged.world.following().await;
    let runs = plugged.runs();
    plugged.world.server.drop_connections();
    plugged.world.probe(&mut following).await;
    assert!(plugged.runs() > runs);
}

#[tokio::test]
async fn a_certificate_from_a_plugin_is_used() {
    let plugged = Plugged::new("cat credential");
    let (certificate, key) = plugged.world.server.client_certificate("system:kube-proxy");
    let status = json!({ "clientCertificateData": certificate, "clientKeyData": key });
    let credential = json!({ "apiVersion": VERSION, "kind": "ExecCredential", "status": status });
    fs::write(plugged.file("credential"), credential.to_string()).unwrap();
    let following = plugged.world.following().await;
    assert_eq!(following.services(), ["web"]);
}

/// The plugin waits for a file, so that the test controls how long it takes.
#[tokio::test]
async fn a_slow_plugin_does_not_delay_healthy_watches() {
    let script = format!(
        "if [ -e slow ]; then echo > running; while [ -e slow ]; do sleep 0.02; done; fi\n{}",
        prints(&json!({ "token": "token" }))
    );
    let plugged = Plugged::new(&script);
    let world = &plugged.world;
    let mut following = world.following().await;
    fs::write(plugged.file("slow"), "").unwrap();
    // The watch of Nodes needs another credential; the other watches do not.
    let nodes = Scope::resource(Resource::Nodes).verb(Verb::Watch);
    world.server.fault_times(1, nodes, Fault::status(401));
    let cut = world.server.fault_times(1, nodes, Fault::CutAfter { bytes: 0, how: Cut::Close });
    world.until(|_| plugged.file("running").exists()).await;
    if let Some(cut) = cut {
        world.server.lift(cut);
    }
    for _ in 0..3 {
        world.probe(&mut following).await;
    }
    assert_eq!((plugged.runs(), world.server.open_watches(Resource::Nodes)), (2, 0));
    fs::remove_file(plugged.file("slow")).unwrap();
    world.until(|server| server.open_watches(Resource::Nodes) == 1).await;
    world.probe(&mut following).await;
    assert_eq!(plugged.runs(), 2);
}

#[tokio::test]
async fn a_hung_plugin_is_killed_with_its_children() {
    let plugged = Plugged::new("sleep 1000 &\necho $! > child\necho $$ > plugin.pid\nwait");
    let mut following = Following::with(plugged.options(Duration::from_millis(500)));
    let hangs = |problems: &[String]| problems.iter().any(|p| p.contains("had not answered"));
    following.problems_until(hangs).await;
    let first = [plugged.process("child").await, plugged.process("plugin.pid").await];
    // The first run is gone at the latest when the next one starts.
    plugged.world.until(|_| plugged.runs() > 1).await;
    plugged.world.until(|_| first.iter().any(is_gone)).await;
    following.stop().await.unwrap();
    let last = [plugged.process("child").await, plugged.process("plugin.pid").await];
    plugged.world.until(|_| first.iter().chain(&last).all(is_gone)).await;
}

#[tokio::test]
async fn a_plugin_does_not_outlive_the_source() {
    let plugged = Plugged::new("sleep 1000 &\necho $! > child\necho $$ > plugin.pid\nwait");
    let following = Following::with(plugged.options(Duration::from_secs(3600)));
    let processes = [plugged.process("child").await, plugged.process("plugin.pid").await];
    assert!(processes.iter().all(|process| !is_gone(process)));
    following.stop().await.unwrap();
    plugged.world.until(|_| processes.iter().all(is_gone)).await;
}

#[tokio::test]
async fn invalid_plugin_output_is_reported_without_quoting_it() {
    let printed = |status: Value| prints(&status);
    for (script, reason) in [
        ("echo sesame; echo sesame >&2; exit 3".to_owned(), "failed (exit status: 3)"),
        ("kill -9 $$".to_owned(), "failed (signal: 9"),
        ("echo sesame-token".to_owned(), "no ExecCredential"),
        (printed(json!(null)), "without a status"),
        (printed(json!({})), "neither a token nor a certificate"),
        (printed(json!({ "token": "sesame\nsesame" })), "not valid in an HTTP header"),
        (printed(json!({ "clientKeyData": "sesame" })), "without the other"),
        (
            printed(json!({ "token": "sesame", "expirationTimestamp": "sesame" })),
            "an expirationTimestamp that is no",
        ),
        (printed(json!({ "token": "x" })).replace("/v1\"", "/v1beta1\""), "no ExecCredential of"),
    ] {
        let plugged = Plugged::new(&script);
        let mut following = plugged.world.follow();
        following.problems_until(|problems| problems.iter().any(|p| p.contains(reason))).await;
        let problems = following.problems().join("\n");
        assert!(problems.contains("the credential plugin \"plugin\""), "{problems}");
        assert!(!problems.contains("sesame"), "{problems}");
    }
    for (field, value, reason) in [
        ("apiVersion", json!("client.authentication.k8s.io/v1alpha1"), "exec.apiVersion: expected"),
        ("interactiveMode", json!("Always"), "exec.interactiveMode: a daemon has no terminal"),
        ("command", json!(""), "exec.command is missing"),
        ("command", json!("/nonexistent/plugin"), "cannot be run: No such file"),
    ] {
        let plugged = Plugged::new("exit 1");
        plugged.configure(|exec| exec[field] = value);
        let mut following = plugged.world.follow();
        following.problems_until(|problems| problems.iter().any(|p| p.contains(reason))).await;
        assert_eq!(plugged.runs(), 0, "{field}");
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// This includes the logs of all libraries.
#[tokio::test]
async fn plugin_output_is_not_logged_at_any_level() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
    let subscriber = subscriber.with_writer(log.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let script = format!(
        "echo sesame-error >&2\nif [ ! -e good ]; then echo sesame-output; exit 1; fi\n{}",
        prints(&json!({ "token": "sesame-token" }))
    );
    let plugged = Plugged::new(&script);
    plugged.world.server.set_tokens(["sesame-token"]);
    let mut following = plugged.world.follow();
    following.problems_until(|problems| problems.iter().any(|p| p.contains("failed"))).await;
    fs::write(plugged.file("good"), "").unwrap();
    following.complete().await;
    plugged.world.server.set_tokens(["other"]);
    plugged.world.server.drop_connections();
    plugged.world.until(|_| following.status.errors(ErrorKind::Unauthorized) >= 1).await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("a credential plugin has answered"), "the log is not seen: {log}");
    let found: Vec<&str> = log.lines().filter(|line| line.contains("sesame")).collect();
    assert_eq!(found, [""; 0]);
    assert!(following.seen.iter().all(|update| !format!("{update:?}").contains("sesame")));
}
