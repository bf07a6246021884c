//! The owner of a table, described for an operator.

use std::fs;
use std::path::{Path, PathBuf};

use rulec_engine::Owner;

/// `NETLINK_NETFILTER` of <linux/netlink.h>.
const NETLINK_NETFILTER: &str = "12";

/// Finds the owner of the socket. A port id usually equals the process id, but in the PID namespace
/// of the owner: in a container it is 1. So this looks for the process that has the socket open.
pub(crate) fn find(portid: u32) -> Owner {
    Owner { portid, process: process(portid) }
}

/// Returns the process that has the socket with this port id, in the network namespace of this
/// thread. It examines every process, so use it only for errors.
fn process(portid: u32) -> Option<(u32, String)> {
    let sockets = fs::read_to_string("/proc/thread-self/net/netlink").ok()?;
    let socket = PathBuf::from(format!("socket:[{}]", inode(&sockets, portid)?));
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| has_open(*pid, &socket))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some((pid, name.trim_end().to_owned()))
}

/// Returns the inode of a netfilter socket in `/proc/net/netlink`, where protocol, port id and
/// inode are columns 2, 3 and 10.
fn inode(sockets: &str, portid: u32) -> Option<&str> {
    let portid = portid.to_string();
    sockets.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_it = columns.get(1..3) == Some(&[NETLINK_NETFILTER, &portid]);
        is_it.then(|| columns.get(9).copied())?
    })
}

fn has_open(pid: u32, socket: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|to| to == socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKETS: &str = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000093a67980 0   4242       00000000 0        0        0     2        0        4
00000000b6bf928c 12  0          00000000 0        0        0     2        0        477
00000000336bc16a 12  4242       00000000 0        0        0     2        0        479
";

    #[test]
    fn a_socket_is_found_by_protocol_and_port() {
        assert_eq!(inode(SOCKETS, 4242), Some("479"));
        assert_eq!(inode(SOCKETS, 4243), None);
        assert_eq!(inode("", 4242), None);
        assert_eq!(inode("header\n00000000336bc16a 12 4242", 4242), None);
    }

    #[test]
    fn the_owner_is_named_by_process_or_netlink_port() {
        let mut owner = Owner { portid: 7, process: None };
        assert_eq!(owner.to_string(), "netlink port 7");
        owner.process = Some((4242, "rulec".to_owned()));
        assert_eq!(owner.to_string(), "rulec, process id 4242");
    }
}
