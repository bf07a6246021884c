//! What a file of the cache says: the result of one CNI plugin for one interface of a container, as
//! libcni notes it (`cniCacheV1`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use serde::Deserialize;

use crate::decode::address::{parse_ip, unfit};

/// The interface of a Pod's own addresses, in each container runtime. Others are those of loopback
/// and of additional networks.
pub(super) const INTERFACE: &str = "eth0";

/// The addresses of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The Pod, as the kubelet calls it.
    pub(super) pod: NamespacedName,
    /// One of each family.
    pub(super) addresses: Vec<IpAddr>,
    /// The network namespace of the Pod, if it is known.
    pub(super) namespace: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    kind: Option<String>,
    if_name: Option<String>,
    /// Only newer versions of libcni write it.
    netns: Option<PathBuf>,
    cni_args: Option<Vec<(String, String)>>,
    result: Option<WrittenResult>,
}

#[derive(Deserialize)]
struct WrittenResult {
    ips: Option<Vec<WrittenIp>>,
    interfaces: Option<Vec<WrittenInterface>>,
}

#[derive(Deserialize)]
struct WrittenIp {
    address: String,
}

#[derive(Deserialize)]
struct WrittenInterface {
    name: Option<String>,
    sandbox: Option<PathBuf>,
}

/// Reads a file; `None` if it is not about the addresses of a Pod.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Record>, String> {
    let written: Written =
        serde_json::from_slice(bytes).map_err(|error| format!("cannot be decoded: {error}"))?;
    let is_ours = written.kind.as_deref() == Some("cniCacheV1")
        && written.if_name.as_deref() == Some(INTERFACE);
    let args = written.cni_args.unwrap_or_default();
    let arg = |key: &str| {
        let found = args.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    // Containers that are no Pods have none of these.
    let (Some(namespace), Some(name), true) =
        (arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME"), is_ours)
    else {
        return Ok(None);
    };
    let Some(result) = written.result else { return Ok(None) };
    let mut addresses: BTreeMap<Family, IpAddr> = BTreeMap::new();
    for (index, WrittenIp { address: text }) in result.ips.iter().flatten().enumerate() {
        let wrong = |what: &str| format!("result.ips[{index}].address: {text:?} is {what}");
        let ip = text.split_once('/').map_or(text.as_str(), |(ip, _)| ip);
        let address = parse_ip(ip).ok_or_else(|| wrong("not an address"))?;
        if let Some(reason) = unfit(address) {
            return Err(wrong(reason));
        }
        addresses.entry(Family::of(address)).or_insert(address);
    }
    let interfaces = result.interfaces.into_iter().flatten();
    let mut ours = interfaces.filter(|one| one.name.as_deref() == Some(INTERFACE));
    let sandbox = ours.find_map(|one| one.sandbox);
    let namespace_file = written.netns.or(sandbox).filter(|path| path.is_absolute());
    Ok(Some(Record {
        pod: NamespacedName::new(namespace, name),
        addresses: addresses.into_values().collect(),
        namespace: namespace_file,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(more: &str) -> String {
        format!(
            r#"{{"kind": "cniCacheV1", "containerId": "c", "config": "e30=", "ifName": "eth0",
               "networkName": "net", "cniArgs": [["IgnoreUnknown", "1"],
               ["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", "web-na"]], {more}}}"#
        )
    }

    #[test]
    fn a_result_of_a_pod_has_its_addresses() {
        let text = written(
            r#""result": {"cniVersion": "0.4.0", "dns": {},
               "interfaces": [{"name": "cni0", "mac": "a"}, {"name": "veth1", "sandbox": ""},
                 {"name": "eth0", "sandbox": "/var/run/netns/cni-1"}],
               "ips": [{"version": "4", "interface": 2, "address": "10.88.0.5/16"},
                 {"address": "fd00::5/64"}, {"address": "10.88.0.6/16"}]}"#,
        );
        let expected = Record {
            pod: NamespacedName::new("default", "web-na"),
            addresses: vec!["10.88.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            namespace: Some("/var/run/netns/cni-1".into()),
        };
        assert_eq!(read(text.as_bytes()), Ok(Some(expected)));
        let text = written(r#""netns": "/proc/7/ns/net", "result": {"ips": null}"#);
        let record = read(text.as_bytes()).unwrap().unwrap();
        assert_eq!(record.namespace, Some("/proc/7/ns/net".into()));
        assert!(record.addresses.is_empty());
    }

    #[test]
    fn what_is_not_about_a_pod_is_left_out() {
        let whole = written(r#""result": {"ips": []}"#);
        assert!(read(whole.as_bytes()).unwrap().is_some());
        for (from, to) in [
            ("cniCacheV1", "another"),
            ("\"eth0\"", "\"lo\""),
            ("K8S_POD_NAME\"", "NAME\""),
            ("\"web-na\"", "\"\""),
            ("\"result\"", "\"other\""),
        ] {
            assert_eq!(read(whole.replace(from, to).as_bytes()), Ok(None), "{to}");
        }
        // As before libcni had a cache with names.
        assert_eq!(read(br#"{"cniVersion": "0.4.0", "ips": []}"#), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let of = |ip: &str| {
            let text = format!(r#""result": {{"ips": [{{"address": "{ip}"}}]}}"#);
            read(written(&text).as_bytes()).unwrap_err()
        };
        assert_eq!(of("x/16"), "result.ips[0].address: \"x/16\" is not an address");
        assert!(of("127.0.0.1/8").starts_with("result.ips[0].address: \"127.0.0.1/8\" is "));
        let half = written(r#""result": {"#);
        assert!(read(half.as_bytes()).unwrap_err().starts_with("cannot be decoded: "));
        assert!(read(b"").unwrap_err().starts_with("cannot be decoded: EOF"));
    }
}
