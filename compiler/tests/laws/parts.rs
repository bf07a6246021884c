//! A part of a model or of a program says the same of its Services as the whole.

use rulec_compiler::ipvs::VirtualServer;

use super::ipvs::ipvs_settings;
use super::*;

/// Checks the parts around a change, and that no Service that differs is missed.
fn check_parts(list: &[Object], batches: &[Vec<Change>], settings: Settings) {
    let settings = Arc::new(settings);
    let mut model = model(list);
    let mut program = Program::compile(&model, Arc::clone(&settings), &State::default());
    for batch in batches {
        let (old_model, old_program) = (model.clone(), program.clone());
        let mut dirty = Dirty::default();
        for change in batch {
            dirty.merge(model.apply(Origin::Manifests, change.clone()));
        }
        program.update(&model, &dirty);
        let differing = old_program.differing_services(&program);
        let [old, new] = [&old_program, &program].map(Program::state);
        let frontends = old_program.changed_frontends(&program);
        for frontend in frontends {
            for program in [&old_program, &program] {
                let owner = program.winner(frontend).map(|winner| &winner.owner.service);
                assert!(owner.is_none_or(|owner| differing.contains(owner)), "{frontend}");
            }
        }
        for (model, program, state) in [(&old_model, &old_program, &old), (&model, &program, &new)]
        {
            let node = settings.ipvs().is_none().then_some(&settings.node_name);
            let part = model.part(&differing, node);
            for service in &differing {
                let whole = resolve(model, &settings, service);
                assert_eq!(resolve(&part, &settings, service), whole, "{service}");
            }
            check_state(program, &differing, state);
        }
        // Exactly the objects that differ are told.
        let all = |model: &Model| -> BTreeMap<ObjectKey, Object> {
            model.objects().map(|it| (it.object.key(), it.object)).collect()
        };
        let (before, after) = (all(&old_model), all(&model));
        let keys: BTreeSet<&ObjectKey> = before.keys().chain(after.keys()).collect();
        let expected = keys.into_iter().filter(|key| before.get(key) != after.get(key));
        let told = old_model.differing(&model);
        assert!(told.iter().map(|it| &it.key).eq(expected), "{told:#?}");
        for it in told {
            let object = |side: Option<(Origin, Sourced)>| side.map(|(_, it)| it.object);
            assert_eq!(object(it.old).as_ref(), before.get(&it.key));
            assert_eq!(object(it.new).as_ref(), after.get(&it.key));
        }
    }
}

fn check_state(program: &Program, services: &BTreeSet<NamespacedName>, state: &State) {
    let part = program.state_of(services);
    for (family, table) in &part.tables {
        let whole = &state.tables[family];
        for (key, held) in &table.elements {
            assert_eq!(whole.elements.get(key), Some(held), "{key:?}");
        }
    }
    for service in services {
        let ports = program.fragment(service).into_iter().flat_map(|it| it.iter());
        for (frontend, _) in ports.flat_map(|port| &port.frontends) {
            let owner = program.winner(*frontend).map(|winner| &winner.owner.service);
            let is_own = owner.is_some_and(|owner| services.contains(owner));
            for view in View::ALL.into_iter().filter(|_| is_own) {
                assert_eq!(part.group(view, *frontend), state.group(view, *frontend), "{frontend}");
            }
            assert_eq!(part.sources(*frontend), state.sources(*frontend), "{frontend}");
            let server = VirtualServer::of(*frontend);
            let of = |state: &State| state.ipvs.servers.get(&server?).cloned();
            assert_eq!(of(&part), of(state), "{frontend}");
        }
    }
}

proptest! {
    #![proptest_config(cases(16, seeds!("parts.txt")))]

    /// In mode nftables.
    #[test]
    fn a_part_says_what_the_whole_says((list, batches) in history()) {
        check_parts(&list, &batches, Settings::clone(&settings()));
    }

    /// In mode ipvs, in which other Nodes matter.
    #[test]
    fn a_part_says_what_the_whole_says_in_ipvs_mode(
        (list, batches) in history(),
        settings in ipvs_settings(),
    ) {
        check_parts(&list, &batches, settings);
    }
}

/// Found by the laws: a Pod in the host's network of another node has the addresses of that Node.
#[test]
fn the_node_of_a_pod_in_its_network_is_part() {
    let key = NamespacedName::new("default", "web");
    let selector = BTreeMap::from([("app".into(), "web".into())]);
    let service = Service {
        cluster_ips: ClusterIps { v4: Some(Ipv4Addr::new(10, 96, 0, 1)), v6: None },
        ports: vec![service_port("", 80)],
        selector: selector.clone(),
        ..Service::new(key.clone())
    };
    let pod = Pod {
        key: NamespacedName::new("default", "web-0"),
        labels: selector,
        node: Some("there".into()),
        addresses: PodAddresses::Node,
        ports: Vec::new(),
        conditions: Conditions::READY,
        host: None,
        weight: Weight::default(),
    };
    let node = |name: &str, address: IpAddr| {
        Object::Node(Arc::new(Node {
            name: name.into(),
            addresses: vec![address],
            pod_cidrs: Vec::new(),
            zone: None,
            taints: Vec::new(),
            deleting: false,
        }))
    };
    let (there, other) = (node("there", v4(9, 1)), node("other", v4(9, 2)));
    let objects = [Object::Service(Arc::new(service)), Object::Pod(Arc::new(pod)), there, other];
    let part = model(&objects).part(&BTreeSet::from([key.clone()]), Some(&settings().node_name));
    assert!(part.nodes().map(|it| it.object.name.as_str()).eq(["there"]));
    let routes = resolve(&part, &settings(), &key);
    assert!(routes.iter().any(|route| !route.cluster.is_empty()), "{routes:?}");
}
