//! A flow that exists, and what becomes of it.

use std::sync::atomic::{AtomicU16, Ordering};

use rulec_testkit::{Connection, flow_with};

use super::*;

/// A flow that exists.
pub(super) struct Held {
    pub(super) protocol: Protocol,
    pub(super) sender: Sender,
    pub(super) source: SocketAddr,
    pub(super) to: SocketAddr,
    /// Name and port of who answered.
    pub(super) backend: Option<String>,
    pub(super) connection: Option<Connection>,
    /// The id of its entry.
    pub(super) id: String,
}

impl Held {
    /// Returns it as `entries` and `forecast` name it.
    pub(super) fn key(&self) -> String {
        format!("{} {} {}", self.protocol, self.source, self.to)
    }

    pub(super) fn open(site: &Site, protocol: Protocol, sender: Sender, to: SocketAddr) -> Self {
        static PORTS: AtomicU16 = AtomicU16::new(41_000);
        let port = PORTS.fetch_add(1, Ordering::Relaxed);
        let source = SocketAddr::new(sender.ip(family_of(to)), port);
        let mut held = Self {
            protocol,
            sender,
            source,
            to,
            backend: None,
            connection: None,
            id: String::new(),
        };
        if protocol == Protocol::Tcp {
            let options = Options { source: Some(source), timeout: SILENCE };
            held.connection = flow_with(sender.of(&site.world), to, options).ok();
            if let Some(connection) = &mut held.connection {
                held.backend = Some(connection.exchange("opened").unwrap());
            }
        } else {
            held.backend = held.ask(site).ok();
        }
        held.id = held.id_in(&entries(site)).unwrap_or_else(|| panic!("{held:?} is not there"));
        held
    }

    /// Sends a packet of the flow, or of another one from the same port, and returns who answers.
    pub(super) fn ask(&self, site: &Site) -> Result<String, Failure> {
        let options = Options { source: Some(self.source), timeout: SILENCE };
        let answer = ask(self.sender.of(&site.world), self.protocol, self.to, options)?;
        Ok(format!("{}:{}", answer.name, answer.port))
    }

    fn id_in(&self, entries: &BTreeMap<String, String>) -> Option<String> {
        entries.get(&self.key()).cloned()
    }

    /// Returns whether its entry is no longer there.
    pub(super) fn is_gone(&self, site: &Site) -> bool {
        self.id_in(&entries(site)).as_ref() != Some(&self.id)
    }

    /// Returns what has become of the flow: a class, and why if it is broken.
    pub(super) fn outcome(&mut self, site: &Site) -> (String, Option<Failure>) {
        let is_there = !self.is_gone(site);
        if let (Protocol::Tcp, Some(connection)) = (self.protocol, &mut self.connection) {
            assert!(is_there, "the entry of an answered connection is never deleted");
            let answer = connection.exchange("opened").unwrap();
            assert_eq!(Some(&answer), self.backend.as_ref(), "still the same backend");
            let is_used = self.is_used(site);
            return (if is_used { "stays" } else { "lingers" }.to_owned(), None);
        }
        if is_there {
            assert_eq!(self.ask(site).ok(), self.backend, "the flow goes on");
            return ("stays".to_owned(), None);
        }
        let again = match self.protocol {
            Protocol::Udp => self.ask(site),
            Protocol::Tcp | Protocol::Sctp => self.connects(site),
        };
        match (again, &self.backend) {
            (Ok(_), None) if self.protocol == Protocol::Udp => ("served".to_owned(), None),
            (Ok(answer), backend) => {
                assert_ne!(Some(&answer), backend.as_ref(), "another backend");
                ("again".to_owned(), None)
            }
            (Err(failure), _) => ("breaks".to_owned(), Some(failure)),
        }
    }

    pub(super) fn connects(&self, site: &Site) -> Result<String, Failure> {
        let options = Options { source: Some(self.source), timeout: SILENCE };
        flow_with(self.sender.of(&site.world), self.to, options)?.exchange("opened")
    }

    /// Returns whether other connections from the same place reach the same backend. There are at
    /// most two: one of them is not chosen 20 times once in a million.
    fn is_used(&self, site: &Site) -> bool {
        let source = SocketAddr::new(self.source.ip(), 0);
        let options = Options { source: Some(source), timeout: SILENCE };
        for _ in 0..20 {
            let another = flow_with(self.sender.of(&site.world), self.to, options);
            let Ok(mut another) = another else { return false };
            if another.exchange("opened").ok() == self.backend {
                return true;
            }
        }
        false
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { protocol, sender, source, to, backend, .. } = self;
        write!(f, "{protocol} of {sender:?} {source} to {to} on {backend:?}")
    }
}

/// Returns the ids of all entries of conntrack, by protocol, client and destination.
fn entries(site: &Site) -> BTreeMap<String, String> {
    let listing = "conntrack -L -f ipv4 -o id 2>/dev/null; conntrack -L -f ipv6 -o id 2>/dev/null";
    let listing = site.world.node.sh(listing);
    let entry = |line: &str| {
        let value = |key| line.split_whitespace().find_map(|word| word.strip_prefix(key));
        let end = |address, port| -> Option<SocketAddr> {
            Some(SocketAddr::new(value(address)?.parse().ok()?, value(port)?.parse().ok()?))
        };
        let protocol = line.split_whitespace().next()?;
        let (from, to) = (end("src=", "sport=")?, end("dst=", "dport=")?);
        Some((format!("{protocol} {from} {to}"), value("id=")?.to_owned()))
    };
    listing.lines().filter_map(entry).collect()
}
