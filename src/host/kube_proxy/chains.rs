//! Finds kube-proxy's chains in shared tables, and decides which of them can be deleted.
//!
//! Not every chain whose name begins with `KUBE-` is kube-proxy's: the kubelet has some (KEP-3178),
//! and so do other programs, such as kube-router's network policies. So the names are listed one by
//! one.

use std::collections::{BTreeMap, BTreeSet};

use rulec_sinks::nft::foreign::{Jump, Removal};

/// The tables that kube-proxy uses in iptables and IPVS mode. Its canary is in `mangle`.
pub(super) const TABLES: [&str; 3] = ["nat", "filter", "mangle"];

/// Chains to which kube-proxy adds jumps from the kernel's own chains.
const ENTRIES: [&str; 12] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-LOAD-BALANCER",
    "KUBE-NODE-PORT",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-PROXY-CANARY",
];

/// Prefixes of the names of its chains for Services and endpoints.
const PREFIXES: [&str; 6] =
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-"];

/// Returns true if a chain is kube-proxy's.
pub(super) fn is_kube_proxys(name: &str) -> bool {
    name == "KUBE-MARK-MASQ"
        || ENTRIES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns true if a chain can only be kube-proxy's: kubelets before 1.28 also create two of its
/// chains, repeatedly.
pub(super) fn is_telling(name: &str) -> bool {
    is_kube_proxys(name) && !matches!(name, "KUBE-MARK-MASQ" | "KUBE-POSTROUTING")
}

/// The parts of a table that can be deleted, and the chains of kube-proxy that must stay because
/// others lead to them: each by name, with the chain that leads to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) removal: Removal,
    pub(super) stay: BTreeMap<String, String>,
}

/// Plans the removal from a table with these chains (and whether they are base chains) and jumps.
///
/// A rule of a base chain that leads to one of the entries is kube-proxy's own, and is deleted. Any
/// other rule outside kube-proxy's chains belongs to others: the chain it leads to stays, with all
/// chains that that one needs.
pub(super) fn plan(chains: &BTreeMap<String, bool>, jumps: &[Jump]) -> Plan {
    let mut plan = Plan::default();
    let ours = || chains.keys().filter(|name| is_kube_proxys(name));
    let is_own =
        |jump: &Jump| chains.get(&jump.from) == Some(&true) && ENTRIES.contains(&jump.to.as_str());
    let mut by_origin: BTreeMap<&str, Vec<&Jump>> = BTreeMap::new();
    for jump in jumps.iter().filter(|jump| is_kube_proxys(&jump.to)) {
        by_origin.entry(&jump.from).or_default().push(jump);
    }
    let mut reached: Vec<&Jump> = by_origin
        .iter()
        .filter(|(from, _)| !is_kube_proxys(from))
        .flat_map(|(_, jumps)| jumps.iter().copied())
        .filter(|jump| !is_own(jump))
        .collect();
    while let Some(jump) = reached.pop() {
        if !plan.stay.contains_key(&jump.to) {
            plan.stay.insert(jump.to.clone(), jump.from.clone());
            reached.extend(by_origin.get(jump.to.as_str()).into_iter().flatten());
        }
    }
    plan.removal.chains = ours().filter(|name| !plan.stay.contains_key(*name)).cloned().collect();
    // Jumps from a base chain to an entry are kube-proxy's own, so they go even if the entry stays.
    let own: BTreeSet<(String, u64)> = jumps
        .iter()
        .filter(|jump| is_own(jump))
        .map(|jump| (jump.from.clone(), jump.handle))
        .collect();
    plan.removal.rules = own.into_iter().collect();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(chains: &[&str]) -> BTreeMap<String, bool> {
        let is_base = |name: &str| matches!(name, "PREROUTING" | "OUTPUT" | "POSTROUTING");
        chains.iter().map(|name| ((*name).to_owned(), is_base(name))).collect()
    }

    fn jumps(list: &[(&str, &str)]) -> Vec<Jump> {
        let jump = |(handle, (from, to)): (u64, &(&str, &str))| Jump {
            from: (*from).to_owned(),
            handle,
            to: (*to).to_owned(),
        };
        (1..).zip(list).map(jump).collect()
    }

    fn names<'a>(chains: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
        chains.into_iter().map(String::as_str).collect()
    }

    #[test]
    fn only_chains_of_kube_proxy_are_recognised() {
        for name in
            ["KUBE-SERVICES", "KUBE-SVC-TCOU7JCQXEZGVUNU", "KUBE-MARK-MASQ", "KUBE-NODE-PORT"]
        {
            assert!(is_kube_proxys(name), "{name}");
        }
        for name in [
            "PREROUTING",
            "KUBE-FIREWALL",
            "KUBE-KUBELET-CANARY",
            "KUBE-IPTABLES-HINT",
            "KUBE-MARK-DROP",
            "KUBE-ROUTER-INPUT",
            "KUBE-NWPLCY-DEFAULT",
            "KUBE-POD-FW-ABC",
            "KUBE-HOSTPORTS",
            "MY-KUBE-SERVICES",
            "KUBE-SERVICES2",
        ] {
            assert!(!is_kube_proxys(name), "{name}");
        }
        assert!(is_telling("KUBE-PROXY-CANARY") && is_telling("KUBE-SVC-TCOU7JCQXEZGVUNU"));
        for name in ["KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-FIREWALL"] {
            assert!(!is_telling(name), "{name}");
        }
    }

    #[test]
    fn only_chains_and_jumps_of_kube_proxy_are_removed() {
        let chains = table(&[
            "PREROUTING",
            "OUTPUT",
            "KUBE-SERVICES",
            "KUBE-SVC-A",
            "KUBE-SEP-B",
            "KUBE-MARK-MASQ",
            "KUBE-FIREWALL",
            "MINE",
        ]);
        let jumps = jumps(&[
            ("PREROUTING", "KUBE-SERVICES"),
            ("PREROUTING", "MINE"),
            ("OUTPUT", "KUBE-SERVICES"),
            ("KUBE-SERVICES", "KUBE-SVC-A"),
            ("KUBE-SVC-A", "KUBE-SEP-B"),
            ("KUBE-SEP-B", "KUBE-MARK-MASQ"),
            ("OUTPUT", "KUBE-FIREWALL"),
        ]);
        let plan = plan(&chains, &jumps);
        assert_eq!(plan.stay, BTreeMap::new());
        let rules = [("OUTPUT".to_owned(), 3), ("PREROUTING".to_owned(), 1)];
        assert_eq!(plan.removal.rules, rules);
        assert_eq!(
            names(&plan.removal.chains),
            ["KUBE-MARK-MASQ", "KUBE-SEP-B", "KUBE-SERVICES", "KUBE-SVC-A"]
        );
    }

    #[test]
    fn chains_used_by_others_stay_with_their_dependencies() {
        let chains = table(&[
            "PREROUTING",
            "KUBE-SERVICES",
            "KUBE-SVC-A",
            "KUBE-SEP-B",
            "KUBE-SEP-C",
            "KUBE-MARK-MASQ",
            "KUBE-HP-1",
            "MINE",
        ]);
        let jumps = jumps(&[
            ("PREROUTING", "KUBE-SERVICES"),
            ("KUBE-SERVICES", "KUBE-SVC-A"),
            ("KUBE-SERVICES", "KUBE-SEP-C"),
            ("KUBE-SVC-A", "KUBE-SEP-B"),
            // A rule of others sends other packets to a Service.
            ("MINE", "KUBE-SVC-A"),
            // Another program marks packets with kube-proxy's chain.
            ("KUBE-HP-1", "KUBE-MARK-MASQ"),
            // An admin's rule in a base chain is not kube-proxy's.
            ("PREROUTING", "KUBE-SEP-B"),
        ]);
        let plan = plan(&chains, &jumps);
        assert_eq!(names(plan.stay.keys()), ["KUBE-MARK-MASQ", "KUBE-SEP-B", "KUBE-SVC-A"]);
        assert_eq!(plan.stay["KUBE-MARK-MASQ"], "KUBE-HP-1");
        assert_eq!(names(&plan.removal.chains), ["KUBE-SEP-C", "KUBE-SERVICES"]);
        assert_eq!(plan.removal.rules, [("PREROUTING".to_owned(), 1)]);
    }

    #[test]
    fn cyclic_chains_are_handled() {
        let chains = table(&["MINE", "KUBE-SVC-A", "KUBE-SVC-B"]);
        let jumps = jumps(&[
            ("KUBE-SVC-A", "KUBE-SVC-B"),
            ("KUBE-SVC-B", "KUBE-SVC-A"),
            ("MINE", "KUBE-SVC-A"),
        ]);
        let plan = plan(&chains, &jumps);
        assert_eq!(names(plan.stay.keys()), ["KUBE-SVC-A", "KUBE-SVC-B"]);
        assert_eq!(plan.removal, Removal::default());
    }
}
