//! Nothing is removed because of unread files; after they have been read, nothing is left over.

use rulec_compiler::settings::{IpvsSettings, ProxyMode};

use super::support::with_excluded;
use super::*;

/// Returns the objects of a list that could be read; Nodes, ServiceCIDRs and interfaces always can.
fn readable(list: &[Object], is_read: &[bool]) -> Vec<Object> {
    let is_node = |object: &Object| {
        matches!(object, Object::Node(_) | Object::ServiceCidr(_) | Object::InterfaceAddresses(_))
    };
    let read = list.iter().zip(is_read.iter().chain(std::iter::repeat(&true)));
    read.filter(|(object, is_read)| **is_read || is_node(object))
        .map(|(it, _)| it.clone())
        .collect()
}

fn settings_of(is_ipvs: bool) -> Arc<Settings> {
    if !is_ipvs {
        return settings();
    }
    let proxy_mode = ProxyMode::Ipvs(IpvsSettings::default());
    Arc::new(Settings { proxy_mode, ..(*settings()).clone() })
}

/// The start of a process that could read only some of the objects that an earlier one has served.
struct Start {
    before: Program,
    model: Model,
    settings: Arc<Settings>,
}

impl Start {
    fn new(list: &[Object], is_read: &[bool], is_ipvs: bool) -> Self {
        let settings = settings_of(is_ipvs);
        let before = Program::compile(&model(list), Arc::clone(&settings), &State::default());
        Self { before, model: model(&readable(list, is_read)), settings }
    }

    fn compiled(&self, found: &State) -> Program {
        Program::compile(&self.model, Arc::clone(&self.settings), found)
    }

    fn kept(&self, found: &State) -> Program {
        let mut program = self.compiled(found);
        program.keep(&self.model, found);
        program
    }
}

/// Returns the frontends that have backends, with these.
fn led(state: &State) -> BTreeMap<Frontend, BTreeSet<Backend>> {
    let mut led: BTreeMap<Frontend, BTreeSet<Backend>> = BTreeMap::new();
    for frontend in elements(state).into_keys().filter_map(Key::frontend) {
        let is_split = state.code(frontend).is_some_and(|code| code.clients == Clients::Split);
        let views = View::ALL.into_iter().filter(|view| *view == View::Cluster || is_split);
        for group in views.filter_map(|view| state.group(view, frontend)) {
            led.entry(frontend).or_default().extend(group.slots.iter().map(|slot| slot.backend));
        }
    }
    for (server, held) in &state.ipvs.servers {
        led.entry(server.frontend()).or_default().extend(held.active());
    }
    led.retain(|_, backends| !backends.is_empty());
    led
}

proptest! {
    #![proptest_config(cases(24, seeds!("keep.txt")))]

    /// If only the node could be read, nothing changes, in either mode.
    #[test]
    fn unread_objects_leave_the_kernel_unchanged(list in list(), is_ipvs in any::<bool>()) {
        let start = Start::new(&list, &vec![false; list.len()], is_ipvs);
        let found = start.before.state();
        let program = start.kept(&found);
        let delta = Delta::reconcile(&found, &program);
        // A port that has lost all its frontends to others has endpoints that are never reached.
        let led: BTreeSet<IpAddr> =
            led(&found).values().flatten().map(|backend| backend.address).collect();
        let is_of_nobody = |op: &&Op| {
            let Some(key) = op.element().map(|element| element.key) else { return false };
            matches!(key, Key::Hairpin(address) if !led.contains(&address))
        };
        let rest: Vec<&Op> = delta.ops().filter(|op| !is_of_nobody(op)).collect();
        prop_assert!(rest.is_empty(), "{:?}", rest);
    }

    /// With any subset of readable objects, everything that was served and that no other Service
    /// names is still served. When all has been read, the program is the same as if it had been
    /// readable from the start.
    #[test]
    fn unread_services_are_served_until_they_are_read(
        list in list(),
        is_read in vec(any::<bool>(), 60),
        is_ipvs in any::<bool>(),
    ) {
        let start = Start::new(&list, &is_read, is_ipvs);
        let found = start.before.state();
        let mut program = start.kept(&found);
        let delta = Delta::reconcile(&found, &program);
        check(&found, &delta, &with_excluded(&found, &program));
        let now = led(&program.state());
        for frontend in led(&found).into_keys() {
            let is_named = |owner: &PortKey| start.model.service(&owner.service).is_some();
            let had = found.owner(frontend).is_some_and(|owner| is_named(owner));
            let has = program.winner(frontend).is_some_and(|winner| is_named(winner.owner));
            prop_assert!(had || has || now.contains_key(&frontend), "{} went", frontend);
        }
        // The rest is then read step by step.
        let kept = program.clone();
        let mut all = start.model.clone();
        let mut dirty = Dirty::default();
        for object in &list {
            dirty.merge(all.apply(Origin::Manifests, Change::Apply(sourced(object.clone()))));
        }
        program.update(&all, &dirty);
        checked_delta(&kept, &program);
        let read = program.clone();
        program.let_go(&all);
        prop_assert_eq!(program.kept().count(), 0);
        checked_delta(&read, &program);
        let fresh = Program::compile(&all, Arc::clone(&start.settings), &State::default());
        if !is_ipvs {
            assert_same_meaning(&program, &fresh);
        }
        prop_assert_eq!(led(&program.state()), led(&fresh.state()));
        // Alternatively, the unread objects are removed.
        let mut program = kept.clone();
        program.let_go(&start.model);
        checked_delta(&kept, &program);
        prop_assert_eq!(led(&program.state()), led(&start.compiled(&State::default()).state()));
    }

    /// From any content of a kernel, the state of the program with kept content can be reached.
    #[test]
    fn a_program_with_kept_content_is_reached_from_any_state(
        history in history(),
        is_read in vec(any::<bool>(), 60),
        damages in damages(),
    ) {
        let start = Start::new(&history.0, &is_read, false);
        let found = damaged(&start.before.state(), &damages);
        let mut program = start.kept(&found);
        check(&found, &Delta::reconcile(&found, &program), &program.state());
        for batch in &history.1 {
            let (mut model, before) = (start.model.clone(), program.clone());
            let mut dirty = Dirty::default();
            for change in batch {
                dirty.merge(model.apply(Origin::Manifests, change.clone()));
            }
            program.update(&model, &dirty);
            checked_delta(&before, &program);
        }
    }
}

/// A Service that was read once and then removed is not kept, whatever else is unread.
#[test]
fn a_service_removed_after_being_read_is_not_kept() {
    let web = plain("default", "web", 1);
    let list = objects(&[(&web, &[1, 2])]);
    let start = Start::new(&list, &vec![false; list.len()], false);
    let found = start.before.state();
    let mut program = start.kept(&found);
    assert_eq!(program.kept().collect::<Vec<_>>(), [&web.key]);
    let mut model = start.model.clone();
    let apply = |model: &mut Model, program: &mut Program, change: Change| {
        let dirty = model.apply(Origin::Manifests, change);
        program.update(model, &dirty);
    };
    // The Service is read but its slice is not: its endpoints are kept.
    let service = Object::Service(Arc::new(web.clone()));
    apply(&mut model, &mut program, Change::Apply(sourced(service.clone())));
    assert_eq!(led(&program.state()), led(&found));
    apply(&mut model, &mut program, Change::Remove(service.key()));
    assert_eq!(program.kept().count(), 0);
    assert!(led(&program.state()).is_empty());
}

/// The shares of a table cannot be told from a kernel, but the table can stay as it is.
#[test]
fn a_weighted_table_stays_while_its_endpoints_are_unread() {
    for balancing in LoadBalancing::ALL {
        let web = Service { load_balancing: Some(balancing), ..plain("default", "web", 1) };
        let mut list = objects(&[(&web, &[1, 2])]);
        let weigh = |object: &mut Object| {
            if let Object::EndpointSlice(slice) = object {
                let slice = Arc::make_mut(slice);
                let mut heavy = EndpointSlice {
                    weight: must(Weight::try_from(3).ok()),
                    key: NamespacedName::new("default", "web-heavy"),
                    ..slice.clone()
                };
                heavy.endpoints = slice.endpoints.split_off(1);
                return Some(Object::EndpointSlice(Arc::new(heavy)));
            }
            None
        };
        let heavy: Vec<Object> = list.iter_mut().filter_map(weigh).collect();
        list.extend(heavy);
        let is_read: Vec<bool> = list.iter().map(|it| matches!(it, Object::Service(_))).collect();
        let start = Start::new(&list, &is_read, false);
        let found = start.before.state();
        let program = start.kept(&found);
        let delta = Delta::reconcile(&found, &program);
        assert!(delta.is_empty(), "{balancing}: {:?}", delta.ops().collect::<Vec<&Op>>());
    }
}

/// If others have removed the class of session affinity, nothing tells its timeout: what is kept
/// goes on without affinity, with as many slots.
#[test]
fn kept_endpoints_outlive_the_class_of_their_affinity() {
    let web =
        Service { affinity: Affinity::ClientIp { timeout: 10_800 }, ..plain("default", "web", 1) };
    let list = objects(&[(&web, &[1, 2, 3])]);
    let start = Start::new(&list, &vec![false; list.len()], false);
    let mut found = start.before.state();
    let had = led(&found);
    for table in found.tables.values_mut() {
        table.elements.retain(|key, _| !matches!(key, Key::Class(_, Class::Affinity(_))));
    }
    let program = start.kept(&found);
    assert_eq!(led(&program.state()), had);
    let frontend = must(had.keys().next().copied());
    let slots: Vec<u32> =
        must(program.state().group(View::Cluster, frontend)).slots.iter().map(|it| it.id).collect();
    assert_eq!(slots, [0, 1, 2]);
    check(&found, &Delta::reconcile(&found, &program), &program.state());
}
