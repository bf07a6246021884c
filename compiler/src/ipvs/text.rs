//! Operations in the syntax of `ipvsadm --restore`, and of `ip` for addresses.

use std::net::SocketAddr;

use super::{Attributes, Op, RealServer, VirtualServer};
use crate::net::{Backend, Protocol};

/// Returns the operation as a line for `ipvsadm --restore`; `None` if it applies to an address.
pub fn command(op: &Op) -> Option<String> {
    Some(match op {
        Op::AddServer(it, attributes) => format!("-A {}{}", server(*it), options(attributes)),
        Op::SetServer(it, attributes) => format!("-E {}{}", server(*it), options(attributes)),
        Op::DeleteServer(it) => format!("-D {}", server(*it)),
        Op::AddReal(it, backend, real) => {
            format!("-a {} {}", server(*it), weighed(*backend, *real))
        }
        Op::SetReal(it, backend, real) => {
            format!("-e {} {}", server(*it), weighed(*backend, *real))
        }
        Op::DeleteReal(it, backend) => format!("-d {} -r {backend}", server(*it)),
        Op::Bind(_) | Op::Unbind(_) => return None,
    })
}

/// Returns the operation as text for people.
pub fn describe(op: &Op) -> String {
    if let Op::Bind(address) = op {
        return format!("bind {address}");
    }
    if let Op::Unbind(address) = op {
        return format!("unbind {address}");
    }
    command(op).map(|command| format!("ipvsadm {command}")).unwrap_or_default()
}

fn server(VirtualServer { address, protocol, port }: VirtualServer) -> String {
    let option = match protocol {
        Protocol::Tcp => "-t",
        Protocol::Udp => "-u",
        Protocol::Sctp => "--sctp-service",
    };
    format!("{option} {}", SocketAddr::new(address, port.get()))
}

/// Returns the attributes as options of `ipvsadm`, each preceded by a space.
pub fn options(Attributes { scheduling, persistence }: &Attributes) -> String {
    let mut options = format!(" -s {}", scheduling.scheduler);
    if !scheduling.flags.is_empty() {
        options += &format!(" -b {}", scheduling.flags);
    }
    if let Some(seconds) = persistence {
        options += &format!(" -p {seconds}");
    }
    options
}

fn weighed(backend: Backend, RealServer { weight, threshold }: RealServer) -> String {
    let threshold = threshold.map_or(String::new(), |it| format!(" -x {it}"));
    format!("-r {backend} -m -w {weight}{threshold}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs::{Scheduler, Scheduling};

    #[test]
    fn operations_print_as_ipvsadm_commands() {
        let web = VirtualServer {
            address: "10.96.0.10".parse().unwrap(),
            protocol: Protocol::Tcp,
            port: 80.try_into().unwrap(),
        };
        let dns = VirtualServer {
            address: "fd00:96::a".parse().unwrap(),
            protocol: Protocol::Udp,
            port: 53.try_into().unwrap(),
        };
        let pod =
            Backend { address: "10.244.1.5".parse().unwrap(), port: 8080.try_into().unwrap() };
        let plain = Attributes { scheduling: Scheduling::default(), persistence: None };
        let sticky =
            Attributes { scheduling: Scheduling::new(Scheduler::Mh), persistence: Some(10_800) };
        let commands = [
            (Op::AddServer(web, plain), "-A -t 10.96.0.10:80 -s rr"),
            (Op::SetServer(dns, sticky), "-E -u [fd00:96::a]:53 -s mh -b flag-1,flag-2 -p 10800"),
            (Op::DeleteServer(web), "-D -t 10.96.0.10:80"),
            (
                Op::AddReal(web, pod, RealServer::ACTIVE),
                "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1",
            ),
            (
                Op::SetReal(web, pod, RealServer::draining(77)),
                "-e -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 0 -x 77",
            ),
            (Op::DeleteReal(web, pod), "-d -t 10.96.0.10:80 -r 10.244.1.5:8080"),
        ];
        for (op, expected) in commands {
            assert_eq!(command(&op).as_deref(), Some(expected));
        }
        assert_eq!(command(&Op::Bind(web.address)), None);
    }
}
