//! The settings of IPVS, which are used only in its mode.

use ipnet::IpNet;
use rulec_compiler::ipvs::{Scheduler, Scheduling};
use rulec_compiler::settings::IpvsSettings;
use rulec_sources::parse_range;

use super::timeout;
use crate::config::check::read::{flag, text};
use crate::config::options::IpvsArgs;
use crate::config::value::{Element, Typed};
use crate::config::values::Values;
use crate::config::{Ipvs, Mode};

/// Returns the settings that concern Services.
pub(super) fn settings(values: &mut Values, own: &IpvsArgs) -> IpvsSettings {
    let usual = Scheduling::new(scheduler(values));
    IpvsSettings {
        scheduling: Scheduling::with_flags(
            usual.scheduler,
            own.ipvs_scheduler_flags.unwrap_or(usual.flags),
        ),
        exclude: excluded(values),
        drain: own.ipvs_drain_seconds.unwrap_or(IpvsSettings::DRAIN),
    }
}

/// Returns the settings that concern the node.
pub(super) fn node(values: &mut Values, own: &IpvsArgs, mode: Mode) -> Option<Ipvs> {
    (mode == Mode::Ipvs).then(|| Ipvs {
        strict_arp: flag(values, "ipvs.strictARP"),
        tcp_timeout: timeout(values, "ipvs.tcpTimeout"),
        tcp_fin_timeout: timeout(values, "ipvs.tcpFinTimeout"),
        udp_timeout: timeout(values, "ipvs.udpTimeout"),
        addresses: own.addresses(),
        device: own.device().to_owned(),
    })
}

/// Warns of rulec's own options of IPVS in another mode. Those of kube-proxy are fields.
pub(super) fn tell_of_unused(values: &mut Values, own: &IpvsArgs, mode: Mode) {
    let IpvsArgs { ipvs_drain_seconds, ipvs_scheduler_flags, ipvs_addresses, ipvs_device } = own;
    let given = [
        ("--ipvs-drain-seconds", ipvs_drain_seconds.is_some()),
        ("--ipvs-scheduler-flags", ipvs_scheduler_flags.is_some()),
        ("--ipvs-addresses", ipvs_addresses.is_some()),
        ("--ipvs-device", ipvs_device.is_some()),
    ];
    for (option, _) in given.into_iter().filter(|(_, given)| *given && mode != Mode::Ipvs) {
        values.option_unused(option, "used only in IPVS mode");
    }
}

fn scheduler(values: &mut Values) -> Scheduler {
    const PATH: &str = "ipvs.scheduler";
    match text(values, PATH).as_str() {
        // A template may leave the flag empty.
        "" => Scheduler::default(),
        name => name.parse().unwrap_or_else(|message: String| {
            values.refuse(PATH, message);
            Scheduler::default()
        }),
    }
}

fn excluded(values: &mut Values) -> Vec<IpNet> {
    const PATH: &str = "ipvs.excludeCIDRs";
    let Some(Typed::List(list)) = values.take(PATH) else { return Vec::new() };
    let mut networks = Vec::new();
    for (index, Element { line, text }) in list.iter().enumerate() {
        match parse_range(text) {
            Some(network) => networks.push(network),
            None => {
                let message = format!("{text:?} is not a network such as 10.0.0.0/8");
                values.refuse_element(PATH, (index, *line), message);
            }
        }
    }
    networks
}
