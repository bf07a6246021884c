//! UDP flows whose backend or frontend changes: a client that keeps its source port is served
//! again.
//!
//! All packets of a flow are sent to the backend of its first packet. The requests here come from
//! the same source port each time, so that they are one flow to conntrack until its entry is
//! deleted.

use std::time::Instant;

use rulec_testkit::{patience, require_root};

use super::*;
use crate::support::{eventually, get};

const UDP: &str = "[{name: dns, protocol: UDP, port: 8080}]";

const EXTERNAL: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 30), Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x30));

fn dns() -> String {
    service(
        "dns",
        10,
        "
        type: NodePort
        externalIPs: [198.51.100.30, '2001:db8:51::30']
        ports: [{name: dns, protocol: UDP, port: 53, nodePort: 30053}]
        ",
    )
}

/// Returns all frontends, in both families.
fn frontends() -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for family in Family::BOTH {
        all.push(cluster_ip(family, 10, 53));
        all.extend(at(family, 53, &[EXTERNAL]));
        all.extend(at(family, 30053, &[address::NODE]));
    }
    all
}

/// A flow that has the same source port each time.
#[derive(Clone, Copy, Debug)]
struct Flow {
    sender: Sender,
    port: u16,
    to: SocketAddr,
}

impl Flow {
    fn ask(self, site: &Site, timeout: Duration) -> Result<Answer, Failure> {
        let source = SocketAddr::new(self.sender.ip(family_of(self.to)), self.port);
        let options = Options { source: Some(source), timeout };
        ask(self.sender.of(&site.world), Protocol::Udp, self.to, options)
    }

    /// Returns the name and port of the server that answers.
    #[track_caller]
    fn now(self, site: &Site) -> (String, u16) {
        let answer =
            self.ask(site, PATIENCE).unwrap_or_else(|failure| panic!("{self:?}: {failure}"));
        (answer.name, answer.port)
    }

    /// Waits until this backend answers: flows are deleted shortly after the rules are committed.
    #[track_caller]
    fn comes_to(self, site: &Site, backend: &str) {
        let wanted = backend_port(backend);
        let deadline = Instant::now() + patience(Duration::from_secs(20));
        loop {
            let answer = self.ask(site, SILENCE);
            if matches!(&answer, Ok(answer) if (answer.name.as_str(), answer.port) == wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "{self:?} never came to {backend}: {answer:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Returns a flow of each client to each frontend.
fn flows() -> Vec<Flow> {
    let flows = (40_000..)
        .zip(frontends().into_iter().flat_map(|to| Sender::ALL.map(|sender| (sender, to))));
    flows.map(|(port, (sender, to))| Flow { sender, port, to }).collect()
}

#[test]
fn a_flow_moves_when_its_endpoint_is_removed() {
    if !require_root() {
        return;
    }
    let other = service("other", 11, "ports: [{name: dns, protocol: UDP, port: 53}]");
    let rest = other + &endpoints("other", UDP, &["a"]);
    let mut site = Site::start(&(dns() + &endpoints("dns", UDP, &["a"]) + &rest + NODE));
    let flows = flows();
    for flow in &flows {
        assert_eq!(flow.now(&site).0, "a");
    }
    let bystander =
        Flow { sender: Sender::Client, port: 39_999, to: cluster_ip(Family::V4, 11, 53) };
    assert_eq!(bystander.now(&site).0, "a");

    // An additional endpoint does not affect existing flows.
    site.apply(&(dns() + &endpoints("dns", UDP, &["a", "b"]) + &rest + NODE));
    for flow in &flows {
        assert_eq!(flow.now(&site).0, "a", "{flow:?}");
    }
    site.apply(&(dns() + &endpoints("dns", UDP, &["b"]) + &rest + NODE));
    for flow in &flows {
        flow.comes_to(&site, "b");
    }
    assert_eq!(bystander.now(&site).0, "a");

    // The same if the endpoint changes while no daemon runs.
    let site = site.crash(|manifests| {
        let text = dns() + &endpoints("dns", UDP, &["c"]) + &rest + NODE;
        manifests.write("all.yaml", &text);
    });
    for flow in &flows {
        flow.comes_to(&site, "c");
    }
}

#[test]
fn a_flow_follows_its_endpoint_to_another_port() {
    if !require_root() {
        return;
    }
    let mut site = Site::start(&(dns() + &endpoints("dns", UDP, &["a"]) + NODE));
    let flow = Flow { sender: Sender::Client, port: 40_000, to: cluster_ip(Family::V4, 10, 53) };
    assert_eq!(flow.now(&site), ("a".to_owned(), 8080));
    let moved = UDP.replace("8080", "9090");
    site.apply(&(dns() + &endpoints("dns", &moved, &["a"]) + NODE));
    flow.comes_to(&site, "a:9090");
}

#[test]
fn untranslated_flows_are_served_once_the_service_exists() {
    if !require_root() {
        return;
    }
    let mut site = Site::start(NODE);
    // These are forwarded unchanged, and conntrack records them as not translated.
    let flows = [Family::V4, Family::V6].map(|family| Flow {
        sender: Sender::Client,
        port: 40_000,
        to: cluster_ip(family, 10, 53),
    });
    for flow in flows {
        assert!(flow.ask(&site, SILENCE).is_err());
    }
    site.apply(&(dns() + &endpoints("dns", UDP, &["a"]) + NODE));
    for flow in flows {
        flow.comes_to(&site, "a");
    }
}

/// Waits until a flow to a frontend that no longer exists gets no answer.
#[track_caller]
fn ends(flow: Flow, site: &Site, why: &str) {
    let deadline = Instant::now() + patience(Duration::from_secs(20));
    while let Ok(answer) = flow.ask(site, SILENCE) {
        assert!(Instant::now() < deadline, "{why}: {flow:?} goes on to {answer:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// All ways in which a frontend, or everything that serves it, can be removed.
#[test]
fn flows_end_with_their_frontend() {
    if !require_root() {
        return;
    }
    let given = dns() + &endpoints("dns", UDP, &["a"]) + NODE;
    let slices = endpoints("dns", UDP, &["a"]);
    let (cluster, external, node) = (
        cluster_ip(Family::V4, 10, 53),
        at(Family::V4, 53, &[EXTERNAL])[0],
        at(Family::V4, 30053, &[address::NODE])[0],
    );
    let tcp = |text: &str| text.replace("protocol: UDP", "protocol: TCP");
    let elsewhere =
        endpoint(Family::V4, "a", "{ready: true}").replace("nodeName: na", "nodeName: nb");
    let local = dns()
        .replace("externalIPs: [198.51.100.30, '2001:db8:51::30']", "internalTrafficPolicy: Local");
    let ways = [
        ("Service deleted", slices.clone(), vec![cluster, external, node]),
        ("slices gone", dns(), vec![cluster, external, node]),
        ("scaled to zero", dns() + &endpoints("dns", UDP, &[]), vec![cluster, external, node]),
        (
            "external IP withdrawn",
            dns().replace("externalIPs: [198.51.100.30, '2001:db8:51::30']", "") + &slices,
            vec![external],
        ),
        ("protocol changed", tcp(&(dns() + &slices)), vec![cluster, external, node]),
        (
            "port changed",
            dns().replace("port: 53,", "port: 54,") + &slices,
            vec![cluster, external],
        ),
        (
            "cluster address changed",
            service("dns", 12, "ports: [{name: dns, protocol: UDP, port: 53}]") + &slices,
            vec![cluster, external, node],
        ),
        (
            "another proxy's",
            dns().replace(
                "{name: dns}",
                "{name: dns, labels: {service.kubernetes.io/service-proxy-name: other}}",
            ) + &slices,
            vec![cluster, external, node],
        ),
        (
            "internal policy Local and the endpoint elsewhere",
            local + &slice("dns-v4", "dns", "IPv4", UDP, &[elsewhere]),
            vec![cluster],
        ),
        ("node port changed", dns().replace("30053", "30054") + &slices, vec![node]),
        (
            "no node port any more",
            service("dns", 10, "ports: [{name: dns, protocol: UDP, port: 53}]") + &slices,
            vec![node, external],
        ),
    ];
    for (why, then, frontends) in ways {
        let mut site = Site::start(&given);
        let flows: Vec<Flow> = (40_000..)
            .zip(frontends)
            .map(|(port, to)| Flow { sender: Sender::Client, port, to })
            .collect();
        for flow in &flows {
            assert_eq!(flow.now(&site).0, "a", "{why}");
        }
        site.apply(&(then + NODE));
        for flow in &flows {
            ends(*flow, &site, why);
        }
    }
}

#[test]
fn flows_move_to_the_new_owner_of_their_frontend() {
    if !require_root() {
        return;
    }
    let other = |address: u8, backend: &str| {
        let ports = "ports: [{name: dns, protocol: UDP, port: 53}]";
        service("other", address, ports) + &endpoints("other", UDP, &[backend])
    };
    let mut site = Site::start(&(dns() + &endpoints("dns", UDP, &["a"]) + NODE));
    let flow = Flow { sender: Sender::Client, port: 40_000, to: cluster_ip(Family::V4, 10, 53) };
    assert_eq!(flow.now(&site).0, "a");
    site.apply(&(other(10, "b") + NODE));
    flow.comes_to(&site, "b");
}

/// Flows that began, or should have ended, while no daemon ran.
#[test]
fn a_start_deletes_stale_flows_from_before_it() {
    if !require_root() {
        return;
    }
    let mut site = Site::start(&(dns() + &endpoints("dns", UDP, &["a"]) + NODE));
    let gone =
        Flow { sender: Sender::Client, port: 40_001, to: at(Family::V4, 53, &[EXTERNAL])[0] };
    assert_eq!(gone.now(&site).0, "a");
    let stays = Flow { sender: Sender::Client, port: 40_002, to: cluster_ip(Family::V4, 10, 53) };
    assert_eq!(stays.now(&site).0, "a");
    let new = Flow { sender: Sender::Client, port: 40_003, to: cluster_ip(Family::V4, 11, 53) };
    assert!(new.ask(&site, SILENCE).is_err());
    let listed = |site: &Site| {
        let flows = site.world.node.sh("conntrack -L -p udp -o id 2>/dev/null");
        let mine = flows.lines().filter(|line| line.contains("sport=40002"));
        mine.map(|line| line.split("id=").nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = listed(&site);
    assert_eq!(before.len(), 1);
    site = site.crash(|manifests| {
        let other = service("other", 11, "ports: [{name: dns, protocol: UDP, port: 53}]");
        let dns = dns().replace("externalIPs: [198.51.100.30, '2001:db8:51::30']", "");
        let text =
            dns + &endpoints("dns", UDP, &["a"]) + &other + &endpoints("other", UDP, &["b"]) + NODE;
        manifests.write("all.yaml", &text);
    });
    new.comes_to(&site, "b");
    ends(gone, &site, "external IP withdrawn while nobody ran");
    assert_eq!(stays.now(&site).0, "a");
    assert_eq!(listed(&site), before, "a flow that agrees with the rules is kept");
}

/// Connects from one source port until this backend answers.
#[track_caller]
fn connects_to(site: &Site, source_port: u16, to: SocketAddr, backend: &str) {
    let source = SocketAddr::new(Sender::Client.ip(family_of(to)), source_port);
    let options = Options { source: Some(source), timeout: SILENCE };
    let deadline = Instant::now() + patience(Duration::from_secs(20));
    loop {
        let answer = ask(Sender::Client.of(&site.world), Protocol::Tcp, to, options);
        if matches!(&answer, Ok(answer) if answer.name == backend) {
            return;
        }
        assert!(Instant::now() < deadline, "{to} never led to {backend}: {answer:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn unanswered_connection_attempts_start_again() {
    if !require_root() {
        return;
    }
    let ports = "ports: [{name: web, protocol: TCP, port: 80}]";
    let target = "[{name: web, protocol: TCP, port: 8080}]";
    let web = |backend: &str| service("web", 10, ports) + &endpoints("web", target, &[backend]);
    let to = cluster_ip(Family::V4, 10, 80);
    let attempt = |site: &Site, source_port| {
        let source = SocketAddr::new(Sender::Client.ip(Family::V4), source_port);
        let options = Options { source: Some(source), timeout: SILENCE };
        assert!(ask(Sender::Client.of(&site.world), Protocol::Tcp, to, options).is_err());
        let flows = site.world.node.sh("conntrack -L -p tcp 2>/dev/null");
        let source = format!("sport={source_port}");
        let is_it = |line: &str| line.contains(&source) && line.contains("SYN_SENT");
        assert!(flows.lines().any(is_it), "{flows}");
    };
    // Before the Service exists, untranslated: later connections fail as long as the entry stays.
    let mut site = Site::start(NODE);
    attempt(&site, 41_000);
    site.apply(&(web("a") + NODE));
    connects_to(&site, 41_000, to, "a");
    // To an endpoint that does not answer, and is then removed.
    site.backend("a").nft(
        "table ip mute {\nchain in {\ntype filter hook input priority 0\nip protocol tcp drop\n}\n}\n",
    );
    attempt(&site, 41_001);
    site.apply(&(web("b") + NODE));
    connects_to(&site, 41_001, to, "b");
}

/// One of two endpoints of a thousand ports goes: the flows of all ports are deleted in one walk of
/// conntrack, and no others.
#[test]
fn flows_of_many_ports_are_deleted_at_once() {
    const PORTS: u16 = 1_000;
    const OTHERS: u32 = 20_000;
    if !require_root() {
        return;
    }
    let numbers = || 10_000..10_000 + PORTS;
    let many = |backends: &[&str]| {
        let list: Vec<String> = numbers()
            .map(|port| format!("{{name: p{port}, protocol: UDP, port: {port}}}"))
            .collect();
        let spec = format!("externalIPs: [198.51.100.30]\nports: [{}]", list.join(", "));
        let ports = format!("[{}]", list.join(", "));
        let of_v4 = |backend: &&str| endpoint(Family::V4, backend, "{ready: true}");
        let of_v4: Vec<String> = backends.iter().map(of_v4).collect();
        service("many", 12, &spec) + &slice("many-v4", "many", "IPv4", &ports, &of_v4)
    };
    let rest = |backend: &str| dns() + &endpoints("dns", UDP, &[backend]) + NODE;
    let mut site = Site::start(&(many(&["a", "b"]) + &rest("a")));
    let [goes, stays] = [0, 1].map(|pod| Family::V4.of(address::pod(pod)));
    let client = Ipv4Addr::new(203, 0, 113, 9);
    let mut commands = String::new();
    let mut flow = |from: u16, to: Ipv4Addr, port: u16, answers: IpAddr| {
        commands += &format!(
            "-I -p udp -t 3600 -s {client} --sport {from} -d {to} --dport {port} -r {answers} \
             --reply-port-src {port} -q {client} --reply-port-dst {from}\n"
        );
    };
    let (cluster, external) = (Ipv4Addr::new(10, 90, 0, 12), EXTERNAL.0);
    // Somebody else's rules send its flows to the same endpoint.
    let foreign = Ipv4Addr::new(198, 51, 100, 31);
    for port in numbers() {
        flow(4000, cluster, port, goes);
        flow(4001, external, port, goes);
        flow(4002, cluster, port, stays);
        flow(4003, external, port, stays);
        flow(4004, foreign, port, goes);
    }
    for other in 0..OTHERS {
        let to = Ipv4Addr::from(0x0808_0000 + other);
        flow(4005, to, 53, to.into());
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flows");
    std::fs::write(&file, commands).unwrap();
    site.world.node.sh(&format!("conntrack -R {} >/dev/null 2>&1", file.display()));
    // How many flows there are from each port of the client.
    let left = |site: &Site| {
        let listed = site.world.node.sh(&format!("conntrack -L -p udp -s {client} 2>/dev/null"));
        [4000, 4001, 4002, 4003, 4004, 4005].map(|from| {
            let from = format!(" sport={from} ");
            listed.lines().filter(|flow| flow.contains(&from)).count()
        })
    };
    let (ports, others) = (usize::from(PORTS), OTHERS.try_into().unwrap());
    assert_eq!(left(&site), [ports, ports, ports, ports, ports, others]);
    let bystander =
        Flow { sender: Sender::Client, port: 40_000, to: cluster_ip(Family::V4, 10, 53) };
    assert_eq!(bystander.now(&site).0, "a");
    let walks = |site: &Site| {
        let answer = get(&site.world.node, "127.0.0.1:10249", "/metrics");
        let series =
            "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv4\"} ";
        let line = answer.body.lines().find_map(|line| line.strip_prefix(series)).unwrap();
        line.parse::<u32>().unwrap()
    };
    eventually("the first walks of the start are done", || walks(&site) >= 2);
    let before = walks(&site);
    site.apply(&(many(&["b"]) + &rest("a")));
    let rest_of_them = [0, 0, ports, ports, ports, others];
    eventually("flows to the endpoint that went are gone", || left(&site) == rest_of_them);
    eventually("the walk is counted", || walks(&site) > before);
    // The second one is of the start, which looks again at connections without an answer.
    let walked = walks(&site) - before;
    assert!((1..=2).contains(&walked), "{walked} walks");
    assert_eq!(bystander.now(&site).0, "a");
    site.apply(&(many(&["b"]) + &rest("b")));
    bystander.comes_to(&site, "b");
    assert_eq!(left(&site), rest_of_them, "all others stay");
}

#[test]
fn a_terminating_endpoint_keeps_its_flows_while_it_serves() {
    if !require_root() {
        return;
    }
    let with = |conditions: &str| {
        let of = |backend, conditions: &str| endpoint(Family::V4, backend, conditions);
        let both = [of("a", conditions), of("b", "{ready: true}")];
        dns() + &slice("dns-v4", "dns", "IPv4", UDP, &both) + NODE
    };
    let only_a = [endpoint(Family::V4, "a", "{ready: true}")];
    let mut site = Site::start(&(dns() + &slice("dns-v4", "dns", "IPv4", UDP, &only_a) + NODE));
    let flow = Flow { sender: Sender::Client, port: 40_000, to: cluster_ip(Family::V4, 10, 53) };
    assert_eq!(flow.now(&site).0, "a");
    site.apply(&with("{ready: false, serving: true, terminating: true}"));
    site.served(Sender::Client, Protocol::Udp, flow.to, &["b"], Seen::Masqueraded);
    assert_eq!(flow.now(&site).0, "a");
    site.apply(&with("{ready: false, serving: false, terminating: true}"));
    flow.comes_to(&site, "b");
}
