//! The content of this back end in the syntax of the `nft` tool, for people and for `nft -f`.

use std::fmt::{self, Write as _};

use super::chain::{ChainId, HookPoint, HookType};
use super::element::{Element, Key, Value};
use super::op::Op;
use super::rule::{Field, Rule, Scratch, Statement};
use super::ruleset::{self, TABLE};
use super::set::{Data, Datatype, Scope, SetId, SetKind};
use crate::frontend::Frontend;
use crate::net::{Family, Fnv, Protocol};

/// Returns the operation as one or more commands, each on a line of its own.
pub fn commands(op: &Op, mark: u32) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_commands(&mut text, op, mark);
    text
}

fn write_commands(text: &mut String, op: &Op, mark: u32) -> fmt::Result {
    match op {
        Op::AddTable(family) => writeln!(text, "add table {}", table(*family)),
        Op::DeleteTable(family) => writeln!(text, "delete table {}", table(*family)),
        Op::AddSet(family, set) => {
            let spec = set.spec();
            let kind = if spec.data == Data::None { "set" } else { "map" };
            let body = set_body(*family, *set);
            writeln!(text, "add {kind} {} {} {{ {body} }}", table(*family), set.name())
        }
        Op::AddChain(family, chain) => {
            write!(text, "add chain {} {chain}", table(*family))?;
            if let Some(hook) = chain.hook() {
                let kind = match hook.kind {
                    HookType::Filter => "filter",
                    HookType::Nat => "nat",
                };
                let point = hook_name(hook.point);
                write!(text, " {{ type {kind} hook {point} priority {}; }}", hook.priority)?;
            }
            writeln!(text)
        }
        Op::FlushChain(family, chain) => writeln!(text, "flush chain {} {chain}", table(*family)),
        Op::FillChain(family, chain) => {
            for rule in ruleset::rules(*chain) {
                let comment = fingerprint(*family, mark, &rule);
                let rule = self::rule(*family, mark, &rule);
                let table = table(*family);
                writeln!(text, "add rule {table} {chain} {rule} comment \"{comment}\"")?;
            }
            Ok(())
        }
        Op::DeleteChain(family, chain) => writeln!(text, "delete chain {} {chain}", table(*family)),
        Op::Add(added) => {
            let (table, set) = (table(added.key.family()), added.key.set().name());
            writeln!(text, "add element {table} {set} {{ {} }}", element(added))
        }
        Op::Delete(deleted) => {
            let (table, set) = (table(deleted.key.family()), deleted.key.set().name());
            writeln!(text, "delete element {table} {set} {{ {} }}", key(deleted.key))
        }
    }
}

/// Returns `ip rulec` or `ip6 rulec`.
pub fn table(family: Family) -> String {
    format!("{} {TABLE}", prefix(family))
}

/// Returns an element as it is written between the braces of a set.
pub fn element(element: &Element) -> String {
    let mut text = key(element.key);
    if let Some(owner) = &element.comment {
        let _ = write!(text, " comment \"{owner}\"");
    }
    match element.value {
        Value::Present => {}
        Value::Pick(pick) => {
            let _ = write!(text, " : {}", priority(pick.code()));
        }
        Value::Id(id) => {
            let _ = write!(text, " : {}", priority(id));
        }
        Value::Backend(backend) => {
            let _ = write!(text, " : {} . {}", backend.address, backend.port);
        }
        Value::Goto => {
            if let Key::Pick(_, scope, view, pick) = element.key {
                let _ = write!(text, " : goto {}", ChainId::Pick(scope, view, pick));
            }
        }
    }
    text
}

/// Returns the key of an element.
pub fn key(key: Key) -> String {
    match key {
        Key::Protocol(_, protocol) | Key::InvalidProtocol(_, protocol) => {
            self::protocol(protocol).to_owned()
        }
        Key::Pick(_, _, _, pick) => priority(pick.code()),
        Key::UnmasqueradedSource(net) | Key::PodSource(net) | Key::ServiceCidr(net) => {
            net.to_string()
        }
        Key::UnmasqueradedInterface(_, pattern) | Key::PodInterface(_, pattern) => {
            format!("\"{pattern}\"")
        }
        Key::NodeIp(address) | Key::ClusterIp(address) | Key::Vip(address) => address.to_string(),
        Key::NodeAddressType(_) => "local".to_owned(),
        Key::Hairpin(address) => format!("{address} . {address}"),
        Key::Service(_, frontend) | Key::Reject(frontend) | Key::Firewalled(frontend) => {
            self::frontend(frontend)
        }
        Key::AffinitySlot(_, frontend, slot) | Key::Endpoint(_, frontend, slot) => {
            format!("{} . {}", self::frontend(frontend), priority(slot))
        }
        Key::SourceRange(frontend, net) => format!("{} . {net}", self::frontend(frontend)),
    }
}

/// Returns the comment of a rule: a hash of its text, by which our rules are told from those of
/// others without decoding them. As a comment, it survives when an admin saves the ruleset to a
/// file and loads it again.
pub fn fingerprint(family: Family, mark: u32, rule: &Rule) -> String {
    let mut hash = Fnv::default();
    hash.write(self::rule(family, mark, rule).as_bytes());
    format!("{TABLE}:{:016x}", hash.finish())
}

/// Returns a rule, without the command that adds it.
pub fn rule(family: Family, mark: u32, rule: &Rule) -> String {
    let statements: Vec<String> =
        rule.0.iter().map(|statement| self::statement(family, mark, statement)).collect();
    statements.join(" ")
}

fn prefix(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
    }
}

fn hook_name(point: HookPoint) -> &'static str {
    match point {
        HookPoint::Prerouting => "prerouting",
        HookPoint::Input => "input",
        HookPoint::Forward => "forward",
        HookPoint::Output => "output",
        HookPoint::Postrouting => "postrouting",
    }
}

fn set_body(family: Family, set: SetId) -> String {
    let spec = set.spec();
    let datatypes = |types: &[Datatype]| {
        let names: Vec<&str> = types.iter().map(|datatype| type_name(family, *datatype)).collect();
        names.join(" . ")
    };
    let mut body = format!("type {}", datatypes(&spec.key));
    match &spec.data {
        Data::None => {}
        Data::Value(types) => {
            let _ = write!(body, " : {}", datatypes(types));
        }
        Data::Verdict => body.push_str(" : verdict"),
    }
    body.push(';');
    match spec.kind {
        SetKind::Hash => {}
        SetKind::Interval => body.push_str(" flags interval;"),
        SetKind::Dynamic { size } => {
            let _ = write!(body, " size {size}; flags dynamic,timeout;");
        }
    }
    body
}

fn type_name(family: Family, datatype: Datatype) -> &'static str {
    match (datatype, family) {
        (Datatype::Address, Family::Ipv4) => "ipv4_addr",
        (Datatype::Address, Family::Ipv6) => "ipv6_addr",
        (Datatype::Protocol, _) => "inet_proto",
        (Datatype::Port, _) => "inet_service",
        (Datatype::Priority, _) => "classid",
        (Datatype::FibType, _) => "fib_addrtype",
        (Datatype::Interface, _) => "ifname",
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn frontend(frontend: Frontend) -> String {
    match frontend {
        Frontend::Address { address, protocol, port } => {
            format!("{address} . {} . {port}", self::protocol(protocol))
        }
        Frontend::NodePort { protocol, port, .. } => {
            format!("{} . {port}", self::protocol(protocol))
        }
    }
}

/// Returns a 32-bit number in the notation of `meta priority`.
fn priority(value: u32) -> String {
    match value {
        0 => "none".to_owned(),
        u32::MAX => "root".to_owned(),
        value => format!("{:x}:{:x}", value >> 16, value & 0xffff),
    }
}

fn fields(family: Family, fields: &[Field]) -> String {
    let ip = prefix(family);
    let names: Vec<String> = fields
        .iter()
        .map(|field| match field {
            Field::Iifname => "iifname".to_owned(),
            Field::Saddr => format!("{ip} saddr"),
            Field::Daddr => format!("{ip} daddr"),
            Field::Protocol => "meta l4proto".to_owned(),
            Field::HeaderProtocol => match family {
                Family::Ipv4 => "ip protocol".to_owned(),
                Family::Ipv6 => "ip6 nexthdr".to_owned(),
            },
            Field::Dport => "th dport".to_owned(),
            Field::Priority => "meta priority".to_owned(),
            Field::OriginalDaddr => format!("ct original {ip} daddr"),
        })
        .collect();
    names.join(" . ")
}

fn statement(family: Family, mark: u32, statement: &Statement) -> String {
    let ip = prefix(family);
    match statement {
        Statement::Member { fields: key, set, is_member } => {
            let not = if *is_member { "" } else { "!= " };
            format!("{} {not}@{}", fields(family, key), set.name())
        }
        Statement::NotLoopback => match family {
            Family::Ipv4 => "ip daddr != 127.0.0.0/8".to_owned(),
            Family::Ipv6 => "ip6 daddr != ::1".to_owned(),
        },
        Statement::DaddrType(set) => format!("fib daddr type @{}", set.name()),
        Statement::SaddrIsLocal(true) => "fib saddr type local".to_owned(),
        Statement::SaddrIsLocal(false) => "fib saddr type != local".to_owned(),
        Statement::StateNew => "ct state new".to_owned(),
        Statement::StateInvalid => "ct state invalid".to_owned(),
        Statement::StatusDnat => "ct status dnat".to_owned(),
        Statement::MarkIsSet => format!("meta mark & {mark:#010x} == {mark:#010x}"),
        Statement::SetMark => format!("meta mark set meta mark | {mark:#010x}"),
        Statement::ClearMark => format!("meta mark set meta mark & {:#010x}", !mark),
        Statement::SetPriority(Scratch::Zero) => "meta priority set none".to_owned(),
        Statement::SetPriority(Scratch::Map { fields: key, map }) => {
            format!("meta priority set {} map @{}", fields(family, key), map.name())
        }
        Statement::SetPriority(Scratch::Random(modulus)) => {
            format!("meta priority set numgen random mod {modulus}")
        }
        Statement::SetPriority(Scratch::ClientHash(modulus)) => {
            format!("meta priority set jhash {ip} saddr mod {modulus} seed {HASH_SEED:#x}")
        }
        Statement::GotoPick(scope, view) => {
            format!("meta priority vmap @{}", SetId::Picks(*scope, *view).name())
        }
        Statement::RecordAffinity { scope, view, timeout } => {
            let record = affinity_record(family, *scope, &format!(" timeout {timeout}s"));
            format!("update @{} {record}", SetId::Affinity(*scope, *view).name())
        }
        Statement::ForgetAffinity(scope, view) => {
            let record = affinity_record(family, *scope, "");
            format!("delete @{} {record}", SetId::Affinity(*scope, *view).name())
        }
        Statement::Dnat { fields: key, map } => {
            format!("dnat {ip} to {} map @{}", fields(family, key), map.name())
        }
        Statement::Masquerade => "masquerade fully-random".to_owned(),
        Statement::Reject => "reject".to_owned(),
        Statement::Drop => "drop".to_owned(),
        Statement::Jump(chain) => format!("jump {chain}"),
        Statement::Goto(chain) => format!("goto {chain}"),
        Statement::Return => "return".to_owned(),
    }
}

/// The seed of the client hash: an arbitrary constant, the same on every node, so that a client
/// finds the same backend through any node, as long as the nodes assign the same slots.
pub const HASH_SEED: u32 = 0x7275_6c65;

fn affinity_record(family: Family, scope: Scope, timeout: &str) -> String {
    let key = fields(family, &ruleset::affinity_key(scope));
    format!("{{ {key}{timeout} : meta priority }}")
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_register_values_print_as_nft_prints_them() {
        let printed = [0, 1, 0xffff, 0x1_0000, 0x8000_0002, u32::MAX].map(priority);
        assert_eq!(printed, ["none", "0:1", "0:ffff", "1:0", "8000:2", "root"]);
    }
}
