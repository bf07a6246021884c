//! The statements of a rule as expressions of nf_tables.

use std::ffi::CStr;
use std::net::IpAddr;

use nftnl::nftnl_sys as sys;
use rulec_compiler::net::Family;
use rulec_compiler::nft::chain::ChainId;
use rulec_compiler::nft::code::{CLASS_MASK, CLIENTS_MASK, GROUP_MASK};
use rulec_compiler::nft::localhost;
use rulec_compiler::nft::maglev::Hash;
use rulec_compiler::nft::rule::{Field, Record, Rule, Scratch, Statement};
use rulec_compiler::nft::set::SetId;
use rulec_compiler::nft::text::HASH_SEED;

use super::wire::{self, c, nfproto};
use crate::ffi::Expr;

/// The first of the kernel's sixteen 32-bit registers.
pub(super) const REG32: u32 = 8;
/// The verdict register.
const VERDICT: u32 = 0;

const META_PRIORITY: u32 = 2;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
pub(super) const META_NFTRACE: u32 = 12;
pub(super) const META_L4PROTO: u32 = 16;
pub(super) const NETWORK_HEADER: u32 = 1;
pub(super) const TRANSPORT_HEADER: u32 = 2;
const PAYLOAD_CSUM_NONE: u32 = 0;
const PAYLOAD_CSUM_INET: u32 = 1;
const PAYLOAD_L4CSUM_PSEUDOHDR: u32 = 1;
const LOOKUP_INVERT: u32 = 1;
pub(super) const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
pub(super) const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
/// Linux 4.17, as all four.
const CT_SRC_IP: u32 = 19;
const CT_DST_IP: u32 = 20;
const CT_SRC_IP6: u32 = 21;
const CT_DST_IP6: u32 = 22;
/// `NF_CT_STATE_INVALID_BIT`.
const STATE_INVALID: u32 = 1;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
pub(super) const STATE_NEW: u32 = 8;
/// `IPS_SRC_NAT`.
const STATUS_SNAT: u32 = 1 << 4;
/// `IPS_DST_NAT`.
const STATUS_DNAT: u32 = 1 << 5;
const FIB_FLAG_SADDR: u32 = 1;
const FIB_FLAG_DADDR: u32 = 2;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const NG_RANDOM: u32 = 1;
const HASH_JENKINS: u32 = 0;
const DYNSET_UPDATE: u32 = 1;
const DYNSET_DELETE: u32 = 2;
const NAT_DNAT: u32 = 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const RANDOM_FULLY: u32 = 1 << 4;
const REJECT_ICMP_UNREACH: u32 = 0;
const NF_DROP: u32 = 0;

/// Returns the expressions of a rule. `mark` requests masquerading.
pub(super) fn expressions(family: Family, mark: u32, rule: &Rule) -> impl Iterator<Item = Expr> {
    let encoder = Encoder { family, mark };
    rule.0.iter().flat_map(move |statement| encoder.statement(statement))
}

struct Encoder {
    family: Family,
    mark: u32,
}

impl Encoder {
    fn statement(&self, statement: &Statement) -> Vec<Expr> {
        let mut exprs = Vec::new();
        match statement {
            Statement::Member { fields, set, is_member } => {
                self.load(&mut exprs, fields);
                let flags = if *is_member { 0 } else { LOOKUP_INVERT };
                exprs.push(lookup(*set).u32(sys::NFTNL_EXPR_LOOKUP_FLAGS, flags));
            }
            Statement::IsLoopback(field, is_loopback) => {
                let (len, loopback): (u32, Vec<u8>) = match self.family {
                    Family::Ipv4 => (1, vec![127]),
                    Family::Ipv6 => (16, octets(self.family.localhost())),
                };
                let (_, offset) = self.address(*field);
                exprs.push(payload(NETWORK_HEADER, offset, len, REG32));
                exprs.push(cmp(if *is_loopback { CMP_EQ } else { CMP_NEQ }, &loopback));
            }
            Statement::IsLocalhost(field) => {
                self.load(&mut exprs, &[*field]);
                exprs.push(cmp(CMP_EQ, &octets(self.family.localhost())));
            }
            Statement::DaddrIsLocal => {
                exprs.push(fib_type(FIB_FLAG_DADDR));
                exprs.push(cmp(CMP_EQ, &wire::RTN_LOCAL.to_ne_bytes()));
            }
            Statement::SaddrIsLocal(is_local) => {
                exprs.push(fib_type(FIB_FLAG_SADDR));
                let op = if *is_local { CMP_EQ } else { CMP_NEQ };
                exprs.push(cmp(op, &wire::RTN_LOCAL.to_ne_bytes()));
            }
            Statement::StateNew => exprs.extend(ct_has(CT_STATE, STATE_NEW)),
            Statement::StateInvalid => exprs.extend(ct_has(CT_STATE, STATE_INVALID)),
            Statement::StatusDnat => exprs.extend(ct_has(CT_STATUS, STATUS_DNAT)),
            Statement::StatusSnat => exprs.extend(ct_has(CT_STATUS, STATUS_SNAT)),
            Statement::StandIn => {
                exprs.push(immediate(&octets(localhost::stand_in(self.family))));
                exprs.push(self.write_address(Field::Saddr));
            }
            Statement::SetDaddr(from) => {
                self.load(&mut exprs, &[*from]);
                exprs.push(self.write_address(Field::Daddr));
            }
            Statement::MarkIsSet => {
                exprs.push(meta_load(META_MARK, REG32));
                exprs.push(bitwise(REG32, self.mark, 0));
                exprs.push(cmp(CMP_EQ, &self.mark.to_ne_bytes()));
            }
            Statement::SetMark => exprs.extend(self.change_mark(self.mark)),
            Statement::ClearMark => exprs.extend(self.change_mark(0)),
            Statement::SetPriority(source) => {
                self.source(&mut exprs, source);
                exprs.push(meta_store(META_PRIORITY));
            }
            Statement::ClientsAre(clients) => {
                exprs.push(meta_load(META_PRIORITY, REG32));
                exprs.push(bitwise(REG32, CLIENTS_MASK, 0));
                exprs.push(cmp(CMP_EQ, &clients.bits().to_ne_bytes()));
            }
            Statement::LengthIsUsed(length) => {
                exprs.push(meta_load(META_PRIORITY, REG32));
                exprs.push(bitwise(REG32, length.number(), 0));
                exprs.push(cmp(CMP_EQ, &length.number().to_ne_bytes()));
            }
            Statement::GotoByClass(map) => {
                exprs.push(meta_load(META_PRIORITY, REG32));
                exprs.push(bitwise(REG32, CLASS_MASK, 0));
                exprs.push(lookup(*map).u32(sys::NFTNL_EXPR_LOOKUP_DREG, VERDICT));
            }
            Statement::Record(record) => {
                let milliseconds = u64::from(record.timeout()) * 1000;
                self.dynset(&mut exprs, *record, DYNSET_UPDATE, Some(milliseconds));
            }
            Statement::Forget(record) => {
                self.dynset(&mut exprs, *record, DYNSET_DELETE, None);
            }
            Statement::Dnat { fields, map } => {
                self.load(&mut exprs, fields);
                exprs.push(lookup(*map).u32(sys::NFTNL_EXPR_LOOKUP_DREG, REG32));
                let port = REG32 + self.registers(Field::Daddr);
                exprs.push(
                    Expr::new(c"nat")
                        .u32(sys::NFTNL_EXPR_NAT_TYPE, NAT_DNAT)
                        .u32(sys::NFTNL_EXPR_NAT_FAMILY, nfproto(self.family).into())
                        .u32(sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, REG32)
                        .u32(sys::NFTNL_EXPR_NAT_REG_ADDR_MAX, REG32)
                        .u32(sys::NFTNL_EXPR_NAT_REG_PROTO_MIN, port)
                        .u32(sys::NFTNL_EXPR_NAT_REG_PROTO_MAX, port),
                );
            }
            Statement::Masquerade => {
                exprs.push(Expr::new(c"masq").u32(sys::NFTNL_EXPR_MASQ_FLAGS, RANDOM_FULLY));
            }
            Statement::Reject => {
                // Port unreachable: code 3 of ICMP type 3, code 4 of ICMPv6 type 1.
                let code = match self.family {
                    Family::Ipv4 => 3,
                    Family::Ipv6 => 4,
                };
                exprs.push(
                    Expr::new(c"reject")
                        .u32(sys::NFTNL_EXPR_REJECT_TYPE, REJECT_ICMP_UNREACH)
                        .u8(sys::NFTNL_EXPR_REJECT_CODE, code),
                );
            }
            Statement::Drop => exprs.push(verdict(NF_DROP)),
            Statement::Jump(chain) => exprs.push(verdict_to(wire::NFT_JUMP, *chain)),
            Statement::Goto(chain) => exprs.push(verdict_to(wire::NFT_GOTO, *chain)),
            Statement::Return => exprs.push(verdict(wire::NFT_RETURN)),
        }
        exprs
    }

    fn source(&self, exprs: &mut Vec<Expr>, source: &Scratch) {
        match source {
            Scratch::Zero => exprs.push(immediate(&[0; 4])),
            Scratch::AllClients => {
                exprs.push(meta_load(META_PRIORITY, REG32));
                exprs.push(bitwise(REG32, !CLIENTS_MASK, 0));
            }
            Scratch::Map { fields, map } => {
                self.load(exprs, fields);
                exprs.push(lookup(*map).u32(sys::NFTNL_EXPR_LOOKUP_DREG, REG32));
            }
        }
    }

    fn dynset(&self, exprs: &mut Vec<Expr>, record: Record, op: u32, timeout: Option<u64>) {
        let fields = record.key();
        self.load(exprs, &fields);
        let used: u32 = fields.iter().map(|field| self.registers(*field)).sum();
        let data = REG32 + used;
        exprs.push(meta_load(META_PRIORITY, data));
        let expr = Expr::new(c"dynset")
            .text(sys::NFTNL_EXPR_DYNSET_SET_NAME, &c(&record.set().name()))
            .u32(sys::NFTNL_EXPR_DYNSET_OP, op)
            .u32(sys::NFTNL_EXPR_DYNSET_SREG_KEY, REG32)
            .u32(sys::NFTNL_EXPR_DYNSET_SREG_DATA, data);
        exprs.push(match timeout {
            Some(timeout) => expr.u64(sys::NFTNL_EXPR_DYNSET_TIMEOUT, timeout),
            None => expr,
        });
    }

    /// Loads fields into consecutive registers, as a key of a set.
    fn load(&self, exprs: &mut Vec<Expr>, fields: &[Field]) {
        let mut register = REG32;
        for field in fields {
            match field {
                Field::Iifname => exprs.push(meta_load(META_IIFNAME, register)),
                Field::Saddr | Field::Daddr => {
                    let (len, offset) = self.address(*field);
                    exprs.push(payload(NETWORK_HEADER, offset, len, register));
                }
                Field::Protocol => exprs.push(meta_load(META_L4PROTO, register)),
                Field::Dport => exprs.push(payload(TRANSPORT_HEADER, 2, 2, register)),
                Field::Priority => exprs.push(meta_load(META_PRIORITY, register)),
                Field::Group => {
                    exprs.push(meta_load(META_PRIORITY, register));
                    exprs.push(bitwise(register, GROUP_MASK, 0));
                }
                Field::Length(length) => {
                    exprs.push(meta_load(META_PRIORITY, register));
                    exprs.push(bitwise(register, length.number(), 0));
                }
                Field::Network(length) => {
                    let (len, offset) = self.address(Field::Saddr);
                    exprs.push(payload(NETWORK_HEADER, offset, len, register));
                    exprs.extend(length.mask(self.family).map(|mask| mask_address(register, mask)));
                }
                Field::Random(modulus) => exprs.push(
                    Expr::new(c"numgen")
                        .u32(sys::NFTNL_EXPR_NG_TYPE, NG_RANDOM)
                        .u32(sys::NFTNL_EXPR_NG_MODULUS, *modulus)
                        .u32(sys::NFTNL_EXPR_NG_DREG, register),
                ),
                Field::Hash(hash, modulus) => {
                    // What is hashed is loaded into the registers after the result.
                    let (mut len, offset) = self.address(Field::Saddr);
                    exprs.push(payload(NETWORK_HEADER, offset, len, register + 1));
                    if *hash == Hash::Connection {
                        let port = register + 1 + self.registers(Field::Saddr);
                        exprs.push(payload(TRANSPORT_HEADER, 0, 2, port));
                        // A port takes a whole register.
                        len += 4;
                    }
                    exprs.push(
                        Expr::new(c"hash")
                            .u32(sys::NFTNL_EXPR_HASH_TYPE, HASH_JENKINS)
                            .u32(sys::NFTNL_EXPR_HASH_SREG, register + 1)
                            .u32(sys::NFTNL_EXPR_HASH_LEN, len)
                            .u32(sys::NFTNL_EXPR_HASH_MODULUS, *modulus)
                            .u32(sys::NFTNL_EXPR_HASH_SEED, HASH_SEED)
                            .u32(sys::NFTNL_EXPR_HASH_DREG, register),
                    );
                }
                Field::OriginalSaddr | Field::OriginalDaddr | Field::ReplyDaddr => {
                    let key = match (self.family, field) {
                        (Family::Ipv4, Field::OriginalSaddr) => CT_SRC_IP,
                        (Family::Ipv6, Field::OriginalSaddr) => CT_SRC_IP6,
                        (Family::Ipv4, _) => CT_DST_IP,
                        (Family::Ipv6, _) => CT_DST_IP6,
                    };
                    let is_reply = *field == Field::ReplyDaddr;
                    exprs.push(ct_address(key, u8::from(is_reply), register));
                }
            }
            register += self.registers(*field);
        }
    }

    /// Returns the number of 32-bit registers that a field takes.
    fn registers(&self, field: Field) -> u32 {
        match field {
            Field::Saddr
            | Field::Network(_)
            | Field::Daddr
            | Field::OriginalSaddr
            | Field::OriginalDaddr
            | Field::ReplyDaddr => match self.family {
                Family::Ipv4 => 1,
                Family::Ipv6 => 4,
            },
            Field::Iifname => 4,
            Field::Protocol
            | Field::Dport
            | Field::Priority
            | Field::Length(_)
            | Field::Group
            | Field::Random(_)
            | Field::Hash(..) => 1,
        }
    }

    /// Returns length and offset of an address in the network header.
    fn address(&self, field: Field) -> (u32, u32) {
        match (self.family, field == Field::Saddr) {
            (Family::Ipv4, true) => (4, 12),
            (Family::Ipv4, false) => (4, 16),
            (Family::Ipv6, true) => (16, 8),
            (Family::Ipv6, false) => (16, 24),
        }
    }

    /// Writes the register to an address of the packet, and keeps the checksums right.
    fn write_address(&self, field: Field) -> Expr {
        let (len, offset) = self.address(field);
        // Only the header of IPv4 has a checksum.
        let (csum_type, csum_offset) = match self.family {
            Family::Ipv4 => (PAYLOAD_CSUM_INET, 10),
            Family::Ipv6 => (PAYLOAD_CSUM_NONE, 0),
        };
        Expr::new(c"payload")
            .u32(sys::NFTNL_EXPR_PAYLOAD_BASE, NETWORK_HEADER)
            .u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset)
            .u32(sys::NFTNL_EXPR_PAYLOAD_LEN, len)
            .u32(sys::NFTNL_EXPR_PAYLOAD_SREG, REG32)
            .u32(sys::NFTNL_EXPR_PAYLOAD_CSUM_TYPE, csum_type)
            .u32(sys::NFTNL_EXPR_PAYLOAD_CSUM_OFFSET, csum_offset)
            .u32(sys::NFTNL_EXPR_PAYLOAD_FLAGS, PAYLOAD_L4CSUM_PSEUDOHDR)
    }

    fn change_mark(&self, xor: u32) -> [Expr; 3] {
        [meta_load(META_MARK, REG32), bitwise(REG32, !self.mark, xor), meta_store(META_MARK)]
    }
}

pub(super) fn payload(base: u32, offset: u32, len: u32, register: u32) -> Expr {
    Expr::new(c"payload")
        .u32(sys::NFTNL_EXPR_PAYLOAD_BASE, base)
        .u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset)
        .u32(sys::NFTNL_EXPR_PAYLOAD_LEN, len)
        .u32(sys::NFTNL_EXPR_PAYLOAD_DREG, register)
}

pub(super) fn meta_load(key: u32, register: u32) -> Expr {
    Expr::new(c"meta").u32(sys::NFTNL_EXPR_META_KEY, key).u32(sys::NFTNL_EXPR_META_DREG, register)
}

pub(super) fn meta_store(key: u32) -> Expr {
    Expr::new(c"meta").u32(sys::NFTNL_EXPR_META_KEY, key).u32(sys::NFTNL_EXPR_META_SREG, REG32)
}

fn lookup(set: SetId) -> Expr {
    let name: &CStr = &c(&set.name());
    Expr::new(c"lookup")
        .u32(sys::NFTNL_EXPR_LOOKUP_SREG, REG32)
        .text(sys::NFTNL_EXPR_LOOKUP_SET, name)
}

pub(super) fn cmp(op: u32, data: &[u8]) -> Expr {
    Expr::new(c"cmp")
        .u32(sys::NFTNL_EXPR_CMP_SREG, REG32)
        .u32(sys::NFTNL_EXPR_CMP_OP, op)
        .data(sys::NFTNL_EXPR_CMP_DATA, data)
}

/// Sets the register to (register & mask) ^ xor.
fn bitwise(register: u32, mask: u32, xor: u32) -> Expr {
    masked(register, &mask.to_ne_bytes(), &xor.to_ne_bytes())
}

fn immediate(data: &[u8]) -> Expr {
    Expr::new(c"immediate")
        .u32(sys::NFTNL_EXPR_IMM_DREG, REG32)
        .data(sys::NFTNL_EXPR_IMM_DATA, data)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Clears the bits of an address that the mask does not have.
fn mask_address(register: u32, mask: IpAddr) -> Expr {
    match mask {
        IpAddr::V4(mask) => masked(register, &mask.octets(), &[0; 4]),
        IpAddr::V6(mask) => masked(register, &mask.octets(), &[0; 16]),
    }
}

fn masked<const N: usize>(register: u32, mask: &[u8; N], xor: &[u8; N]) -> Expr {
    Expr::new(c"bitwise")
        .u32(sys::NFTNL_EXPR_BITWISE_SREG, register)
        .u32(sys::NFTNL_EXPR_BITWISE_DREG, register)
        .u32(sys::NFTNL_EXPR_BITWISE_LEN, u32::try_from(N).unwrap_or(0))
        .data(sys::NFTNL_EXPR_BITWISE_MASK, mask)
        .data(sys::NFTNL_EXPR_BITWISE_XOR, xor)
}

pub(super) fn ct_has(key: u32, bit: u32) -> [Expr; 3] {
    let load =
        Expr::new(c"ct").u32(sys::NFTNL_EXPR_CT_KEY, key).u32(sys::NFTNL_EXPR_CT_DREG, REG32);
    [load, bitwise(REG32, bit, 0), cmp(CMP_NEQ, &[0; 4])]
}

/// Loads an address of a flow: of direction 0, that of its first packet, or 1, that of answers.
fn ct_address(key: u32, direction: u8, register: u32) -> Expr {
    Expr::new(c"ct")
        .u32(sys::NFTNL_EXPR_CT_KEY, key)
        .u8(sys::NFTNL_EXPR_CT_DIR, direction)
        .u32(sys::NFTNL_EXPR_CT_DREG, register)
}

/// Looks up the type of the route to the source or the destination.
fn fib_type(of: u32) -> Expr {
    Expr::new(c"fib")
        .u32(sys::NFTNL_EXPR_FIB_FLAGS, of)
        .u32(sys::NFTNL_EXPR_FIB_RESULT, FIB_RESULT_ADDRTYPE)
        .u32(sys::NFTNL_EXPR_FIB_DREG, REG32)
}

fn verdict_to(code: u32, chain: ChainId) -> Expr {
    verdict(code).text(sys::NFTNL_EXPR_IMM_CHAIN, &c(&chain.to_string()))
}

fn verdict(code: u32) -> Expr {
    Expr::new(c"immediate")
        .u32(sys::NFTNL_EXPR_IMM_DREG, VERDICT)
        .u32(sys::NFTNL_EXPR_IMM_VERDICT, code)
}
