//! Reports to a service manager, by the protocol of sd_notify(3).
//!
//! Each message is one datagram to the socket that `NOTIFY_SOCKET` names. It says that the node is
//! programmed (`READY=1`), that the loop is alive (`WATCHDOG=1`), that the daemon reloads or
//! restarts (`RELOADING=1`), or that it ends (`STOPPING=1`). The daemon can run without it, so
//! failures are warnings.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::clock;

/// How often the status is updated for a manager without a watchdog.
const WITHOUT_WATCHDOG: Duration = Duration::from_secs(10);

/// The shortest interval between messages, whatever timeout the manager sets.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

/// How long a manager that does not read its socket may block the loop.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notify {
    manager: Option<Manager>,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// The time between two beats.
    every: Duration,
    next: Instant,
    /// The last status that was sent.
    status: String,
}

impl Notify {
    /// Returns the manager that the environment names; none if it names none, or one that is
    /// unreachable.
    #[must_use]
    pub fn from_env() -> Self {
        let manager = Manager::named(|name| std::env::var_os(name), Instant::now());
        let manager = manager.unwrap_or_else(|error| {
            tracing::warn!("cannot notify the service manager: {error:#}");
            None
        });
        Self { manager }
    }

    /// Returns when the next beat is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.manager.as_ref().map(|manager| manager.next)
    }

    /// Returns whether a beat is due.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Reports that the daemon does its work from now on.
    pub fn ready(&mut self, status: &str) {
        if let Some(manager) = &mut self.manager {
            manager.tell("READY=1", status);
        }
    }

    /// Reports that the loop is alive, and the status.
    pub fn beat(&mut self, status: &str, now: Instant) {
        if let Some(manager) = &mut self.manager {
            manager.next = now + manager.every;
            manager.tell("WATCHDOG=1", status);
        }
    }

    /// Reports that the daemon reloads, and will be ready again as the same process.
    pub fn reloading(&mut self, status: &str) {
        if let Some(manager) = &mut self.manager {
            // A manager that has asked for the reload (Type=notify-reload) recognises the answer by
            // its time.
            let time = clock::micros().map(|time| format!("RELOADING=1\nMONOTONIC_USEC={time}"));
            manager.tell(time.as_deref().unwrap_or("RELOADING=1"), status);
        }
    }

    /// Reports that the daemon ends.
    pub fn stopping(&mut self) {
        if let Some(manager) = &mut self.manager {
            manager.tell("STOPPING=1", "stopping; the rules stay");
        }
    }
}

impl Manager {
    fn named(
        variable: impl Fn(&str) -> Option<OsString>,
        now: Instant,
    ) -> anyhow::Result<Option<Self>> {
        let Some(name) = variable("NOTIFY_SOCKET") else { return Ok(None) };
        let address =
            address(&name).with_context(|| format!("NOTIFY_SOCKET={}", name.display()))?;
        let socket = UnixDatagram::unbound().context("a socket")?;
        socket.set_write_timeout(Some(SEND_TIMEOUT)).context("a socket")?;
        let every =
            watchdog(&variable)?.map_or(WITHOUT_WATCHDOG, |time| time / 2).max(MIN_INTERVAL);
        Ok(Some(Self { socket, address, every, next: now, status: String::new() }))
    }

    fn tell(&mut self, state: &str, status: &str) {
        // A line break would start another assignment.
        let status = status.replace('\n', " ");
        let message = if status == self.status {
            state.to_owned()
        } else {
            format!("{state}\nSTATUS={status}")
        };
        match self.socket.send_to_addr(message.as_bytes(), &self.address) {
            Ok(_) => self.status = status,
            Err(error) => tracing::warn!(%error, state, "cannot notify the service manager"),
        }
    }
}

/// Parses the name of a socket as in `NOTIFY_SOCKET`: a path, or `@` and a name in the abstract
/// namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name),
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

/// Returns the time after which the manager considers this process hung, as sd_watchdog_enabled(3)
/// does.
fn watchdog(variable: &impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Option<Duration>> {
    let number = |name: &str| -> anyhow::Result<Option<u64>> {
        let Some(value) = variable(name) else { return Ok(None) };
        let value = value.to_string_lossy();
        Ok(Some(value.parse().with_context(|| format!("{name}={value}"))?))
    };
    // Variables with another process id were inherited and are meant for the parent.
    let is_ours = number("WATCHDOG_PID")?.is_none_or(|pid| pid == u64::from(std::process::id()));
    let time = number("WATCHDOG_USEC")?.filter(|time| *time > 0);
    Ok(time.filter(|_| is_ours).map(Duration::from_micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(variables: &[(&str, &str)], now: Instant) -> anyhow::Result<Notify> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(given, _)| *given == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Ok(Notify { manager: Manager::named(variable, now)? })
    }

    /// Returns a message that has arrived, without waiting.
    fn heard(manager: &UnixDatagram) -> Option<String> {
        manager.set_nonblocking(true).unwrap();
        let mut bytes = [0; 1024];
        let length = manager.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    #[test]
    fn nothing_is_due_without_a_service_manager() {
        let now = Instant::now();
        let mut notify = named(&[("WATCHDOG_USEC", "1000")], now).unwrap();
        assert_eq!(notify.deadline(), None);
        assert!(!notify.is_due(now + Duration::from_secs(3600)));
        notify.ready("nobody hears this");
    }

    #[test]
    fn each_state_and_each_status_is_sent_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let now = Instant::now();
        let mut notify = named(&[("NOTIFY_SOCKET", path.to_str().unwrap())], now).unwrap();
        notify.beat("waiting", now);
        assert_eq!(heard(&manager).unwrap(), "WATCHDOG=1\nSTATUS=waiting");
        notify.beat("waiting", now);
        assert_eq!(heard(&manager).unwrap(), "WATCHDOG=1");
        notify.ready("one\ntwo");
        assert_eq!(heard(&manager).unwrap(), "READY=1\nSTATUS=one two");
        notify.stopping();
        assert_eq!(heard(&manager).unwrap(), "STOPPING=1\nSTATUS=stopping; the rules stay");
        assert_eq!(heard(&manager), None);
    }

    #[test]
    fn abstract_socket_names_are_supported() {
        let name = format!("rulec-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let now = Instant::now();
        let mut notify = named(&[("NOTIFY_SOCKET", &format!("@{name}"))], now).unwrap();
        notify.ready("here");
        assert_eq!(heard(&manager).unwrap(), "READY=1\nSTATUS=here");
    }

    #[test]
    fn the_watchdog_is_served_twice_per_interval() {
        let now = Instant::now();
        let own = std::process::id().to_string();
        let second = Duration::from_secs(1);
        for (usec, pid, every) in [
            ("4000000", None, 2 * second),
            ("4000000", Some(own.as_str()), 2 * second),
            ("4000000", Some("1"), WITHOUT_WATCHDOG),
            ("0", None, WITHOUT_WATCHDOG),
            ("1", None, MIN_INTERVAL),
        ] {
            let mut variables = vec![("NOTIFY_SOCKET", "@nobody"), ("WATCHDOG_USEC", usec)];
            variables.extend(pid.map(|pid| ("WATCHDOG_PID", pid)));
            let mut notify = named(&variables, now).unwrap();
            assert!(notify.is_due(now), "the first is due at once");
            notify.beat("", now);
            assert_eq!(notify.deadline(), Some(now + every), "{usec} {pid:?}");
        }
    }

    #[test]
    fn invalid_variables_are_named() {
        let now = Instant::now();
        for (variables, expected) in [
            (&[("NOTIFY_SOCKET", "vsock:2:1234")][..], "NOTIFY_SOCKET=vsock:2:1234"),
            (&[("NOTIFY_SOCKET", "")], "NOTIFY_SOCKET="),
            (&[("NOTIFY_SOCKET", "@a"), ("WATCHDOG_USEC", "soon")], "WATCHDOG_USEC=soon"),
            (&[("NOTIFY_SOCKET", "@a"), ("WATCHDOG_PID", "-1")], "WATCHDOG_PID=-1"),
        ] {
            assert_eq!(named(variables, now).unwrap_err().to_string(), expected);
        }
    }
}
