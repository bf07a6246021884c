//! The content of this back end in the syntax of the `nft` tool, for people and for `nft -f`.

use std::fmt::{self, Write as _};

use super::chain::{HookPoint, HookType};
use super::code::{CLASS_MASK, CLIENTS_MASK, Class, GROUP_MASK};
use super::element::{Element, Key, Value};
use super::length::Length;
use super::localhost;
use super::maglev::Hash;
use super::op::Op;
use super::rule::{Field, Record, Rule, Scratch, Statement};
use super::ruleset::{self, TABLE};
use super::set::{Data, Datatype, SetId, SetKind};
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
        Op::DeleteSet(family, set) => {
            let kind = if set.spec().data == Data::None { "set" } else { "map" };
            writeln!(text, "delete {kind} {} {}", table(*family), set.name())
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
    if element.is_counted {
        text.push_str(" counter");
    }
    if let Some(owner) = &element.comment {
        let _ = write!(text, " comment \"{owner}\"");
    }
    match element.value {
        Value::Present => {}
        Value::Code(code) => {
            let _ = write!(text, " : {}", priority(code.code()));
        }
        Value::Member(member) => {
            let _ = write!(text, " : {}", priority(member.code()));
        }
        Value::Lengths(lengths) => {
            let _ = write!(text, " : {}", priority(lengths.number()));
        }
        Value::Backend(backend) => {
            let _ = write!(text, " : {} . {}", backend.address, backend.port);
        }
        Value::Goto(chain) => {
            let _ = write!(text, " : goto {chain}");
        }
    }
    text
}

/// Returns the key of an element.
pub fn key(key: Key) -> String {
    match key {
        Key::InvalidProtocol(_, protocol) | Key::NodePortProtocol(_, protocol) => {
            self::protocol(protocol).to_owned()
        }
        Key::Class(_, class) => priority(class.number()),
        Key::Draw(_, draw) => priority(Class::from(draw).number()),
        Key::UnmasqueradedSource(net) | Key::PodSource(net) | Key::ServiceCidr(net) => {
            net.to_string()
        }
        Key::UnmasqueradedInterface(_, pattern) | Key::PodInterface(_, pattern) => {
            format!("\"{pattern}\"")
        }
        Key::NodeIp(address) | Key::ClusterIp(address) | Key::Vip(address) => address.to_string(),
        Key::Hairpin(address) => format!("{address} . {address}"),
        Key::Service(frontend) | Key::Reject(frontend) | Key::Firewalled(frontend) => {
            self::frontend(frontend)
        }
        Key::LocalGroup(_, group) | Key::MemberGroup(_, group) => priority(group.code()),
        Key::Endpoint(_, group, protocol, slot) => {
            format!("{} . {} . {slot}", priority(group.code()), self::protocol(protocol))
        }
        Key::Next(_, member) => priority(member.code()),
        Key::MemberSlot(_, group, slot) => format!("{} . {slot}", priority(group.code())),
        Key::Member(_, member, protocol) => {
            format!("{} . {}", priority(member.code()), self::protocol(protocol))
        }
        Key::SourceRange(frontend, net) => {
            let length = Length::of(net).map_or(0, Length::number);
            format!("{} . {} . {}", priority(length), self::frontend(frontend), net.network())
        }
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
    let is_by_expression = spec.is_by_expression();
    let datatypes = |types: &[Datatype]| {
        let name = if is_by_expression { expression_of_type } else { type_name };
        let names: Vec<&str> = types.iter().map(|datatype| name(family, *datatype)).collect();
        names.join(" . ")
    };
    let keyword = if is_by_expression { "typeof" } else { "type" };
    let mut body = format!("{keyword} {}", datatypes(&spec.key));
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
        SetKind::Dynamic => body.push_str(" flags dynamic,timeout;"),
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
        (Datatype::Integer, _) => "integer",
        (Datatype::Interface, _) => "ifname",
    }
}

/// Returns an expression of a type, for `typeof`. The tool crashes when it lists a set that was
/// declared by a hash (nft 1.0.6), but takes a hash for a number.
fn expression_of_type(family: Family, datatype: Datatype) -> &'static str {
    match (datatype, family) {
        (Datatype::Address, Family::Ipv4) => "ip daddr",
        (Datatype::Address, Family::Ipv6) => "ip6 daddr",
        (Datatype::Protocol, _) => "meta l4proto",
        (Datatype::Port, _) => "th dport",
        (Datatype::Priority, _) => "meta priority",
        (Datatype::Integer, _) => "numgen random mod 4294967295",
        (Datatype::Interface, _) => "iifname",
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
            Field::Dport => "th dport".to_owned(),
            Field::Priority => "meta priority".to_owned(),
            Field::Group => format!("meta priority & {}", priority(GROUP_MASK)),
            Field::Length(length) => format!("meta priority & {}", priority(length.number())),
            Field::Network(length) => network(family, *length),
            Field::Random(modulus) => format!("numgen random mod {modulus}"),
            Field::Hash(hash, modulus) => {
                let client = match hash {
                    Hash::Connection => format!("{ip} saddr . th sport"),
                    Hash::Source => format!("{ip} saddr"),
                };
                format!("jhash {client} mod {modulus} seed {HASH_SEED:#x}")
            }
            Field::OriginalSaddr => format!("ct original {ip} saddr"),
            Field::OriginalDaddr => format!("ct original {ip} daddr"),
            Field::ReplyDaddr => format!("ct reply {ip} daddr"),
        })
        .collect();
    names.join(" . ")
}

/// Returns the source address without the bits after a length.
fn network(family: Family, length: Length) -> String {
    let source = format!("{} saddr", prefix(family));
    match length.mask(family) {
        Some(mask) => format!("{source} & {mask}"),
        None => source,
    }
}

fn statement(family: Family, mark: u32, statement: &Statement) -> String {
    let ip = prefix(family);
    match statement {
        Statement::Member { fields: key, set, is_member } => {
            let not = if *is_member { "" } else { "!= " };
            format!("{} {not}@{}", fields(family, key), set.name())
        }
        Statement::IsLoopback(field, is_loopback) => {
            let addresses = match family {
                Family::Ipv4 => "127.0.0.0/8",
                Family::Ipv6 => "::1",
            };
            let not = if *is_loopback { "" } else { "!= " };
            format!("{} {not}{addresses}", fields(family, &[*field]))
        }
        Statement::IsLocalhost(field) => {
            format!("{} {}", fields(family, &[*field]), family.localhost())
        }
        Statement::DaddrIsLocal => "fib daddr type local".to_owned(),
        Statement::SaddrIsLocal(true) => "fib saddr type local".to_owned(),
        Statement::SaddrIsLocal(false) => "fib saddr type != local".to_owned(),
        Statement::StateNew => "ct state new".to_owned(),
        Statement::StateInvalid => "ct state invalid".to_owned(),
        Statement::StatusDnat => "ct status dnat".to_owned(),
        Statement::StatusSnat => "ct status snat".to_owned(),
        Statement::MarkIsSet => format!("meta mark & {mark:#010x} == {mark:#010x}"),
        Statement::SetMark => format!("meta mark set meta mark | {mark:#010x}"),
        Statement::ClearMark => format!("meta mark set meta mark & {:#010x}", !mark),
        Statement::StandIn => format!("{ip} saddr set {}", localhost::stand_in(family)),
        Statement::SetDaddr(from) => format!("{ip} daddr set {}", fields(family, &[*from])),
        Statement::SetPriority(Scratch::AllClients) => {
            format!("meta priority set meta priority & {}", priority(!CLIENTS_MASK))
        }
        Statement::SetPriority(Scratch::Zero) => "meta priority set none".to_owned(),
        Statement::SetPriority(Scratch::Map { fields: key, map }) => {
            format!("meta priority set {} map @{}", fields(family, key), map.name())
        }
        Statement::ClientsAre(clients) => {
            let [mask, bits] = [CLIENTS_MASK, clients.bits()].map(priority);
            format!("meta priority & {mask} == {bits}")
        }
        Statement::LengthIsUsed(length) => {
            let bit = priority(length.number());
            format!("meta priority & {bit} == {bit}")
        }
        Statement::GotoByClass(map) => {
            format!("meta priority & {} vmap @{}", priority(CLASS_MASK), map.name())
        }
        Statement::Record(record) => {
            let timeout = format!(" timeout {}s", record.timeout());
            format!("update @{} {}", record.set().name(), element_of(family, *record, &timeout))
        }
        Statement::Forget(record) => {
            format!("delete @{} {}", record.set().name(), element_of(family, *record, ""))
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

/// The seed of the client hash: an arbitrary constant.
pub const HASH_SEED: u32 = 0x7275_6c65;

fn element_of(family: Family, record: Record, timeout: &str) -> String {
    let key = fields(family, &record.key());
    format!("{{ {key}{timeout} : meta priority }}")
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
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
