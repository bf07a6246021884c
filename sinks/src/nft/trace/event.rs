//! One announcement of the trace.

use std::fmt;
use std::net::IpAddr;

use rulec_compiler::net::Protocol;

use crate::netlink::{Attributes, Message};
use crate::nft::wire;

/// `NFT_MSG_TRACE`.
const TRACE: u16 = 17;

// `enum nft_trace_attributes`.
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const TYPE: u16 = 4;
const VERDICT: u16 = 5;
const ID: u16 = 6;
const NETWORK_HEADER: u16 = 8;
const TRANSPORT_HEADER: u16 = 9;
const IIF: u16 = 10;
const POLICY: u16 = 16;

// `enum nft_trace_types`.
const TYPE_POLICY: u32 = 1;
const TYPE_RETURN: u32 = 2;
const TYPE_RULE: u32 = 3;

/// What happened to a packet at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The packet: a number that the kernel gives each.
    pub packet: u32,
    /// The family of the table, as `nft` names it.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// What it was.
    pub step: Step,
    /// What was decided.
    pub verdict: Verdict,
    /// The addresses of the packet at this moment. The kernel tells them only at the first step in
    /// each hook of a table.
    pub flow: Option<Flow>,
    /// The device on which it arrived, by its index. The kernel tells it where it tells the addresses;
    /// a packet that this node sends has none.
    pub device: Option<u32>,
}

/// A place where something is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A rule that matches, by its handle.
    Rule(u64),
    /// The end of a chain, or a rule that leaves it.
    Return,
    /// The policy of a base chain.
    Policy,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet leaves this hook of the table.
    Accept,
    /// It is dropped, or refused.
    Drop,
    /// The next rule is looked at.
    Continue,
    /// The packet leaves the chain.
    Return,
    /// It enters another chain, and comes back.
    Jump(String),
    /// It enters another chain.
    Goto(String),
    /// Something else, as the kernel's number: a queue, or stolen.
    Other(u32),
}

/// As `nft` writes it; a number for what it has no word for.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Continue => f.write_str("continue"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Other(number) => write!(f, "{number}"),
        }
    }
}

/// The addresses of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// Its protocol, with the ports of source and destination, if Services can have it.
    pub transport: Option<(Protocol, u16, u16)>,
}

impl Event {
    /// Reads a message; `None` if it is none of the trace.
    pub(in crate::nft) fn of(message: &Message<'_>) -> Option<Self> {
        if message.kind != wire::NFNL_SUBSYS_NFTABLES << 8 | TRACE {
            return None;
        }
        let attributes = message.attributes();
        let text = |kind| attributes.clone().text(kind).map(str::to_owned);
        let step = match attributes.clone().be32(TYPE)? {
            TYPE_RULE => {
                Step::Rule(attributes.clone().find(RULE_HANDLE).and_then(crate::netlink::be64)?)
            }
            TYPE_RETURN => Step::Return,
            TYPE_POLICY => Step::Policy,
            _ => return None,
        };
        let verdict = match attributes.clone().nested(VERDICT) {
            Some(verdict) => Verdict::of(&verdict)?,
            None => Verdict::by_code(attributes.clone().be32(POLICY)?, String::new()),
        };
        Some(Self {
            packet: attributes.clone().be32(ID)?,
            family: family(message.family()),
            table: text(TABLE)?,
            chain: text(CHAIN)?,
            step,
            verdict,
            flow: Flow::of(&attributes),
            device: attributes.be32(IIF),
        })
    }
}

impl Verdict {
    fn of(attributes: &Attributes<'_>) -> Option<Self> {
        let chain = attributes.clone().text(wire::NFTA_VERDICT_CHAIN).unwrap_or_default();
        let code = attributes.clone().be32(wire::NFTA_VERDICT_CODE)?;
        Some(Self::by_code(code, chain.to_owned()))
    }

    fn by_code(code: u32, chain: String) -> Self {
        const CONTINUE: u32 = (-1_i32).cast_unsigned();
        // The upper bits of a verdict of Netfilter are an error or a queue.
        match code {
            wire::NFT_JUMP => Self::Jump(chain),
            wire::NFT_GOTO => Self::Goto(chain),
            wire::NFT_RETURN => Self::Return,
            CONTINUE => Self::Continue,
            1 => Self::Accept,
            code if code & 0xff == 0 => Self::Drop,
            other => Self::Other(other),
        }
    }
}

impl Flow {
    /// Reads the headers, as far as the kernel tells them.
    fn of(attributes: &Attributes<'_>) -> Option<Self> {
        let network = attributes.clone().find(NETWORK_HEADER)?;
        let transport = attributes.clone().find(TRANSPORT_HEADER).unwrap_or_default();
        let address = |offset: usize, is_v4: bool| -> Option<IpAddr> {
            let bytes = network.get(offset..offset + if is_v4 { 4 } else { 16 })?;
            match is_v4 {
                true => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
                false => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
            }
        };
        let is_v4 = network.first()? >> 4 == 4;
        let (from, to, number) = if is_v4 { (12, 16, 9) } else { (8, 24, 6) };
        let port = |offset: usize| {
            Some(u16::from_be_bytes(transport.get(offset..offset + 2)?.try_into().ok()?))
        };
        // After extension headers, the kind of the transport header is unknown here.
        let protocol = Protocol::from_number(*network.get(number)?);
        let transport = protocol.and_then(|protocol| Some((protocol, port(0)?, port(2)?)));
        Some(Self { source: address(from, is_v4)?, destination: address(to, is_v4)?, transport })
    }
}

/// Returns the name of a family of tables.
fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}
