//! The kernel as the settings want it: nf_tables alone, or with IPVS.

use std::time::Duration;

use anyhow::Context;
use rulec_compiler::ipvs::Scheduling;
use rulec_sinks::ipvs::{Addresses, Ipvs, IpvsSink, Options};
use rulec_sinks::nft::Ownership;
use rulec_sinks::{NftSink, Sink};

use crate::cli::IpvsAddresses;
use crate::config;

/// What a daemon asks of IPVS at its start.
#[derive(Clone, Debug)]
pub struct IpvsStart {
    /// How addresses become the node's.
    pub options: Options,
    /// How most virtual servers will choose.
    pub scheduling: Scheduling,
    /// How long connections without packets last: of TCP, of TCP after a FIN, of UDP; in seconds, and 0
    /// for the kernel's own.
    pub timeouts: [u32; 3],
}

impl IpvsStart {
    /// What a configuration asks for, if it asks for IPVS.
    ///
    /// # Errors
    ///
    /// If the device cannot be one's name.
    pub fn of(config: &config::Config) -> anyhow::Result<Option<Self>> {
        let (Some(node), Some(ipvs)) = (&config.ipvs, config.settings.ipvs()) else {
            return Ok(None);
        };
        // The kernel counts in seconds; less than one is one.
        let seconds = |time: Option<Duration>| {
            time.map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1))
        };
        Ok(Some(Self {
            options: options(node.addresses, &node.device)?,
            scheduling: ipvs.scheduling,
            timeouts: [node.tcp_timeout, node.tcp_fin_timeout, node.udp_timeout].map(seconds),
        }))
    }

    /// Opens IPVS, and finds out whether it can do what is asked. Changes nothing for good.
    ///
    /// # Errors
    ///
    /// If the kernel has no IPVS or not this scheduler, with the remedy.
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
        ipvs.prepare().context("making addresses the node's")?;
        Ok(ipvs)
    }
}

/// How addresses become the node's, as the options say.
///
/// # Errors
///
/// If the device cannot be one's name.
pub fn options(addresses: IpvsAddresses, device: &str) -> anyhow::Result<Options> {
    let device = device.parse().map_err(anyhow::Error::msg).context("--ipvs-device")?;
    let addresses = match addresses {
        IpvsAddresses::Dummy => Addresses::Dummy,
        IpvsAddresses::LocalRoutes => Addresses::LocalRoutes,
    };
    Ok(Options { device, addresses })
}

/// Opens what a daemon programs, in the network namespace of this thread.
///
/// # Errors
///
/// If nf_tables, or IPVS if it is asked for, cannot be reached.
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

/// Opens what is there, to look at it or to remove it: IPVS, too, if that is asked for.
///
/// # Errors
///
/// As `start`.
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
