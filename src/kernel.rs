//! Opens what the settings need of the kernel: nf_tables alone, or with IPVS.

use std::time::Duration;

use anyhow::Context;
use rulec_compiler::ipvs::Scheduling;
use rulec_sinks::ipvs::{Addresses, Ipvs, IpvsSink, Options};
use rulec_sinks::nft::Ownership;
use rulec_sinks::{NftSink, Sink};

use crate::cli::IpvsAddresses;
use crate::config;

/// The settings of IPVS that a daemon makes at its start.
#[derive(Clone, Debug)]
pub struct IpvsStart {
    /// How addresses become local to the node.
    pub options: Options,
    /// The scheduler of most virtual servers.
    pub scheduling: Scheduling,
    /// The timeouts of idle connections: of TCP, of TCP after a FIN, and of UDP; in seconds, 0 for
    /// the kernel's setting.
    pub timeouts: [u32; 3],
}

impl IpvsStart {
    /// Returns what a configuration needs, if its mode is IPVS.
    ///
    /// # Errors
    ///
    /// If the name of the device is invalid.
    pub fn of(config: &config::Config) -> anyhow::Result<Option<Self>> {
        let (Some(node), Some(ipvs)) = (&config.ipvs, config.settings.ipvs()) else {
            return Ok(None);
        };
        // The kernel counts in seconds; less than one second becomes one.
        let seconds = |time: Option<Duration>| {
            time.map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1))
        };
        Ok(Some(Self {
            options: options(node.addresses, &node.device)?,
            scheduling: ipvs.scheduling,
            timeouts: [node.tcp_timeout, node.tcp_fin_timeout, node.udp_timeout].map(seconds),
        }))
    }

    /// Opens IPVS, and checks that it supports what is needed. Makes no lasting changes.
    ///
    /// # Errors
    ///
    /// If the kernel lacks IPVS or this scheduler, with the remedy.
    pub fn probe(&self) -> anyhow::Result<Ipvs> {
        let mut ipvs = Ipvs::open(self.options.clone())?;
        ipvs.probe_scheduler(&self.scheduling)?;
        Ok(ipvs)
    }

    /// Opens IPVS for a daemon.
    fn start(&self) -> anyhow::Result<Ipvs> {
        let mut ipvs = self.probe()?;
        let [tcp, tcp_fin, udp] = self.timeouts;
        ipvs.set_timeouts(tcp, tcp_fin, udp).context("setting the timeouts of IPVS")?;
        ipvs.prepare().context("making addresses local to the node")?;
        Ok(ipvs)
    }
}

/// Returns the options of IPVS from those of the command line.
///
/// # Errors
///
/// If the name of the device is invalid.
pub fn options(addresses: IpvsAddresses, device: &str) -> anyhow::Result<Options> {
    let device = device.parse().map_err(anyhow::Error::msg).context("--ipvs-device")?;
    let addresses = match addresses {
        IpvsAddresses::Dummy => Addresses::Dummy,
        IpvsAddresses::LocalRoutes => Addresses::LocalRoutes,
    };
    Ok(Options { device, addresses })
}

/// Opens the sink of a daemon, in the network namespace of this thread.
///
/// # Errors
///
/// If nf_tables, or IPVS if it is used, is unreachable.
pub(crate) fn start(
    ownership: Ownership,
    mark: u32,
    ipvs: Option<IpvsStart>,
) -> anyhow::Result<(Box<dyn Sink>, Ownership, u32)> {
    let nft = NftSink::open(ownership, mark).context("opening nf_tables (are you root?)")?;
    let (ownership, portid) = (nft.ownership(), nft.portid());
    let sink: Box<dyn Sink> = match ipvs {
        None => Box::new(nft),
        Some(ipvs) => Box::new(IpvsSink::new(nft, ipvs.start().context("opening IPVS")?)),
    };
    Ok((sink, ownership, portid))
}

/// Opens a sink to read or remove what is there; with IPVS if `ipvs` is given.
///
/// # Errors
///
/// As for `start`.
pub(crate) fn look(mark: u32, ipvs: Option<Options>) -> anyhow::Result<Box<dyn Sink>> {
    let nft =
        NftSink::open(Ownership::Shared, mark).context("opening nf_tables (are you root?)")?;
    Ok(match ipvs {
        None => Box::new(nft),
        Some(options) => {
            let ipvs = Ipvs::open(options).context("opening IPVS")?;
            Box::new(IpvsSink::new(nft, ipvs))
        }
    })
}
