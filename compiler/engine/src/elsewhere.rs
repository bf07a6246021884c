//! Addresses of Services that belong to other Nodes, and are therefore not served by IPVS here.
//!
//! Each is logged once while it lasts, although its Service may be compiled again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rulec_compiler::name::{NamespacedName, NodeName};
use rulec_compiler::{Model, Settings, resolve};

/// An address, and the Node that it belongs to.
type Address = (IpAddr, NodeName);

/// The addresses that were logged. See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Elsewhere {
    logged: BTreeMap<NamespacedName, BTreeSet<Address>>,
}

impl Elsewhere {
    /// Logs the addresses of these Services that belong to other Nodes.
    pub(crate) fn report<'a>(
        &mut self,
        model: &Model,
        settings: &Settings,
        services: impl Iterator<Item = &'a NamespacedName>,
    ) {
        if settings.ipvs().is_none() {
            return;
        }
        for service in services {
            let found = model.service(service).into_iter().flat_map(|entry| {
                let found = resolve::elsewhere(model, settings, &entry.object);
                found.map(|(address, node)| (address, node.clone()))
            });
            for (address, node) in self.replace(service, found.collect()) {
                let what = "not served at this address: it belongs to another node";
                tracing::warn!(%service, %address, %node, "{what}");
            }
        }
    }

    /// Replaces the addresses of a Service, and returns those that it did not have before.
    fn replace(&mut self, service: &NamespacedName, found: BTreeSet<Address>) -> Vec<Address> {
        let logged = self.logged.remove(service).unwrap_or_default();
        let new = found.difference(&logged).cloned().collect();
        if !found.is_empty() {
            self.logged.insert(service.clone(), found);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::key;

    fn address(last: u8, node: &str) -> Address {
        (IpAddr::from([192, 0, 2, last]), NodeName::from(node))
    }

    #[test]
    fn an_address_is_logged_once_while_it_lasts() {
        let mut elsewhere = Elsewhere::default();
        let mut replace = |found: &[u8]| {
            let found = found.iter().map(|last| address(*last, "nb")).collect();
            elsewhere.replace(&key(1), found)
        };
        assert_eq!(replace(&[1]), [address(1, "nb")]);
        assert_eq!(replace(&[1, 2]), [address(2, "nb")]);
        assert_eq!(replace(&[1, 2]), []);
        assert_eq!(replace(&[]), []);
        assert_eq!(replace(&[1]), [address(1, "nb")], "it is logged again when it comes back");
    }

    #[test]
    fn an_address_that_moves_to_another_node_is_logged_again() {
        let mut elsewhere = Elsewhere::default();
        let (before, after) = (address(1, "nb"), address(1, "nc"));
        elsewhere.replace(&key(1), BTreeSet::from([before]));
        assert_eq!(elsewhere.replace(&key(1), BTreeSet::from([after.clone()])), [after]);
    }

    #[test]
    fn services_without_such_addresses_cost_no_memory() {
        let mut elsewhere = Elsewhere::default();
        elsewhere.replace(&key(1), BTreeSet::from([address(1, "nb")]));
        elsewhere.replace(&key(1), BTreeSet::new());
        assert!(elsewhere.logged.is_empty());
    }
}
