//! The addresses of kube-proxy's two servers.

use std::net::{IpAddr, SocketAddr};

use rulec_sources::parse_ip;

use crate::config::check::read::{text_if_given, within};
use crate::config::values::{Values, flag_of};

/// The ports of kube-proxy (pkg/cluster/ports).
const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// A server of kube-proxy.
pub(super) struct ServerAddress {
    path: &'static str,
    port_flag: &'static str,
    port: u16,
    v4: [u8; 4],
    v6: [u16; 8],
}

pub(super) const HEALTHZ: ServerAddress = ServerAddress {
    path: "healthzBindAddress",
    port_flag: "--healthz-port",
    port: HEALTHZ_PORT,
    v4: [0, 0, 0, 0],
    v6: [0; 8],
};

pub(super) const METRICS: ServerAddress = ServerAddress {
    path: "metricsBindAddress",
    port_flag: "--metrics-port",
    port: METRICS_PORT,
    v4: [127, 0, 0, 1],
    v6: [0, 0, 0, 0, 0, 0, 0, 1],
};

/// Returns the address of a server, if it is enabled. The deprecated flag disables it, or sets the
/// port of an address without one.
pub(super) fn server(
    values: &mut Values,
    server: &ServerAddress,
    is_v6: bool,
) -> Option<SocketAddr> {
    let ServerAddress { path, port_flag, .. } = *server;
    let mut port = server.port;
    if values.is_given(port_flag) {
        values.warn(port_flag, format!("is deprecated; use {}", flag_of(path)));
        port = u16::try_from(within(values, port_flag, 0, 65535)).unwrap_or(port);
        if port == 0 {
            values.take(path);
            return None;
        }
    }
    let said = match text_if_given(values, path) {
        None => {
            let address = if is_v6 { IpAddr::from(server.v6) } else { IpAddr::from(server.v4) };
            return Some(SocketAddr::new(address, port));
        }
        Some(said) if said.is_empty() => return None,
        Some(said) => said,
    };
    let address = socket(&said, port);
    if address.is_none() {
        values.refuse(
            path,
            format!("{said:?} is not an address and a port, as in 0.0.0.0:{port} or [::]:{port}"),
        );
    }
    address
}

/// Parses `ip:port`, `[ip]:port`, or an address without a port.
fn socket(text: &str, port: u16) -> Option<SocketAddr> {
    if let Some(address) = parse_ip(text) {
        return Some(SocketAddr::new(address, port));
    }
    let (host, port) = text.rsplit_once(':')?;
    let address = match host.strip_prefix('[') {
        Some(host) => parse_ip(host.strip_suffix(']')?)?,
        None => parse_ip(host).filter(IpAddr::is_ipv4)?,
    };
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| is_number && *port != 0)?;
    Some(SocketAddr::new(address, port))
}
