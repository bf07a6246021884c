//! UDP flows that outlive what they lead to: a client that keeps its source port is served again.
//!
//! All packets of a flow go where its first one went. What is asked here comes from one source port
//! again and again, so it is one flow to conntrack unless somebody deletes it.

use std::time::Instant;

use rulec_testkit::{patience, require_root};

use super::*;

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

/// Everything a client can send to, in both families.
fn frontends() -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for family in Family::BOTH {
        all.push(cluster_ip(family, 10, 53));
        all.extend(at(family, 53, &[EXTERNAL]));
        all.extend(at(family, 30053, &[address::NODE]));
    }
    all
}

/// One flow, from the same source port each time.
#[derive(Clone, Copy, Debug)]
struct Flow {
    who: Who,
    port: u16,
    to: SocketAddr,
}

impl Flow {
    fn ask(self, site: &Site, timeout: Duration) -> Result<Answer, Failure> {
        let source = SocketAddr::new(self.who.ip(family_of(self.to)), self.port);
        let options = Options { source: Some(source), timeout };
        ask(self.who.of(&site.world), Protocol::Udp, self.to, options)
    }

    /// Who answers now.
    #[track_caller]
    fn now(self, site: &Site) -> (String, u16) {
        let answer =
            self.ask(site, PATIENCE).unwrap_or_else(|failure| panic!("{self:?}: {failure}"));
        (answer.name, answer.port)
    }

    /// Waits until this backend answers: flows are deleted just after the rules are there.
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

/// A flow of each client to each frontend.
fn flows() -> Vec<Flow> {
    let flows =
        (40_000..).zip(frontends().into_iter().flat_map(|to| Who::ALL.map(|who| (who, to))));
    flows.map(|(port, (who, to))| Flow { who, port, to }).collect()
}

#[test]
fn a_flow_goes_on_elsewhere_when_its_endpoint_has_gone() {
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
    let bystander = Flow { who: Who::Client, port: 39_999, to: cluster_ip(Family::V4, 11, 53) };
    assert_eq!(bystander.now(&site).0, "a");

    // An endpoint more is none less.
    site.apply(&(dns() + &endpoints("dns", UDP, &["a", "b"]) + &rest + NODE));
    for flow in &flows {
        assert_eq!(flow.now(&site).0, "a", "{flow:?}");
    }
    site.apply(&(dns() + &endpoints("dns", UDP, &["b"]) + &rest + NODE));
    for flow in &flows {
        flow.comes_to(&site, "b");
    }
    assert_eq!(bystander.now(&site).0, "a");

    // While nobody runs, too.
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
    let flow = Flow { who: Who::Client, port: 40_000, to: cluster_ip(Family::V4, 10, 53) };
    assert_eq!(flow.now(&site), ("a".to_owned(), 8080));
    let moved = UDP.replace("8080", "9090");
    site.apply(&(dns() + &endpoints("dns", &moved, &["a"]) + NODE));
    flow.comes_to(&site, "a:9090");
}

#[test]
fn who_sent_before_there_was_a_service_is_served_when_there_is() {
    if !require_root() {
        return;
    }
    let mut site = Site::start(NODE);
    // These are forwarded as they are, and conntrack remembers them as such.
    let flows = [Family::V4, Family::V6].map(|family| Flow {
        who: Who::Client,
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

#[test]
fn without_endpoints_flows_stay_until_there_is_another() {
    if !require_root() {
        return;
    }
    let mut site = Site::start(&(dns() + &endpoints("dns", UDP, &["a"]) + NODE));
    let flow = Flow { who: Who::Client, port: 40_000, to: cluster_ip(Family::V4, 10, 53) };
    assert_eq!(flow.now(&site).0, "a");
    site.apply(&(dns() + &endpoints("dns", UDP, &[]) + NODE));
    site.refused(&[Who::Client], &[Protocol::Udp], &[flow.to]);
    assert_eq!(flow.now(&site).0, "a", "what has not ended goes on");
    site.apply(&(dns() + &endpoints("dns", UDP, &["b"]) + NODE));
    flow.comes_to(&site, "b");
}

#[test]
fn an_endpoint_that_is_shutting_down_keeps_its_flows_while_it_serves() {
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
    let flow = Flow { who: Who::Client, port: 40_000, to: cluster_ip(Family::V4, 10, 53) };
    assert_eq!(flow.now(&site).0, "a");
    site.apply(&with("{ready: false, serving: true, terminating: true}"));
    site.served(Who::Client, Protocol::Udp, flow.to, &["b"], Seen::Masqueraded);
    assert_eq!(flow.now(&site).0, "a");
    site.apply(&with("{ready: false, serving: false, terminating: true}"));
    flow.comes_to(&site, "b");
}
