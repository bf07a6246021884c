//! Credential plugins: programs that a kubeconfig names (`users[].user.exec`), which print a token
//! or a certificate.
//!
//! kube would run them itself, but it blocks its thread meanwhile, without a time limit, and puts
//! their input and output into its errors. All of that may be secret: here, none of it is ever part
//! of an error or of a log line.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::fault::Fault;
use crate::error::printable;

/// The versions of the protocol with a plugin.
const VERSIONS: [&str; 2] =
    ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];

/// The longest output of a plugin; credentials are shorter.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;

/// A credential that expires sooner than this is not used: it may expire before the server reads
/// it.
const MARGIN: SignedDuration = SignedDuration::from_secs(5);

/// How long to wait at most for a killed plugin to end.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// A plugin to run. Plugins that compare equal print the same credential.
#[derive(PartialEq, Eq)]
pub(super) struct Plugin {
    command: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    version: String,
    /// Its input, as JSON.
    info: String,
}

/// The credential that a plugin printed.
pub(super) struct Credential {
    token: Option<String>,
    /// A certificate and its key, in PEM.
    certificate: Option<(String, String)>,
    /// When it expires; `None` if it is valid until the server refuses it.
    pub(super) until: Option<Timestamp>,
}

impl Credential {
    /// Puts it where a kubeconfig without a plugin has its credential.
    pub(super) fn apply(&self, user: &mut AuthInfo) {
        user.token = self.token.clone().map(Into::into);
        if let Some((certificate, key)) = &self.certificate {
            user.client_certificate = None;
            user.client_certificate_data = Some(STANDARD.encode(certificate));
            user.client_key = None;
            user.client_key_data = Some(STANDARD.encode(key).into());
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(is_over)
    }
}

/// Returns whether credentials that expire then are not used any more.
pub(super) fn is_over(until: Timestamp) -> bool {
    until < Timestamp::now() + MARGIN
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Printed {
    api_version: Option<String>,
    kind: Option<String>,
    status: Option<PrintedStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PrintedStatus {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl Plugin {
    /// Reads the plugin of a kubeconfig.
    pub(super) fn new(exec: ExecConfig) -> Result<Self, Fault> {
        let wrong = |what: &str| Fault::Config(format!("users[].user.exec{what}"));
        let version = exec.api_version.unwrap_or_default();
        if !VERSIONS.contains(&version.as_str()) {
            return Err(wrong(&format!(
                ".apiVersion: expected {} or {}",
                VERSIONS[0], VERSIONS[1]
            )));
        }
        let command = exec.command.filter(|command| !command.is_empty());
        let command = command.ok_or_else(|| wrong(".command is missing"))?;
        if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
            return Err(wrong(".interactiveMode: a daemon has no terminal for a plugin"));
        }
        let mut spec = json!({ "interactive": false });
        if exec.provide_cluster_info {
            let cluster = exec.cluster.ok_or_else(|| wrong(".provideClusterInfo: no cluster"))?;
            spec["cluster"] = serde_json::to_value(cluster)
                .map_err(|_| wrong(".provideClusterInfo: the cluster cannot be encoded"))?;
        }
        let info = json!({ "apiVersion": version, "kind": "ExecCredential", "spec": spec });
        let pair = |mut pair: std::collections::HashMap<String, String>| {
            Some((pair.remove("name")?, pair.remove("value")?))
        };
        let env = exec.env.unwrap_or_default().into_iter().filter_map(pair).collect();
        let args = exec.args.unwrap_or_default();
        Ok(Self { command, args, env, version, info: info.to_string() })
    }

    fn fault(&self, what: &str) -> Fault {
        let name = Path::new(&self.command).file_name();
        let name = name.map_or(self.command.as_str().into(), |name| name.to_string_lossy());
        Fault::Plugin(format!("the credential plugin {:?} {what}", printable(&name)))
    }

    /// Runs the plugin, and reads its output.
    pub(super) async fn run(&self, limit: Duration, leash: &Leash) -> Result<Credential, Fault> {
        let mut command = Command::new(&self.command);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("KUBERNETES_EXEC_INFO", &self.info)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Error messages of a plugin may contain secrets.
            .stderr(Stdio::null())
            // A process group of its own, so that it can be killed with all that it has started.
            .process_group(0)
            .kill_on_drop(true);
        let child = leash.start(|| command.spawn());
        let mut child = child.map_err(|error| self.fault(&format!("cannot be run: {error}")))?;
        // Kills the plugin also if this future is dropped.
        let held = Held { leash };
        let mut printed = Vec::new();
        let run = async {
            if let Some(stdout) = child.stdout.take() {
                stdout.take(MAX_OUTPUT_BYTES).read_to_end(&mut printed).await?;
            }
            child.wait().await
        };
        let status = match timeout(limit, run).await {
            Ok(Ok(status)) => {
                leash.release();
                status
            }
            Ok(Err(error)) => return Err(self.fault(&format!("cannot be waited for: {error}"))),
            Err(_) => {
                drop(held);
                let _ = timeout(LAST_BREATH, child.wait()).await;
                let limit = limit.as_secs_f32();
                return Err(self.fault(&format!("was killed: it had not answered after {limit} s")));
            }
        };
        if !status.success() {
            let what = "its output is not shown, since it may contain secrets: run it by hand";
            return Err(self.fault(&format!("failed ({status}); {what}")));
        }
        self.read(&printed)
    }

    /// Reads the output: JSON, or YAML, which client-go accepts as well.
    fn read(&self, printed: &[u8]) -> Result<Credential, Fault> {
        let printed: Printed = serde_saphyr::from_slice(printed)
            .map_err(|_| self.fault("printed something that is no ExecCredential"))?;
        let is_known = printed.kind.as_deref() == Some("ExecCredential")
            && printed.api_version.as_deref() == Some(&self.version);
        if !is_known {
            return Err(self.fault(&format!("printed no ExecCredential of {}", self.version)));
        }
        let Some(status) = printed.status else {
            return Err(self.fault("printed an ExecCredential without a status"));
        };
        let until = match status.expiration_timestamp.as_deref().map(str::parse) {
            None => None,
            Some(Ok(until)) => Some(until),
            Some(Err(_)) => {
                return Err(self.fault("printed an expirationTimestamp that is no RFC 3339 time"));
            }
        };
        let token = status.token.filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(self.fault("printed a token that is not valid in an HTTP header"));
        }
        let certificate = match (status.client_certificate_data, status.client_key_data) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(self.fault("printed a certificate or a key without the other"));
            }
        };
        if token.is_none() && certificate.is_none() {
            return Err(self.fault("printed neither a token nor a certificate"));
        }
        Ok(Credential { token, certificate, until })
    }
}

/// The running plugin. It is killed when this process ends, unless this process is killed itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Leash(Arc<Mutex<LeashState>>);

#[derive(Debug, Default)]
struct LeashState {
    group: Option<Pid>,
    /// Whether no plugin may be started any more.
    over: bool,
}

impl Leash {
    fn state(&self) -> MutexGuard<'_, LeashState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
        let mut state = self.state();
        if state.over {
            return Err(io::Error::other("this process is ending"));
        }
        let child = spawn()?;
        // The plugin is not reaped before it is waited for, so its PID is not reused until then.
        state.group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(child)
    }

    /// Notes that the plugin has ended by itself.
    fn release(&self) {
        self.state().group = None;
    }

    /// Kills the plugin, and all that it has started.
    fn pull(&self) {
        if let Some(group) = self.state().group.take() {
            // It may have ended meanwhile.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }

    /// Kills the plugin, and lets no other start.
    pub(super) fn end(&self) {
        let group = {
            let mut state = self.state();
            state.over = true;
            state.group
        };
        self.pull();
        // If this process starts over by `exec`, a plugin that was not reaped would stay a zombie
        // for ever. The thread that waits for it may not get to that.
        for _ in 0..20 {
            match group.map(|group| waitpid(group, Some(WaitPidFlag::WNOHANG))) {
                Some(Ok(WaitStatus::StillAlive)) => std::thread::sleep(Duration::from_millis(1)),
                Some(Ok(_) | Err(_)) | None => break,
            }
        }
    }
}

struct Held<'a> {
    leash: &'a Leash,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.leash.pull();
    }
}
