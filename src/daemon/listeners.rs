//! Finds processes that listen where a Service is now served.
//!
//! The rules come before sockets: a connection to a node port, or to an external IP that the node
//! itself has, goes to the Service from then on, and no longer to a process that listens there.
//! That is seldom intended, so it is logged when such a frontend is new. The kernel's lists of
//! sockets are read only for that, and not on the loop's thread: on a busy node they are long. SCTP
//! is not checked.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::nft::Key;
use rulec_compiler::resolve::node_ports;
use rulec_compiler::{Delta, Frontend, Model, PortKey, Program, Settings};

/// The frontends at addresses of the node that have been checked.
#[derive(Debug, Default)]
pub struct Listeners {
    known: BTreeSet<Frontend>,
}

/// A new frontend at addresses of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Opened {
    frontend: Frontend,
    /// Its addresses; `None` for all of the node's.
    addresses: Option<Vec<IpAddr>>,
    /// True if connections to `localhost` go there, too.
    at_localhost: bool,
    owner: Option<Arc<PortKey>>,
}

/// A socket that accepts connections, or datagrams from any peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listener {
    protocol: Protocol,
    at: SocketAddr,
    inode: u64,
}

impl Listeners {
    /// Checks the frontends that a delta opens; does nothing if it opens none. A frontend that the
    /// delta replaces is not new.
    pub fn follow(&mut self, delta: &Delta, model: &Model, settings: &Settings) {
        let opened = self.opened(delta, model, settings);
        look_at(opened);
    }

    /// Checks all frontends of a program that were not checked yet: those that existed before the
    /// daemon started.
    pub fn follow_all(&mut self, program: &Program, model: &Model, settings: &Settings) {
        let fragments = program.services().flat_map(|(_, fragment)| fragment.iter());
        let frontends = fragments.flat_map(|port| {
            port.frontends.iter().map(|(frontend, _)| (*frontend, Some(Arc::clone(&port.port))))
        });
        let opened = frontends.filter_map(|(it, owner)| self.open(it, owner, model, settings));
        let opened: Vec<Opened> = opened.collect();
        look_at(opened);
    }

    fn opened(&mut self, delta: &Delta, model: &Model, settings: &Settings) -> Vec<Opened> {
        let [mut gone, mut come] = <[BTreeSet<Frontend>; 2]>::default();
        let mut opened = Vec::new();
        for op in delta.ops() {
            if let Some(element) = op.added() {
                let Some(frontend) = frontend_of(element.key) else { continue };
                come.insert(frontend);
                opened.extend(self.open(frontend, element.comment.clone(), model, settings));
            }
            gone.extend(op.deleted().and_then(|element| frontend_of(element.key)));
        }
        for frontend in gone.difference(&come) {
            self.known.remove(frontend);
        }
        opened
    }

    /// Returns a frontend that is at addresses of the node and not known yet.
    fn open(
        &mut self,
        frontend: Frontend,
        owner: Option<Arc<PortKey>>,
        model: &Model,
        settings: &Settings,
    ) -> Option<Opened> {
        let addresses = match frontend {
            Frontend::NodePort { family, .. } => node_ports::addresses(model, settings, family),
            Frontend::Address { address, .. } => {
                let held = model.interface_addresses()?;
                held.object.addresses.contains(&address).then(|| Some(vec![address]))?
            }
        };
        let is_node_port = matches!(frontend, Frontend::NodePort { .. });
        let at_localhost = is_node_port && settings.serves_localhost(frontend.family());
        let opened = Opened { frontend, addresses, at_localhost, owner };
        self.known.insert(frontend).then_some(opened)
    }
}

/// Returns the frontend that an element is about.
fn frontend_of(key: Key) -> Option<Frontend> {
    if let Key::Service(frontend) | Key::Reject(frontend) = key { Some(frontend) } else { None }
}

/// Reports who listens there, on another thread.
fn look_at(opened: Vec<Opened>) {
    if !opened.is_empty() {
        tokio::task::spawn_blocking(move || report(&opened));
    }
}

fn report(opened: &[Opened]) {
    let listeners = read();
    for opened in opened {
        for listener in listeners.iter().filter(|listener| opened.is_taken_by(listener)) {
            let service = opened.owner.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(
                service,
                frontend = %opened.frontend,
                listener = %listener.at,
                process = owner_of(listener.inode).unwrap_or_default(),
                "a process listens where a Service is served: \
                 connections go to the Service"
            );
        }
    }
}

impl Opened {
    /// Returns whether a socket has received what comes to this frontend until now. A socket for
    /// all IPv6 addresses usually accepts IPv4, too.
    fn is_taken_by(&self, listener: &Listener) -> bool {
        let (protocol, port) = match self.frontend {
            Frontend::Address { protocol, port, .. }
            | Frontend::NodePort { protocol, port, .. } => (protocol, port),
        };
        if listener.protocol != protocol || listener.at.port() != port.get() {
            return false;
        }
        let at = listener.at.ip().to_canonical();
        let is_of_family = Family::of(at) == self.frontend.family();
        match at {
            IpAddr::V6(at) if at.is_unspecified() => true,
            IpAddr::V4(_) | IpAddr::V6(_) if at.is_unspecified() => is_of_family,
            at if at.is_loopback() => self.at_localhost && at == self.frontend.family().localhost(),
            IpAddr::V4(_) | IpAddr::V6(_) => match &self.addresses {
                Some(addresses) => addresses.contains(&at),
                None => is_of_family,
            },
        }
    }
}

/// Returns all listening sockets in the network namespace of this thread.
fn read() -> Vec<Listener> {
    let lists = [
        ("tcp", Protocol::Tcp),
        ("tcp6", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("udp6", Protocol::Udp),
    ];
    let mut listeners = Vec::new();
    for (name, protocol) in lists {
        let path = format!("/proc/thread-self/net/{name}");
        match fs::read_to_string(&path) {
            Ok(text) => listeners.extend(text.lines().filter_map(|line| parse(line, protocol))),
            // A kernel without IPv6 has no list of it.
            Err(error) => tracing::debug!(path, %error, "cannot read the list of sockets"),
        }
    }
    listeners
}

/// Parses a line of `/proc/net/tcp` or a similar file, if it is a listening socket.
fn parse(line: &str, protocol: Protocol) -> Option<Listener> {
    // TCP_LISTEN; for UDP, TCP_CLOSE, the state of a socket that is not connected.
    let listens = if protocol == Protocol::Tcp { "0A" } else { "07" };
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    // 32-bit words as they are in memory, printed as numbers.
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    let at = SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?);
    (state == listens).then_some(Listener { protocol, at, inode })
}

/// Returns the name of a process that has a socket open, as far as its files are visible.
fn owner_of(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let has_it = |process: &fs::DirEntry| {
        let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let mut links = files.filter_map(|file| fs::read_link(file.path()).ok());
        links.any(|link| *link.as_os_str() == *wanted)
    };
    let is_number = |process: &fs::DirEntry| {
        process.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok())
    };
    let mut processes = fs::read_dir("/proc").ok()?.flatten().filter(is_number);
    let name = fs::read_to_string(processes.find(has_it)?.path().join("comm")).ok()?;
    Some(name.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use rulec_compiler::nft::{Element, Value};
    use rulec_compiler::object::{InterfaceAddresses, Object};
    use rulec_compiler::settings::NodePortAddresses;
    use rulec_compiler::{Change, Op, Origin, Provenance, Sourced};

    use super::*;

    const OWN: &str = "192.0.2.10";

    fn port(port: u16) -> NonZeroU16 {
        NonZeroU16::new(port).unwrap()
    }

    fn node_port(number: u16) -> Frontend {
        Frontend::NodePort { family: Family::Ipv4, protocol: Protocol::Tcp, port: port(number) }
    }

    fn at(address: &str) -> Frontend {
        let address = address.parse().unwrap();
        Frontend::Address { address, protocol: Protocol::Tcp, port: port(22) }
    }

    fn op(op: fn(Element) -> Op, frontend: Frontend) -> Op {
        op(Element::new(Key::Reject(frontend), Value::Present))
    }

    fn delta(ops: Vec<Op>) -> Delta {
        Delta { shared: ops.into(), ..Delta::default() }
    }

    fn world() -> (Model, Settings) {
        let mut model = Model::default();
        let addresses = InterfaceAddresses {
            addresses: vec![OWN.parse().unwrap()],
            ..InterfaceAddresses::default()
        };
        let object = Object::InterfaceAddresses(Arc::new(addresses));
        let provenance = Provenance("test".into());
        model.apply(Origin::Kernel, Change::Apply(Sourced { object, provenance }));
        let settings = Settings {
            node_port_addresses: NodePortAddresses::Cidrs(Vec::new()),
            ..Settings::new("here".into())
        };
        (model, settings)
    }

    #[test]
    fn only_new_frontends_at_node_addresses_are_checked() {
        let (model, settings) = world();
        let mut listeners = Listeners::default();
        let mut opened = |ops: &[Op]| {
            let opened = listeners.opened(&delta(ops.to_vec()), &model, &settings);
            opened.into_iter().map(|opened| opened.frontend).collect::<Vec<Frontend>>()
        };
        let all = [at(OWN), at("198.51.100.30"), node_port(30080)];
        assert_eq!(opened(&all.map(|it| op(Op::add, it))), [at(OWN), node_port(30080)]);
        // A change of the endpoints.
        let replaced = [op(Op::delete, node_port(30080)), op(Op::add, node_port(30080))];
        assert_eq!(opened(&replaced), []);
        let served = Element::new(Key::Service(at(OWN)), Value::Present);
        assert_eq!(opened(&[op(Op::delete, at(OWN)), Op::add(served)]), []);
        assert_eq!(opened(&[op(Op::delete, node_port(30080))]), []);
        assert_eq!(opened(&[op(Op::add, node_port(30080))]), [node_port(30080)]);
    }

    #[test]
    fn only_listening_sockets_are_parsed() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(parse(head, Protocol::Tcp), None);
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let line = |address: &str, state: &str| {
            format!(
                "   0: {address}:0016 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0"
            )
        };
        let v4 = word([192, 0, 2, 10]);
        let found = parse(&line(&v4, "0A"), Protocol::Tcp).unwrap();
        assert_eq!((found.at, found.inode), ("192.0.2.10:22".parse().unwrap(), 4711));
        assert_eq!(parse(&line(&v4, "01"), Protocol::Tcp), None, "that is a connection");
        assert_eq!(parse(&line(&v4, "0A"), Protocol::Udp), None);
        assert!(parse(&line(&v4, "07"), Protocol::Udp).is_some());
        let v6 = [[0x20, 1, 0xd, 0xb8], [0; 4], [0; 4], [0, 0, 0, 0x10]].map(word).concat();
        let found = parse(&line(&v6, "0A"), Protocol::Tcp).unwrap();
        assert_eq!(found.at, "[2001:db8::10]:22".parse().unwrap());
        for odd in ["", "0: x", "0: 00:00 1 0A 2 3 4 5 6", "0: ZZZZZZZZ:0016 0 0A 0 0 0 0 0 1"] {
            assert_eq!(parse(odd, Protocol::Tcp), None, "of {odd:?}");
        }
    }

    #[test]
    fn a_socket_conflicts_where_it_listens() {
        let opened = |frontend, addresses: Option<&[&str]>| Opened {
            frontend,
            addresses: addresses.map(|all| all.iter().map(|it| it.parse().unwrap()).collect()),
            at_localhost: false,
            owner: None,
        };
        let localhost = |at_localhost| Opened { at_localhost, ..opened(node_port(22), None) };
        let cases = [
            (opened(node_port(22), None), "0.0.0.0:22", true),
            (opened(node_port(22), None), "[::]:22", true),
            (opened(node_port(22), None), "192.0.2.10:22", true),
            (opened(node_port(22), None), "127.0.0.1:22", false),
            (opened(node_port(22), Some(&["127.0.0.2"])), "127.0.0.2:22", false),
            (localhost(true), "127.0.0.1:22", true),
            (localhost(true), "127.0.0.2:22", false),
            (localhost(true), "[::1]:22", false),
            (opened(node_port(22), None), "0.0.0.0:23", false),
            (opened(node_port(22), Some(&[OWN])), "192.0.2.10:22", true),
            (opened(node_port(22), Some(&[OWN])), "[::ffff:192.0.2.10]:22", true),
            (opened(node_port(22), Some(&[OWN])), "192.0.2.110:22", false),
            (opened(at(OWN), Some(&[OWN])), "192.0.2.10:22", true),
            (opened(at("2001:db8::10"), Some(&["2001:db8::10"])), "[::]:22", true),
            (opened(at("2001:db8::10"), Some(&["2001:db8::10"])), "0.0.0.0:22", false),
        ];
        for (opened, at, want) in cases {
            let at = at.parse().unwrap();
            let listener = |protocol| Listener { protocol, at, inode: 1 };
            assert_eq!(opened.is_taken_by(&listener(Protocol::Tcp)), want, "{opened:?} by {at}");
            assert!(!opened.is_taken_by(&listener(Protocol::Udp)), "{opened:?} by {at}");
        }
    }

    #[test]
    fn a_socket_and_its_owner_are_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        let all = read();
        let found = all.iter().find(|it| it.at == at && it.protocol == Protocol::Tcp).unwrap();
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(owner_of(found.inode).as_deref(), Some(own.trim_end()));
    }
}
