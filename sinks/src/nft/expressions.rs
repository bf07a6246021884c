//! The statements of a rule as expressions of nf_tables.

use std::ffi::CStr;

use nftnl::nftnl_sys as sys;
use rulec_compiler::net::Family;
use rulec_compiler::nft::chain::ChainId;
use rulec_compiler::nft::rule::{Field, Rule, Scratch, Statement};
use rulec_compiler::nft::ruleset;
use rulec_compiler::nft::set::{Scope, SetId, View};
use rulec_compiler::nft::text::HASH_SEED;

use super::wire::{self, c, nfproto};
use crate::ffi::Expr;

/// The first of the kernel's sixteen 32-bit registers.
const REG32: u32 = 8;
/// The verdict register.
const VERDICT: u32 = 0;

const META_PRIORITY: u32 = 2;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const LOOKUP_INVERT: u32 = 1;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
/// Linux 4.17.
const CT_DST_IP: u32 = 20;
const CT_DST_IP6: u32 = 22;
/// `NF_CT_STATE_INVALID_BIT`.
const STATE_INVALID: u32 = 1;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
const STATE_NEW: u32 = 8;
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
            Statement::NotLoopback => {
                let (len, loopback): (u32, Vec<u8>) = match self.family {
                    Family::Ipv4 => (1, vec![127]),
                    Family::Ipv6 => (16, std::net::Ipv6Addr::LOCALHOST.octets().to_vec()),
                };
                let (_, offset) = self.address(Field::Daddr);
                exprs.push(payload(NETWORK_HEADER, offset, len, REG32));
                exprs.push(cmp(CMP_NEQ, &loopback));
            }
            Statement::DaddrType(set) => {
                exprs.push(fib_type(FIB_FLAG_DADDR));
                exprs.push(lookup(*set));
            }
            Statement::SaddrIsLocal(is_local) => {
                exprs.push(fib_type(FIB_FLAG_SADDR));
                let op = if *is_local { CMP_EQ } else { CMP_NEQ };
                exprs.push(cmp(op, &wire::RTN_LOCAL.to_ne_bytes()));
            }
            Statement::StateNew => exprs.extend(ct_has(CT_STATE, STATE_NEW)),
            Statement::StateInvalid => exprs.extend(ct_has(CT_STATE, STATE_INVALID)),
            Statement::StatusDnat => exprs.extend(ct_has(CT_STATUS, STATUS_DNAT)),
            Statement::MarkIsSet => {
                exprs.push(meta_load(META_MARK, REG32));
                exprs.push(bitwise(self.mark, 0));
                exprs.push(cmp(CMP_EQ, &self.mark.to_ne_bytes()));
            }
            Statement::SetMark => exprs.extend(self.change_mark(self.mark)),
            Statement::ClearMark => exprs.extend(self.change_mark(0)),
            Statement::SetPriority(source) => {
                self.source(&mut exprs, source);
                exprs.push(meta_store(META_PRIORITY));
            }
            Statement::GotoPick(scope, view) => {
                let picks = SetId::Picks(*scope, *view);
                exprs.push(meta_load(META_PRIORITY, REG32));
                exprs.push(lookup(picks).u32(sys::NFTNL_EXPR_LOOKUP_DREG, VERDICT));
            }
            Statement::RecordAffinity { scope, view, timeout } => {
                let milliseconds = u64::from(*timeout) * 1000;
                self.dynset(&mut exprs, *scope, *view, DYNSET_UPDATE, Some(milliseconds));
            }
            Statement::ForgetAffinity(scope, view) => {
                self.dynset(&mut exprs, *scope, *view, DYNSET_DELETE, None);
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
            Scratch::Zero => exprs.push(
                Expr::new(c"immediate")
                    .u32(sys::NFTNL_EXPR_IMM_DREG, REG32)
                    .data(sys::NFTNL_EXPR_IMM_DATA, &[0; 4]),
            ),
            Scratch::Map { fields, map } => {
                self.load(exprs, fields);
                exprs.push(lookup(*map).u32(sys::NFTNL_EXPR_LOOKUP_DREG, REG32));
            }
            Scratch::Random(modulus) => exprs.push(
                Expr::new(c"numgen")
                    .u32(sys::NFTNL_EXPR_NG_TYPE, NG_RANDOM)
                    .u32(sys::NFTNL_EXPR_NG_MODULUS, *modulus)
                    .u32(sys::NFTNL_EXPR_NG_DREG, REG32),
            ),
            Scratch::ClientHash(modulus) => {
                // The client's address is loaded into the register after the result.
                let behind = REG32 + 4;
                let (len, offset) = self.address(Field::Saddr);
                exprs.push(payload(NETWORK_HEADER, offset, len, behind));
                exprs.push(
                    Expr::new(c"hash")
                        .u32(sys::NFTNL_EXPR_HASH_TYPE, HASH_JENKINS)
                        .u32(sys::NFTNL_EXPR_HASH_SREG, behind)
                        .u32(sys::NFTNL_EXPR_HASH_LEN, len)
                        .u32(sys::NFTNL_EXPR_HASH_MODULUS, *modulus)
                        .u32(sys::NFTNL_EXPR_HASH_SEED, HASH_SEED)
                        .u32(sys::NFTNL_EXPR_HASH_DREG, REG32),
                );
            }
        }
    }

    fn dynset(
        &self,
        exprs: &mut Vec<Expr>,
        scope: Scope,
        view: View,
        op: u32,
        timeout: Option<u64>,
    ) {
        let fields = ruleset::affinity_key(scope);
        self.load(exprs, &fields);
        let used: u32 = fields.iter().map(|field| self.registers(*field)).sum();
        let data = REG32 + used;
        exprs.push(meta_load(META_PRIORITY, data));
        let set = c(SetId::Affinity(scope, view).name());
        let expr = Expr::new(c"dynset")
            .text(sys::NFTNL_EXPR_DYNSET_SET_NAME, &set)
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
            exprs.push(match field {
                Field::Iifname => meta_load(META_IIFNAME, register),
                Field::Saddr | Field::Daddr => {
                    let (len, offset) = self.address(*field);
                    payload(NETWORK_HEADER, offset, len, register)
                }
                Field::Protocol => meta_load(META_L4PROTO, register),
                Field::HeaderProtocol => {
                    let offset = match self.family {
                        Family::Ipv4 => 9,
                        Family::Ipv6 => 6,
                    };
                    payload(NETWORK_HEADER, offset, 1, register)
                }
                Field::Dport => payload(TRANSPORT_HEADER, 2, 2, register),
                Field::Priority => meta_load(META_PRIORITY, register),
                Field::OriginalDaddr => {
                    let key = match self.family {
                        Family::Ipv4 => CT_DST_IP,
                        Family::Ipv6 => CT_DST_IP6,
                    };
                    ct_original(key, register)
                }
            });
            register += self.registers(*field);
        }
    }

    /// Returns the number of 32-bit registers that a field takes.
    fn registers(&self, field: Field) -> u32 {
        match (field, self.family) {
            (Field::Saddr | Field::Daddr | Field::OriginalDaddr, Family::Ipv6)
            | (Field::Iifname, _) => 4,
            (Field::Saddr | Field::Daddr | Field::OriginalDaddr, Family::Ipv4)
            | (Field::Protocol | Field::HeaderProtocol | Field::Dport | Field::Priority, _) => 1,
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

    fn change_mark(&self, xor: u32) -> [Expr; 3] {
        [meta_load(META_MARK, REG32), bitwise(!self.mark, xor), meta_store(META_MARK)]
    }
}

fn payload(base: u32, offset: u32, len: u32, register: u32) -> Expr {
    Expr::new(c"payload")
        .u32(sys::NFTNL_EXPR_PAYLOAD_BASE, base)
        .u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset)
        .u32(sys::NFTNL_EXPR_PAYLOAD_LEN, len)
        .u32(sys::NFTNL_EXPR_PAYLOAD_DREG, register)
}

fn meta_load(key: u32, register: u32) -> Expr {
    Expr::new(c"meta").u32(sys::NFTNL_EXPR_META_KEY, key).u32(sys::NFTNL_EXPR_META_DREG, register)
}

fn meta_store(key: u32) -> Expr {
    Expr::new(c"meta").u32(sys::NFTNL_EXPR_META_KEY, key).u32(sys::NFTNL_EXPR_META_SREG, REG32)
}

fn lookup(set: SetId) -> Expr {
    let name: &CStr = &c(set.name());
    Expr::new(c"lookup")
        .u32(sys::NFTNL_EXPR_LOOKUP_SREG, REG32)
        .text(sys::NFTNL_EXPR_LOOKUP_SET, name)
}

fn cmp(op: u32, data: &[u8]) -> Expr {
    Expr::new(c"cmp")
        .u32(sys::NFTNL_EXPR_CMP_SREG, REG32)
        .u32(sys::NFTNL_EXPR_CMP_OP, op)
        .data(sys::NFTNL_EXPR_CMP_DATA, data)
}

/// Sets the register to (register & mask) ^ xor.
fn bitwise(mask: u32, xor: u32) -> Expr {
    Expr::new(c"bitwise")
        .u32(sys::NFTNL_EXPR_BITWISE_SREG, REG32)
        .u32(sys::NFTNL_EXPR_BITWISE_DREG, REG32)
        .u32(sys::NFTNL_EXPR_BITWISE_LEN, 4)
        .data(sys::NFTNL_EXPR_BITWISE_MASK, &mask.to_ne_bytes())
        .data(sys::NFTNL_EXPR_BITWISE_XOR, &xor.to_ne_bytes())
}

fn ct_has(key: u32, bit: u32) -> [Expr; 3] {
    let load =
        Expr::new(c"ct").u32(sys::NFTNL_EXPR_CT_KEY, key).u32(sys::NFTNL_EXPR_CT_DREG, REG32);
    [load, bitwise(bit, 0), cmp(CMP_NEQ, &[0; 4])]
}

/// Loads a field of the flow's first packet.
fn ct_original(key: u32, register: u32) -> Expr {
    Expr::new(c"ct")
        .u32(sys::NFTNL_EXPR_CT_KEY, key)
        .u8(sys::NFTNL_EXPR_CT_DIR, 0)
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
