//! The delta from the state that was read from a kernel, of which nothing else is known.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Delta;
use super::builder::Builder;
use crate::frontend::PortKey;
use crate::ipvs::{self, Server, VirtualServer};
use crate::net::Family;
use crate::nft;
use crate::nft::code::{Affinity, Clients};
use crate::nft::element::{Key, OwnedElement, Value};
use crate::op::{Op, Stage};
use crate::program::Program;
use crate::state::{State, Table};

impl Delta {
    /// Returns the delta from the state that was read from a kernel to a program: at start, and for
    /// repairs.
    pub fn reconcile(found: &State, wanted: &Program) -> Self {
        let classes = wanted.numbers().classes().map(|(class, _)| (class.family, class.affinity));
        let classes: Vec<(Family, Affinity)> = classes.collect();
        let mut delta = if found.tables.is_empty() {
            Self::install(wanted, &classes)
        } else {
            let localhost = wanted.families_at_localhost();
            Self::from_state(found, &Family::ALL, &classes, &localhost, wanted.elements())
        };
        if let Some(ipvs) = wanted.settings().ipvs() {
            let servers = wanted
                .servers()
                .map(|(server, held, owner)| (server, (held, Some(Arc::clone(owner)))));
            let vips = wanted.vips().map(|(address, owner)| (address, Some(Arc::clone(owner))));
            delta.reconcile_servers(found, servers.collect(), vips.collect(), &ipvs.exclude);
        }
        delta.finish()
    }

    /// Returns the delta from an empty kernel. As it is the largest, no list of its elements is
    /// built.
    fn install(wanted: &Program, classes: &[(Family, Affinity)]) -> Builder {
        let mut delta = Builder::default();
        for family in Family::ALL {
            delta.add_table(family);
            let with_localhost = wanted.settings().serves_localhost(family);
            delta.skeleton(family, &Table::default(), &of_family(classes, family), with_localhost);
        }
        wanted.for_each_element(|element, owner| delta.push_for(owner, Op::add(element)));
        delta
    }

    /// Returns the delta between two states without a known program, for comparing snapshots.
    pub fn between_states(found: &State, wanted: &State) -> Self {
        let mut elements = wanted.elements();
        wanted.find_owners(&mut elements);
        let sets = wanted
            .tables
            .iter()
            .flat_map(|(family, table)| table.sets.iter().map(|it| (*family, *it)));
        let classes: Vec<(Family, Affinity)> =
            sets.filter_map(|(family, set)| Some((family, set.affinity()?))).collect();
        let families: Vec<Family> = wanted.tables.keys().copied().collect();
        let localhost = wanted.tables.iter().filter(|(_, table)| table.serves_localhost());
        let localhost: Vec<Family> = localhost.map(|(family, _)| *family).collect();
        let mut delta = Self::from_state(found, &families, &classes, &localhost, elements);
        let servers = wanted.ipvs.servers.iter().map(|(server, held)| {
            (*server, (held.clone(), wanted.owner(server.frontend()).cloned()))
        });
        let vips = wanted.ipvs.bound.iter().map(|address| (*address, None));
        delta.reconcile_servers(found, servers.collect(), vips.collect(), &[]);
        delta.finish()
    }

    fn from_state(
        found: &State,
        families: &[Family],
        classes: &[(Family, Affinity)],
        localhost: &[Family],
        wanted: Vec<OwnedElement>,
    ) -> Builder {
        let mut delta = Builder::default();
        let empty = Table::default();
        let mut held: BTreeMap<Family, &Table> = BTreeMap::new();
        let mut unwanted: Vec<nft::Op> = Vec::new();
        for family in Family::ALL {
            if !families.contains(&family) {
                if found.tables.contains_key(&family) {
                    delta.shared(Stage::Prepare, nft::Op::DeleteTable(family));
                }
                continue;
            }
            let table = match found.tables.get(&family) {
                Some(table) if table.foreign.is_empty() => table,
                Some(_) => {
                    delta.is_atomic = true;
                    delta.shared(Stage::Prepare, nft::Op::DeleteTable(family));
                    delta.add_table(family);
                    &empty
                }
                None => {
                    delta.add_table(family);
                    &empty
                }
            };
            let classes = of_family(classes, family);
            let with_localhost = localhost.contains(&family);
            delta.skeleton(family, table, &classes, with_localhost);
            let is_gone = |affinity: Affinity| !classes.contains(&affinity);
            let chains = table.chains.keys().filter(|chain| {
                let of_localhost = chain.is_of_localhost() && !with_localhost;
                of_localhost || chain.affinity().is_some_and(is_gone)
            });
            unwanted.extend(chains.map(|chain| nft::Op::DeleteChain(family, *chain)));
            let sets = table.sets.iter().filter(|set| set.affinity().is_some_and(is_gone));
            unwanted.extend(sets.map(|set| nft::Op::DeleteSet(family, *set)));
            held.insert(family, table);
        }
        // Most elements are equal and compared in place; only those that differ are copied.
        let mut gone = Self::missing_from(&held, &wanted);
        if !gone.is_empty() {
            found.find_owners(&mut gone);
        }
        // All changes of a frontend belong in one transaction: that of the Service that shall have
        // it or, if there is none, that of the Service that had it.
        for OwnedElement { element, owner } in &mut gone {
            if let Some(wanted) = head_owner(&wanted, element.key) {
                *owner = Some(Arc::clone(wanted));
            }
        }
        if gone.iter().any(|it| matches!(it.element.key, Key::LocalGroup(..))) {
            for OwnedElement { element, .. } in &wanted {
                if let (Key::Service(frontend), Value::Code(code)) = (element.key, element.value)
                    && code.clients == Clients::Split
                {
                    delta.stays_split(frontend.family(), code.group);
                }
            }
        }
        let mut gone = gone.into_iter().peekable();
        for OwnedElement { element, owner } in wanted {
            while let Some(old) = gone.next_if(|old| old.element.key < element.key) {
                delta.delete(old.owner.as_ref(), old.element);
            }
            let replaced = gone.next_if(|old| old.element.key == element.key);
            let table = held.get(&element.key.family());
            let is_held = replaced.is_none()
                && table.is_some_and(|table| table.elements.contains_key(&element.key));
            if let Some(old) = replaced {
                delta.push_for(owner.as_ref(), Op::delete(old.element));
            }
            if !is_held {
                delta.push_for(owner.as_ref(), Op::add(element));
            }
        }
        for old in gone {
            delta.delete(old.owner.as_ref(), old.element);
        }
        for op in unwanted {
            delta.shared(Stage::Retire, op);
        }
        delta
    }

    /// Returns the elements of the tables that are not wanted, or not in this form, sorted by key.
    fn missing_from(held: &BTreeMap<Family, &Table>, wanted: &[OwnedElement]) -> Vec<OwnedElement> {
        let mut gone: Vec<OwnedElement> = Vec::new();
        for (family, table) in held {
            let wanted = wanted.iter().map(|it| &it.element);
            let mut wanted = wanted.filter(|it| it.key.family() == *family).peekable();
            for (key, held) in &table.elements {
                while wanted.next_if(|element| element.key < *key).is_some() {}
                let is_wanted = wanted.peek().is_some_and(|element| {
                    element.key == *key
                        && element.value == held.value
                        && element.comment == held.owner
                        && element.is_counted == held.is_counted
                });
                if !is_wanted {
                    gone.push(OwnedElement { element: held.element(*key), owner: None });
                }
            }
        }
        gone.sort_unstable_by_key(|it| it.element.key);
        gone
    }
}

impl Builder {
    /// Changes the virtual servers and addresses that were found to those that are wanted. Those of
    /// others and of excluded networks are left alone.
    fn reconcile_servers(
        &mut self,
        found: &State,
        wanted: BTreeMap<VirtualServer, (Server, Option<Arc<PortKey>>)>,
        vips: BTreeMap<IpAddr, Option<Arc<PortKey>>>,
        exclude: &[IpNet],
    ) {
        let is_excluded = |address: IpAddr| exclude.iter().any(|net| net.contains(&address));
        for (server, (wanted, owner)) in &wanted {
            let held = found.ipvs.servers.get(server);
            for op in ipvs::delta::between(*server, held, Some(wanted)) {
                self.push_for(owner.as_ref(), op.into());
            }
        }
        for (address, owner) in &vips {
            if !found.ipvs.bound.contains(address) {
                self.bind(Key::Vip(*address), owner.as_ref(), ipvs::Op::Bind);
            }
        }
        for address in &found.ipvs.bound {
            if !vips.contains_key(address) && !is_excluded(*address) {
                self.shared(Stage::Switch, ipvs::Op::Unbind(*address));
            }
        }
        for server in found.ipvs.servers.keys() {
            let is_kept = wanted.contains_key(server) || is_excluded(server.address);
            if !is_kept && found.is_ours(*server) {
                self.shared(Stage::Switch, ipvs::Op::DeleteServer(*server));
            }
        }
    }
}

fn of_family(classes: &[(Family, Affinity)], family: Family) -> Vec<Affinity> {
    classes.iter().filter(|(of, _)| *of == family).map(|(_, affinity)| *affinity).collect()
}

/// Returns the owner of the frontend of a key, according to the element with the comment.
fn head_owner(elements: &[OwnedElement], key: Key) -> Option<&Arc<PortKey>> {
    let frontend = key.frontend()?;
    let heads = [Key::Service(frontend), Key::Reject(frontend)];
    heads.into_iter().find_map(|head| {
        let found = elements.binary_search_by_key(&head, |it| it.element.key).ok()?;
        elements.get(found)?.owner.as_ref()
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::model::Model;
    use crate::nft::chain::ChainId;
    use crate::nft::set::SetId;
    use crate::settings::Settings;
    use crate::state::ChainContent;
    use crate::state::Held;

    /// No kernel holds such a state, but a caller may pass one.
    #[test]
    fn an_element_in_the_table_of_another_family_does_not_panic() {
        let key = Key::ClusterIp(IpAddr::from([10, 96, 0, 1]));
        let table = Table {
            elements: [(key, Held { value: Value::Present, owner: None, is_counted: false })]
                .into(),
            ..Table::default()
        };
        let alien = State { tables: [(Family::Ipv6, table)].into(), ..State::default() };
        let nothing =
            State { tables: [(Family::Ipv6, Table::default())].into(), ..State::default() };
        let added = |delta: &Delta| delta.ops().filter(|op| op.added().is_some()).count();
        assert_eq!(added(&Delta::between_states(&nothing, &alien)), 1);
        assert_eq!(added(&Delta::between_states(&alien, &nothing)), 0);
    }

    /// Otherwise, packets would meet a rule that finds nothing, in a set that is not filled yet.
    #[test]
    fn a_chain_in_use_gets_its_rules_with_the_elements_that_they_look_for() {
        let settings = Arc::new(Settings::new("na".into()));
        let wanted = Program::compile(&Model::default(), settings, &State::default());
        let mut found = wanted.state();
        let table = found.tables.get_mut(&Family::Ipv4).unwrap();
        table.sets.remove(&SetId::UnmasqueradedSources);
        table.elements.retain(|key, _| key.set() != SetId::UnmasqueradedSources);
        table.chains.insert(ChainId::Serve, ChainContent::Other);
        let delta = Delta::reconcile(&found, &wanted);
        let steps: Vec<Vec<Op>> = delta.steps().map(|it| it.ops().cloned().collect()).collect();
        let [prepare, switch] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(
            *prepare,
            [Op::from(nft::Op::AddSet(Family::Ipv4, SetId::UnmasqueradedSources))]
        );
        assert!(switch.contains(&nft::Op::FillChain(Family::Ipv4, ChainId::Serve).into()));
        assert_eq!(switch.iter().filter(|op| op.added().is_some()).count(), 1, "{switch:?}");
    }
}
