//! The setting of a row: the network, the daemon on the node, and the source of its objects.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rulec_apiserver::{ApiServer, Credential, Fault, Resource, Scope};
use rulec_testkit::{
    Family, Hosts, LongServer, Namespace, Pod, Protocol, Server, World, address, sctp_supported,
};
use serde_json::{Value, json};

use super::mirror::mirror_text;
use super::objects::Objects;
use super::row::{Life, Mode, ObjectSource, Row};
use crate::daemon::{Daemon, Manifests, NODE_NAME, rulec};
use crate::support::{eventually, get, request};

/// A pod of the world.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    name: &'static str,
    /// The third number of the pod's address, which identifies its node.
    node: u8,
    host: u8,
}

/// All pods. Those with names that begin with `e` are endpoints.
const PODS: [Site; 6] = [
    Site { name: "e1", node: 1, host: 5 },
    Site { name: "e1b", node: 1, host: 6 },
    Site { name: "P", node: 1, host: 200 },
    Site { name: "e2", node: 2, host: 5 },
    Site { name: "Q", node: 2, host: 9 },
    Site { name: "e3", node: 3, host: 5 },
];

/// The ports on which endpoints answer single requests, for every protocol.
const PORTS: [u16; 5] = [8080, 9090, 5301, 5302, 5303];

/// The port on which they keep TCP connections open.
pub(super) const LONG_PORT: u16 = 7070;

/// The usual options of the daemon.
const ARGS: &str = "--cluster-cidr 10.50.0.0/16,2001:db8:50::/48 --nodeport-addresses primary";

/// The `--iptables-sync-period` or `--ipvs-sync-period` of rows that wait for it.
const PERIOD: &str = "1s";

/// The address of the node's own health server.
const HEALTH: &str = "127.0.0.1:10256";

const METRICS: &str = "127.0.0.1:10249";

/// Returns the pod with a name.
pub(super) fn pod(name: &str) -> Site {
    *PODS.iter().find(|pod| pod.name == name).unwrap_or_else(|| panic!("{name} is no pod"))
}

impl Site {
    pub(super) fn ips(self) -> (Ipv4Addr, Ipv6Addr) {
        address::pod_at(self.node, self.host)
    }

    pub(super) fn node(self) -> &'static str {
        ["na", "nb", "nc"][usize::from(self.node) - 1]
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Place {
    // Fields are dropped in this order: the daemon must end before its world.
    pub(super) daemon: Daemon,
    pub(super) api: Option<ApiServer>,
    pub(super) objects: Objects,
    manifests: Manifests,
    /// The objects as files, for when the daemon gets them from another source.
    expected: Manifests,
    args: Vec<String>,
    _servers: Vec<Server>,
    _long_servers: Vec<LongServer>,
    pub(super) world: Arc<World>,
    pub(super) family: Family,
    pub(super) mode: Mode,
}

impl Place {
    /// Builds everything, and waits until the daemon has applied the objects.
    pub(super) fn new(row: &Row, family: Family, mode: Mode) -> Self {
        let hosts = |node: u8| -> Vec<u8> {
            PODS.iter().filter(|pod| pod.node == node).map(|pod| pod.host).collect()
        };
        let [node, nb, nc] = [1, 2, 3].map(hosts);
        let world = World::with_hosts(Hosts { node: &node, nb: &nb, nc: &nc });
        world.watch_gateway();
        let protocols = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .chain(sctp_supported().then_some(Protocol::Sctp));
        let ports: Vec<(Protocol, u16)> =
            protocols.flat_map(|protocol| PORTS.map(|port| (protocol, port))).collect();
        let endpoints = || PODS.iter().filter(|pod| pod.name.starts_with('e'));
        let of = |pod: &Site| &pod_in(&world, pod.name).namespace;
        let servers = endpoints().map(|pod| Server::start(of(pod), pod.name, &ports)).collect();
        let long_servers =
            endpoints().map(|pod| LongServer::start(of(pod), pod.name, LONG_PORT)).collect();

        let objects = Objects::new(&row.given, &row.with, family);
        let manifests = Manifests::new();
        let expected = Manifests::new();
        let api = (row.source == ObjectSource::Api).then(|| {
            let server = world.node.run(ApiServer::start);
            let path = expected.path().with_file_name("kubeconfig");
            server.write_kubeconfig(&path, &Credential::Token("token".into()));
            server
        });
        let args = options(row.args.as_deref().unwrap_or(ARGS), family, mode);
        let first = row.steps.first().and_then(|step| step.silence.as_ref());
        let silenced: Vec<Resource> = first.into_iter().flatten().map(|it| resource(it)).collect();
        if let Some(api) = &api {
            for resource in &silenced {
                api.fault(Scope::resource(*resource), Fault::Stall);
            }
        }
        publish(&manifests, api.as_ref(), &[], &objects.whole());
        let all = arguments(&manifests, api.is_some(), &expected, &args);
        let daemon = spawn(&world.node, &all);
        let mut place = Self {
            daemon,
            api,
            objects,
            manifests,
            expected,
            args,
            _servers: servers,
            _long_servers: long_servers,
            world: Arc::new(world),
            family,
            mode,
        };
        if silenced.is_empty() {
            place.settle();
        }
        place
    }

    /// Changes objects and publishes them.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Objects)) {
        let before = self.objects.whole();
        change(&mut self.objects);
        publish(&self.manifests, self.api.as_ref(), &before, &self.objects.whole());
    }

    /// Ends the daemon, lets `meanwhile` run, and starts the daemon again.
    pub(super) fn restart(&mut self, life: Life, meanwhile: impl FnOnce(&mut Self)) {
        match life {
            Life::Restarts => {
                self.daemon.signal("TERM");
            }
            Life::Crashes => self.daemon.signal("KILL"),
        }
        eventually("the daemon ends", || !self.daemon.is_running());
        meanwhile(self);
        let all = arguments(&self.manifests, self.api.is_some(), &self.expected, &self.args);
        self.daemon = spawn(&self.world.node, &all);
    }

    /// Restarts the daemon with other options.
    pub(super) fn restart_with(&mut self, args: &str) {
        self.args = options(args, self.family, self.mode);
        self.restart(Life::Restarts, |_| {});
    }

    /// Returns the directory that the daemon reads.
    pub(super) fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Waits until the kernel is in sync with the objects.
    pub(super) fn settle(&mut self) {
        if self.api.is_none() && !self.manifests.path().exists() {
            return;
        }
        self.wait_for_reading();
        if self.api.is_some() {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": self.objects.whole()});
            self.expected.write("all.json", &list.to_string());
        }
        let to = self.objects_for_reading().expect("there are objects");
        let settings = self.settings();
        let args = ["diff", "--to", &to].into_iter().chain(settings.iter().map(String::as_str));
        let args: Vec<&str> = args.collect();
        let mut last = None;
        let node = &self.world.node;
        let same = self.daemon.wait_until(|_| {
            let output = rulec(node, &args);
            // Some rows contain invalid objects: `diff` then fails although there is no difference.
            let same = output.status.success()
                || String::from_utf8_lossy(&output.stdout).starts_with("No difference");
            last = Some(output);
            same
        });
        assert!(same, "the kernel still differs: {last:?}; the log:\n{}", self.daemon.log());
    }

    /// Returns a directory with all objects, whatever the daemon's source is.
    pub(super) fn objects_for_reading(&self) -> Option<String> {
        let manifests = if self.api.is_some() { &self.expected } else { &self.manifests };
        let path = manifests.path();
        path.exists().then(|| path.to_str().expect("a path in UTF-8").to_owned())
    }

    /// Returns those of the daemon's options that affect the content of the kernel.
    pub(super) fn settings(&self) -> Vec<String> {
        let others = ["--shared-tables", "--iptables-sync-period", "--ipvs-sync-period", PERIOD];
        let own = self.args.iter().filter(|it| !others.contains(&it.as_str()));
        // With an API server, the daemon gives out nothing.
        let given = ["--service-cidr=", "--service-node-port-range="].map(str::to_owned);
        let given = given.iter().filter(|_| self.api.is_some());
        let name = ["--node-name", NODE_NAME].map(str::to_owned);
        name.iter().chain(own).chain(given).cloned().collect()
    }

    /// Waits until the daemon has read everything that was written so far. Files are read in
    /// rounds, and the daemon logs an error about this file in the same round in which it reads the
    /// others, or later.
    fn wait_for_reading(&mut self) {
        // A new name each time, because the log limits the lines per file and minute.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let complaint = format!("barrier-{}.yaml", NEXT.fetch_add(1, Ordering::Relaxed));
        if self.api.is_some() {
            return;
        }
        self.manifests.write(&complaint, "kind: Service\napiVersion: v1\n");
        self.daemon.wait_for_count(&complaint, 1);
        self.manifests.remove(&complaint);
        self.daemon.wait_for_count(&complaint, 2);
    }

    /// Returns every metric, as the sum over its labels.
    pub(super) fn metrics(&self) -> BTreeMap<String, f64> {
        let node = &self.world.node;
        // A daemon that has just been started may not serve metrics yet.
        eventually("metrics are served", || request(node, "GET", METRICS, "/metrics").is_ok());
        let text = get(&self.world.node, METRICS, "/metrics").body;
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let name = series.split('{').next().unwrap_or_default();
            *sums.entry(name.to_owned()).or_default() += value.parse().unwrap_or(0.0);
        }
        sums
    }

    /// Runs a command on the node, and returns its output.
    pub(super) fn run(&self, command: &str) -> String {
        let variables = match self.family {
            Family::V4 => "FAMILY=ipv4 TABLE=ip OTHER_TABLE=ip6",
            Family::V6 => "FAMILY=ipv6 TABLE=ip6 OTHER_TABLE=ip",
        };
        self.world.node.sh(&format!("{variables}\n{command}"))
    }

    /// Lets another process own the other family's table for this time, so that all transactions on
    /// that table fail.
    pub(super) fn seize(&self, time: Duration) {
        let table = match self.family {
            Family::V4 => "ip6 rulec",
            Family::V6 => "ip rulec",
        };
        let mut thief = self
            .world
            .node
            .command("nft", ["-i"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nft starts");
        let mut prompt = thief.stdin.take().expect("stdin is piped");
        writeln!(prompt, "delete table {table}; add table {table} {{ flags owner; }}")
            .expect("nft reads");
        let listed = || self.world.node.sh(&format!("nft list table {table} || true"));
        eventually("the table is taken", || listed().contains("flags owner"));
        thread::spawn(move || {
            thread::sleep(time);
            drop(prompt);
            thief.wait()
        });
    }

    /// Adds an address that the kernel does not choose as a source.
    pub(super) fn add_address(&self, namespace: &Namespace, ip: IpAddr) {
        let device = if namespace.name() == self.world.node.name() { "uplink" } else { "eth0" };
        let (length, more) = match ip {
            IpAddr::V4(_) => (32, ""),
            IpAddr::V6(_) => (128, "nodad"),
        };
        let address = format!("{ip}/{length} dev {device} preferred_lft 0 {more}");
        namespace.sh(&format!("ip address replace {address}"));
    }

    /// Returns whether the node has an address.
    pub(super) fn is_of_node(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.own_addresses().contains(&ip)
    }

    /// Returns the addresses of the node, except those that the daemon added for IPVS.
    pub(super) fn own_addresses(&self) -> BTreeSet<IpAddr> {
        self.world.node.ips_but("kube-ipvs0")
    }
}

/// Returns the namespace of a client, and its source address.
pub(super) fn client_of<'w>(
    world: &'w World,
    family: Family,
    name: &str,
) -> (&'w Namespace, IpAddr) {
    let (namespace, ips) = match name {
        // Its second address, to tell it from the first, to which packets are masqueraded.
        "H" => (&world.node, address::NODE_SECOND),
        "X" => (&world.client, address::CLIENT),
        "Y" => (&world.client2, address::CLIENT2),
        name => (&pod_in(world, name).namespace, pod(name).ips()),
    };
    (namespace, family.of(ips))
}

fn spawn(node: &Namespace, args: &[String]) -> Daemon {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Daemon::spawn_with(node, &args)
}

fn options(text: &str, family: Family, mode: Mode) -> Vec<String> {
    let text = if text == ARGS && family == Family::V6 { mirror_text(text) } else { text.into() };
    let mode = match mode {
        Mode::Nftables => "",
        Mode::Ipvs => " --proxy-mode ipvs",
    };
    (text + mode).split_whitespace().map(str::to_owned).collect()
}

fn arguments(
    manifests: &Manifests,
    is_api: bool,
    expected: &Manifests,
    args: &[String],
) -> Vec<String> {
    let path = |path: std::path::PathBuf| path.to_str().expect("a path in UTF-8").to_owned();
    let source = if is_api {
        ["--kubeconfig".to_owned(), path(expected.path().with_file_name("kubeconfig"))]
    } else {
        ["--manifests".to_owned(), path(manifests.path())]
    };
    source.into_iter().chain(args.iter().cloned()).collect()
}

/// Writes the current objects to the source.
fn publish(manifests: &Manifests, api: Option<&ApiServer>, before: &[Value], now: &[Value]) {
    let Some(api) = api else {
        if !manifests.path().exists() {
            fs::create_dir(manifests.path()).expect("a directory is made");
        }
        if now.is_empty() {
            if before.is_empty() {
                return;
            }
            manifests.remove("all.yaml");
            return;
        }
        let documents: Vec<String> = now.iter().map(Value::to_string).collect();
        manifests.write("all.yaml", &documents.join("\n---\n"));
        return;
    };
    let id = |object: &Value| (object["kind"].clone(), object["metadata"]["name"].clone());
    for object in before.iter().filter(|it| !now.iter().any(|other| id(it) == id(other))) {
        let kind = object["kind"].as_str().unwrap_or_default();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        api.delete(resource(kind), "default", name);
    }
    for object in now {
        api.apply(object);
    }
}

/// Returns the resource of a kind.
pub(super) fn resource(kind: &str) -> Resource {
    match kind {
        "Service" => Resource::Services,
        "EndpointSlice" => Resource::EndpointSlices,
        "Node" => Resource::Nodes,
        "ServiceCIDR" => Resource::ServiceCidrs,
        other => panic!("no row needs a {other}"),
    }
}

fn pod_in<'w>(world: &'w World, name: &str) -> &'w Pod {
    let ips = pod(name).ips();
    [world.pods(), world.remote_pods(), world.far_pods()]
        .into_iter()
        .flatten()
        .find(|pod| (pod.v4, pod.v6) == ips)
        .unwrap_or_else(|| panic!("the world has no {name}"))
}

/// How long to wait to be sure that nothing changes.
pub(super) const A_MOMENT: Duration = Duration::from_millis(300);

/// Parses a text such as `192.0.2.10:31000/path`; a path alone is at the node's own health server.
pub(super) fn address_and_path(text: &str) -> (SocketAddr, &str) {
    let (at, path) = match text.find('/') {
        Some(0) => (HEALTH, text),
        Some(slash) => text.split_at(slash),
        None => (text, "/"),
    };
    (at.parse().unwrap_or_else(|error| panic!("{text}: {error}")), path)
}
