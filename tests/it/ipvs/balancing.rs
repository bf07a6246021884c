//! Weights and limits of connections in mode ipvs: annotations, and the connections that follow.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rulec_testkit::{Connection, Failure, Family, LongServer, World, WorldSpec, flow};

use crate::daemon::{Daemon, Manifests};

/// Returns a Service of both families with two Pods of the node, which have weights.
fn web(annotation: &str, weights: [u8; 2]) -> String {
    let slice = |number: usize, family: Family| {
        let (kind, digits) = match family {
            Family::V4 => ("IPv4", format!("10.50.1.{}", 5 + number)),
            Family::V6 => ("IPv6", format!("'2001:db8:50:1::{}'", 5 + number)),
        };
        let weight = weights[number];
        format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-{number}-{}
  annotations: {{rulec.io/weight: '{weight}'}}
  labels: {{kubernetes.io/service-name: web}}
addressType: {kind}
ports: [{{port: 8080}}]
endpoints: [{{addresses: [{digits}], nodeName: na}}]
",
            kind.to_lowercase()
        )
    };
    let slices: String =
        [0, 1].into_iter().flat_map(|it| Family::BOTH.map(|family| slice(it, family))).collect();
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, annotations: {{{annotation}}}}}
spec:
  clusterIPs: [10.90.0.10, 'fd90::10']
  ports: [{{port: 80}}]
{slices}"
    )
}

/// A node in mode ipvs with two Pods that keep connections open.
struct Site {
    daemon: Daemon,
    manifests: Manifests,
    _servers: [LongServer; 2],
    world: World,
}

impl Site {
    fn start(yaml: &str) -> Self {
        let world = World::new(WorldSpec { local_pods: 2, remote_pods: 0 });
        let servers = [(0, "e0"), (1, "e1")]
            .map(|(idx, name)| LongServer::start(&world.pod(idx).namespace, name, 8080));
        let manifests = Manifests::of(yaml);
        let daemon = Daemon::start(&world.node, &manifests.path(), &["--proxy-mode", "ipvs"]);
        Self { daemon, manifests, _servers: servers, world }
    }

    fn apply(&mut self, yaml: &str) {
        self.daemon.after(|| self.manifests.write("all.yaml", yaml));
    }

    /// Opens a connection from outside, and returns the name of the server that answers.
    fn connect(&self, family: Family) -> Result<(Connection, String), Failure> {
        let to: SocketAddr = match family {
            Family::V4 => "10.90.0.10:80".parse().unwrap(),
            Family::V6 => "[fd90::10]:80".parse().unwrap(),
        };
        let mut connection = flow(&self.world.client, to)?;
        let answer = connection.exchange("?")?;
        Ok((connection, answer.strip_suffix(" ?").unwrap().to_owned()))
    }

    /// Opens connections one after the other, and counts the servers that answer.
    fn counts(&self, family: Family, n: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..n {
            *counts.entry(self.connect(family).unwrap().1).or_default() += 1;
        }
        counts
    }
}

/// `wrr` keeps to the weights exactly, in every round.
#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn weights_are_shares_with_wrr() {
    let wrr = "rulec.io/ipvs-scheduler: wrr";
    let mut site = Site::start(&web(wrr, [3, 1]));
    let expected = |shares: [usize; 2]| {
        let all = ["e0", "e1"].into_iter().zip(shares).filter(|(_, share)| *share > 0);
        all.map(|(name, share)| (name.to_owned(), share)).collect::<BTreeMap<_, _>>()
    };
    for family in Family::BOTH {
        assert_eq!(site.counts(family, 40), expected([30, 10]));
    }
    site.apply(&web(wrr, [1, 4]));
    for family in Family::BOTH {
        assert_eq!(site.counts(family, 40), expected([8, 32]));
    }
    site.apply(&web(wrr, [0, 4]));
    for family in Family::BOTH {
        assert_eq!(site.counts(family, 8), expected([0, 8]));
    }
}

/// A full endpoint is passed over. If all are full, the client is refused; connections that exist
/// go on, and so do those above a limit that has been lowered.
#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn a_full_endpoint_gets_no_new_connections() {
    let limited = |limit: &str| web(&format!("rulec.io/max-connections: '{limit}'"), [1, 1]);
    let mut site = Site::start(&limited("1"));
    for family in Family::BOTH {
        let (mut first, one) = site.connect(family).unwrap();
        let (mut second, other) = site.connect(family).unwrap();
        assert_ne!(one, other, "the second connection goes to the endpoint that has room");
        let third = site.connect(family);
        assert!(matches!(third, Err(Failure::Refused)), "all are full: {:?}", third.err());
        for (connection, name) in [(&mut first, one), (&mut second, other)] {
            assert_eq!(connection.exchange("on").unwrap(), format!("{name} on"));
        }
    }
    site.apply(&limited("100"));
    for family in Family::BOTH {
        let open: Vec<_> = (0..4).map(|_| site.connect(family).unwrap()).collect();
        assert_eq!(open.len(), 4);
    }
}
