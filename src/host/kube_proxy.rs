//! The remains of kube-proxy on this node: finds them, and removes them if netlink allows it.
//!
//! This examines the network namespace of the calling thread. The findings may belong to a running
//! kube-proxy or to one that has ended: the kernel does not tell.

mod chains;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;

use rulec_compiler::ipvs::Op;
use rulec_compiler::net::Family;
use rulec_engine::Owner;
use rulec_sinks::delete_link;
use rulec_sinks::ipvs::{Ipvs, Options};
use rulec_sinks::nft::foreign::{Foreign, ForeignTable, TableName};

/// The table of kube-proxy's nftables mode, in both families.
const TABLE: &str = "kube-proxy";

/// The interface of IPVS mode, which has all cluster addresses.
const IPVS_DEVICE: &str = "kube-ipvs0";

/// The number of attempts on a table whose rules others change at the same time.
const ATTEMPTS: usize = 5;

/// Something that belongs to kube-proxy, or may belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The table of nftables mode.
    NftTable {
        /// The family.
        family: Family,
    },
    /// Chains of iptables or IPVS mode in a table of iptables' nftables back end.
    Chains {
        /// The family.
        family: Family,
        /// The table.
        table: String,
        /// The number of chains.
        count: usize,
    },
    /// Tables of iptables' legacy back end. Their chains may be kube-proxy's or those of others:
    /// only its own interface can read them.
    LegacyTables {
        /// The family.
        family: Family,
        /// The tables that are registered in this network namespace.
        tables: Vec<String>,
    },
    /// The interface of IPVS mode.
    IpvsDevice,
    /// Virtual servers of IPVS, which may also belong to others.
    IpvsServers {
        /// Their number.
        count: usize,
    },
}

impl Finding {
    /// Returns true if it is certainly kube-proxy's.
    pub fn is_certain(&self) -> bool {
        match self {
            Self::NftTable { .. } | Self::Chains { .. } | Self::IpvsDevice => true,
            Self::LegacyTables { .. } | Self::IpvsServers { .. } => false,
        }
    }

    /// Returns the instructions for an operator.
    pub fn remedy(&self) -> String {
        let suffix = |family: &Family| if *family == Family::Ipv6 { "6" } else { "" };
        match self {
            Self::NftTable { .. } | Self::Chains { .. } | Self::IpvsDevice => {
                "stop kube-proxy, then run `rulec cleanup --kube-proxy`".to_owned()
            }
            Self::LegacyTables { family, .. } => format!(
                "check with `ip{}tables-legacy-save | grep KUBE-`; if it prints any chain, stop \
                 kube-proxy, then run `kube-proxy --cleanup`",
                suffix(family)
            ),
            Self::IpvsServers { .. } => {
                "check with `ipvsadm -Ln`; if all are kube-proxy's, stop it, then run `ipvsadm -C`"
                    .to_owned()
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NftTable { family } => {
                write!(f, "table {} {TABLE} of kube-proxy's nftables mode", word(*family))
            }
            Self::Chains { family, table, count } => write!(
                f,
                "chains of kube-proxy's iptables or IPVS mode in table {} {table} ({count})",
                word(*family)
            ),
            Self::LegacyTables { family, tables } => write!(
                f,
                "tables of iptables-legacy ({} {}), in which kube-proxy may have chains",
                word(*family),
                tables.join(", ")
            ),
            Self::IpvsDevice => write!(f, "interface {IPVS_DEVICE} of kube-proxy's IPVS mode"),
            Self::IpvsServers { count } => {
                write!(f, "virtual servers of IPVS, which may be kube-proxy's ({count})")
            }
        }
    }
}

/// Returns the family's name in nftables.
fn word(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
    }
}

/// The outcome for a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It was removed.
    Removed(Finding),
    /// A chain of kube-proxy must stay, since a rule of others leads to it.
    Needed {
        /// The family.
        family: Family,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// The chain with the rule.
        by: String,
    },
    /// It cannot be removed with netlink; its remedy tells how to remove it.
    Left(Finding),
}

/// The reason why something could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// nf_tables cannot be read.
    #[error("nf_tables cannot be reached")]
    Unavailable(#[source] io::Error),
    /// A process owns the table.
    #[error("table {} {TABLE} is owned by another process ({owner}): stop it first", word(*.family))]
    Owned {
        /// The family.
        family: Family,
        /// The owner of the table.
        owner: Owner,
    },
    /// The kernel refused the removal.
    #[error("cannot remove {what}")]
    Refused {
        /// The finding to remove.
        what: Finding,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
}

/// Looks for everything. Except for nf_tables, what cannot be read is treated as absent.
///
/// # Errors
///
/// If nf_tables cannot be reached.
pub fn find() -> io::Result<Vec<Finding>> {
    let mut found = Vec::new();
    for (name, table) in tables(&mut Foreign::open()?)? {
        found.extend(finding(&name, &table));
    }
    found.extend(legacy());
    if has_device() {
        found.push(Finding::IpvsDevice);
    }
    found.extend(servers());
    Ok(found)
}

/// Removes what can be removed, and returns the outcome of each finding. Each table is one
/// transaction; rules and chains of others are left alone. The virtual servers at addresses on the
/// device of IPVS mode are removed with it, unless `spare_ipvs` is set because they are in use.
///
/// # Errors
///
/// If something that should be removed is not. Earlier removals stay in effect.
pub fn remove(spare_ipvs: bool) -> Result<Vec<Removal>, RemovalError> {
    let mut outcomes = Vec::new();
    let mut foreign = Foreign::open().map_err(RemovalError::Unavailable)?;
    let found = tables(&mut foreign).map_err(RemovalError::Unavailable)?;
    for (name, table) in found {
        let Some(finding) = finding(&name, &table) else { continue };
        if name.1 == TABLE {
            remove_table(&mut foreign, &name, &table, finding, &mut outcomes)?;
        } else {
            remove_chains(&mut foreign, &name, finding, &mut outcomes)?;
        }
    }
    outcomes.extend(legacy().into_iter().map(Removal::Left));
    if spare_ipvs {
        return Ok(outcomes);
    }
    if has_device() {
        if servers().is_some() {
            let count = remove_servers().map_err(|source| {
                let what = Finding::IpvsServers { count: 0 };
                RemovalError::Refused { what, source }
            })?;
            outcomes.push(Removal::Removed(Finding::IpvsServers { count }));
        }
        let what = Finding::IpvsDevice;
        match delete_link(IPVS_DEVICE) {
            Ok(()) => outcomes.push(Removal::Removed(what)),
            Err(source) => return Err(RemovalError::Refused { what, source }),
        }
    }
    outcomes.extend(servers().map(Removal::Left));
    Ok(outcomes)
}

/// Deletes the virtual servers at all addresses on the device, and returns their number.
fn remove_servers() -> io::Result<usize> {
    let mut ipvs = Ipvs::open(Options::default()).map_err(io::Error::other)?;
    let held = ipvs.read()?;
    let servers = held.servers.keys().filter(|server| held.bound.contains(&server.address));
    let ops: Vec<Op> = servers.map(|server| Op::DeleteServer(*server)).collect();
    let refused = ipvs.apply(&ops)?;
    match refused.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(ops.len()),
    }
}

fn tables(foreign: &mut Foreign) -> io::Result<BTreeMap<TableName, ForeignTable>> {
    foreign.tables(|name| name == TABLE || chains::TABLES.contains(&name))
}

fn finding((family, name): &TableName, table: &ForeignTable) -> Option<Finding> {
    if name == TABLE {
        return Some(Finding::NftTable { family: *family });
    }
    let chains = || table.chains.keys();
    let count = chains().filter(|chain| chains::is_kube_proxys(chain)).count();
    let is_there = chains().any(|chain| chains::is_telling(chain));
    is_there.then(|| Finding::Chains { family: *family, table: name.clone(), count })
}

fn remove_table(
    foreign: &mut Foreign,
    name: &TableName,
    table: &ForeignTable,
    what: Finding,
    outcomes: &mut Vec<Removal>,
) -> Result<(), RemovalError> {
    match foreign.delete_table(name) {
        Ok(true) => outcomes.push(Removal::Removed(what)),
        // Another process was faster.
        Ok(false) => {}
        Err(source) => {
            return Err(match table.owner() {
                Some(owner) => RemovalError::Owned { family: name.0, owner },
                None => RemovalError::Refused { what, source },
            });
        }
    }
    Ok(())
}

/// Removes kube-proxy's chains from one table. If a running kube-proxy or another process changes
/// the table at the same time, the kernel may refuse the plan: then it is made again.
fn remove_chains(
    foreign: &mut Foreign,
    name: &TableName,
    what: Finding,
    outcomes: &mut Vec<Removal>,
) -> Result<(), RemovalError> {
    let mut attempt = 1;
    let (plan, source) = loop {
        let mut found = tables(foreign).map_err(RemovalError::Unavailable)?;
        let Some(table) = found.remove(name) else { return Ok(()) };
        let jumps = match foreign.jumps(name) {
            Ok(jumps) => jumps,
            // The table was deleted in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(RemovalError::Unavailable(error)),
        };
        let plan = chains::plan(&table.chains, &jumps);
        if plan.removal.chains.is_empty() && plan.removal.rules.is_empty() {
            break (plan, None);
        }
        match foreign.remove(name, &plan.removal) {
            Ok(()) => break (plan, None),
            Err(error) if attempt >= ATTEMPTS => break (plan, Some(error)),
            Err(_) => attempt += 1,
        }
    };
    if let Some(source) = source {
        return Err(RemovalError::Refused { what, source });
    }
    let (family, table) = name.clone();
    let count = plan.removal.chains.len();
    if count > 0 {
        outcomes.push(Removal::Removed(Finding::Chains { family, table: table.clone(), count }));
    }
    outcomes.extend(plan.stay.into_iter().map(|(chain, by)| {
        let table = table.clone();
        Removal::Needed { family, table, chain, by }
    }));
    Ok(())
}

fn legacy() -> Vec<Finding> {
    let files = [(Family::Ipv4, "ip_tables_names"), (Family::Ipv6, "ip6_tables_names")];
    let finding = |(family, file): (Family, &str)| {
        let tables: Vec<String> = read(file).lines().map(str::to_owned).collect();
        (!tables.is_empty()).then_some(Finding::LegacyTables { family, tables })
    };
    files.into_iter().filter_map(finding).collect()
}

fn has_device() -> bool {
    lists_device(&read("dev"))
}

/// Returns true if the interface is in `/proc/net/dev`: two header lines, then `  name: numbers`.
fn lists_device(dev: &str) -> bool {
    let name = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
    dev.lines().skip(2).filter_map(name).any(|name| name == IPVS_DEVICE)
}

fn servers() -> Option<Finding> {
    let count = count_servers(&read("ip_vs"));
    (count > 0).then_some(Finding::IpvsServers { count })
}

/// Returns the number of virtual servers in `/proc/net/ip_vs`: three header lines, then one line
/// for each server, followed by its destinations, which begin with an arrow.
fn count_servers(ip_vs: &str) -> usize {
    let is_server =
        |line: &&str| ["TCP ", "UDP ", "SCTP ", "FWM "].iter().any(|it| line.starts_with(it));
    ip_vs.lines().skip(3).filter(is_server).count()
}

/// Reads a file of this thread's network namespace; empty if the kernel does not have it.
fn read(file: &str) -> String {
    fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_virtual_servers_are_counted() {
        let listing = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A60000A:0050 rr  
  -> 0A320105:1F90      Masq    1      0          0         
  -> 0A320106:1F90      Masq    1      0          0         
UDP  [fd0000960000000000000000000a]:0035 rr persistent 10800
";
        assert_eq!(count_servers(listing), 2);
        let headings: String = listing.lines().take(3).map(|line| line.to_owned() + "\n").collect();
        assert_eq!(count_servers(&headings), 0);
        assert_eq!(count_servers(""), 0);
    }

    #[test]
    fn the_interface_is_matched_by_its_full_name() {
        let listing = |name: &str| {
            format!(
                "Inter-|   Receive                |  Transmit\n face |bytes    packets |bytes\n    \
                 lo: 0 0\n{name}:       0       0 \n"
            )
        };
        assert!(lists_device(&listing("kube-ipvs0")));
        assert!(!lists_device(&listing("kube-ipvs01")));
        assert!(!lists_device(&listing("xkube-ipvs0")));
        assert!(!lists_device(""));
    }
}
