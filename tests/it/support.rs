//! Shared by the tests of the whole program: manifests, and ways to run the program.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, panic, thread};

use rulec_testkit::{Namespace, Options, Protocol, ask, patience};
use tempfile::TempDir;

use crate::daemon::command;
use crate::schemas;

/// The program under test.
pub(crate) const RULEC: &str = env!("CARGO_BIN_EXE_rulec");

/// The time limit for expected events; even on a busy machine they take less.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small random number generator, so that a failure can be reproduced from its seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // A state of zero would stay zero, and neighbouring seeds must not give similar numbers.
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Waits until a condition holds.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience(PATIENCE);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(patience(Duration::from_millis(20)));
    }
}

/// Opens some connections, and returns what servers say that speak first; nothing if one fails.
pub(crate) fn answers(from: &Namespace, to: SocketAddr) -> Option<BTreeSet<String>> {
    let answer = || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned())
    };
    from.run(|| (0..16).map(|_| answer()).collect())
}

/// Makes flows continuously on each of the ways while `meanwhile` runs, which gets the number of
/// flows so far; no flow may fail.
pub(crate) fn with_flows(
    ways: &[(&Namespace, SocketAddr, Options)],
    meanwhile: impl FnOnce(&AtomicUsize),
) {
    let is_over = AtomicBool::new(false);
    let flows = AtomicUsize::new(0);
    let failures = thread::scope(|scope| {
        let loops: Vec<_> = ways
            .iter()
            .map(|(from, to, options)| {
                let (is_over, flows) = (&is_over, &flows);
                scope.spawn(move || {
                    let mut failures = Vec::new();
                    while !is_over.load(Ordering::Relaxed) {
                        if let Err(failure) = ask(from, Protocol::Tcp, *to, *options) {
                            failures.push(format!("{} -> {to}: {failure:?}", from.name()));
                        }
                        flows.fetch_add(1, Ordering::Relaxed);
                    }
                    failures
                })
            })
            .collect();
        // The loops end even if a step panics.
        let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| meanwhile(&flows)));
        is_over.store(true, Ordering::Relaxed);
        let failures: Vec<String> = loops.into_iter().flat_map(|it| it.join().unwrap()).collect();
        if let Err(panic) = outcome {
            panic::resume_unwind(panic);
        }
        failures
    });
    let flows = flows.into_inner();
    assert!(failures.is_empty(), "{} of {flows} flows: {failures:#?}", failures.len());
}

/// The answer of an HTTP server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    /// Headers by name in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Sends a request to an HTTP server in a namespace.
pub(crate) fn request(
    namespace: &Namespace,
    method: &str,
    address: &str,
    path: &str,
) -> io::Result<Answer> {
    let address: SocketAddr = address.parse().unwrap();
    let text = namespace.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok::<_, io::Error>(text)
    })?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap();
    let code = status.strip_prefix("HTTP/1.1 ").unwrap().get(..3).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    Ok(Answer { code, headers, body: body.to_owned() })
}

/// Returns the answer to GET at a path of an HTTP server in a namespace.
pub(crate) fn get(namespace: &Namespace, address: &str, path: &str) -> Answer {
    request(namespace, "GET", address, path)
        .unwrap_or_else(|error| panic!("{address}{path}: {error}"))
}

/// The result of a run of the program.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command until it ends. If it has printed JSON, or should have, that is as its schema says.
pub(crate) fn finish(mut command: Command) -> Ran {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let ran = Ran {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    let args: Vec<&str> = command.get_args().filter_map(|arg| arg.to_str()).collect();
    let is_json = args.windows(2).any(|it| ["-o", "--output"].contains(&it[0]) && it[1] == "json");
    match is_json && !ran.stdout.is_empty() {
        true => schemas::check_document(&ran.stdout),
        false => schemas::check_output(&ran.stdout),
    }
    ran
}

/// The settings of all tests, so that states of different runs can be compared.
pub(crate) const SETTINGS: [&str; 4] =
    ["--node-name", "na", "--cluster-cidr", "10.50.0.0/16,2001:db8:50::/48"];

/// Runs `rulec` in a namespace.
pub(crate) fn rulec(namespace: &Namespace, args: &[&str]) -> Ran {
    finish(command(namespace, args))
}

/// Compares two states in a namespace.
pub(crate) fn diff(namespace: &Namespace, from: &str, to: &str, more: &[&str]) -> Ran {
    let args = [&["diff", "--from", from, "--to", to], &SETTINGS[..], more].concat();
    rulec(namespace, &args)
}

/// Returns what `nft` lists of our tables.
pub(crate) fn listing(namespace: &Namespace) -> String {
    namespace.sh("nft list table ip rulec; nft list table ip6 rulec")
}

/// Another process that commits continuously to its own table in the same network namespace. Ends
/// on drop.
pub(crate) struct Neighbour<'a> {
    child: Child,
    namespace: &'a Namespace,
}

impl<'a> Neighbour<'a> {
    /// Starts the process, and returns once it commits.
    pub(crate) fn start(namespace: &'a Namespace) -> Self {
        let script = "while :; do nft add table inet busy; nft delete table inet busy; done";
        let child = namespace.command("sh", ["-c", script]).spawn().unwrap();
        let neighbour = Self { child, namespace };
        neighbour.goes_on();
        neighbour
    }

    /// Returns the number of tables created in the namespace: each gets the next handle.
    fn made(&self) -> u32 {
        self.namespace.nft("add table inet count");
        let listing =
            self.namespace.sh("nft -a list table inet count; nft delete table inet count");
        let first = listing.lines().next().unwrap();
        first.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits for some more commits, which shows that the process has been running all the time.
    pub(crate) fn goes_on(&self) {
        let before = self.made();
        eventually("the neighbour commits", || self.made() > before + 20);
    }
}

impl Drop for Neighbour<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Joins documents into one file.
pub(crate) fn file(documents: &[String]) -> String {
    documents.join("---\n")
}

/// Returns a Service with one port, `http`, 80 to 8080. `extra` is added to its `spec`.
pub(crate) fn service(name: &str, cluster_ip: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  \
         clusterIP: \"{cluster_ip}\"\n{extra}  ports:\n    - name: http\n      port: 80\n      \
         targetPort: 8080\n"
    )
}

/// Returns the EndpointSlice of such a Service, with endpoints on another node.
pub(crate) fn slice(service: &str, addresses: &[&str]) -> String {
    let is_v6 = addresses.first().is_some_and(|address| address.contains(':'));
    let (kind, suffix) = if is_v6 { ("IPv6", "v6") } else { ("IPv4", "v4") };
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
         name: {service}-{suffix}\n  labels:\n    kubernetes.io/service-name: {service}\n\
         addressType: {kind}\nports:\n  - name: http\n    port: 8080\nendpoints:\n"
    );
    if addresses.is_empty() {
        text = text.replace("endpoints:\n", "endpoints: []\n");
    }
    for address in addresses {
        let _ = write!(text, "  - addresses: [\"{address}\"]\n    nodeName: nb\n");
    }
    text
}

/// Some of these are adjacent, some contain others, and some contain the node's own address.
const SOURCE_RANGES: [&str; 8] = [
    "203.0.113.0/25",
    "203.0.113.128/25",
    "203.0.113.64/26",
    "192.0.2.0/24",
    "10.0.0.0/8",
    "\"2001:db8:ff00::/41\"",
    "\"2001:db8:ff80::/41\"",
    "\"2001:db8::/64\"",
];

/// Returns the Node under test, in a zone.
pub(crate) fn node(zone: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: na\n  labels: \
         {{topology.kubernetes.io/zone: {zone}}}\nstatus:\n  addresses:\n    - {{type: \
         InternalIP, address: 192.0.2.10}}\n"
    )
}

/// Returns it with random facts: zone, addresses of both families, Pod networks, taints.
pub(crate) fn random_node(dice: &mut Dice) -> String {
    let mut some = |all: &[&str]| -> Vec<String> {
        all.iter().filter(|_| dice.roll(2) == 0).map(|it| (*it).to_owned()).collect()
    };
    let ips = some(&["192.0.2.10", "192.0.2.11", "'2001:db8::10'", "'2001:db8::11'"]);
    let ips: Vec<String> =
        ips.iter().map(|ip| format!("{{type: InternalIP, address: {ip}}}")).collect();
    let pods = some(&["10.244.1.0/24", "'2001:db8:50:1::/64'"]).join(", ");
    let taints = some(&["{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}"]).join(", ");
    let zones = some(&["topology.kubernetes.io/zone: z1"]).join(", ");
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: na\n  labels: {{{zones}}}\nspec:\n  \
         podCIDRs: [{pods}]\n  taints: [{taints}]\nstatus:\n  addresses: [{}]\n",
        ips.join(", ")
    )
}

/// Returns a random Service with its slices: families, node ports, affinity, external addresses
/// with conflicting claims, traffic policies, source ranges that overlap or touch, hints, and
/// endpoints in all conditions.
pub(crate) fn random_service(dice: &mut Dice, number: u64) -> String {
    let name = format!("s{number}");
    let (v4, v6) = match dice.roll(4) {
        0 => (false, true),
        1 => (true, true),
        _ => (true, false),
    };
    let mut ips = Vec::new();
    if v4 {
        ips.push(format!("10.96.{}.{}", number / 200, number % 200 + 1));
    }
    if v6 {
        ips.push(format!("\"fd00:96::{number:x}\""));
    }
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIPs: [{}]\n",
        ips.join(", ")
    );
    if dice.roll(3) == 0 {
        let _ = write!(
            text,
            "  sessionAffinity: ClientIP\n  sessionAffinityConfig:\n    clientIP:\n      \
             timeoutSeconds: {}\n",
            [60, 10_800][usize::try_from(dice.roll(2)).unwrap()]
        );
    }
    let has_external_ips = dice.roll(3) == 0;
    if has_external_ips {
        let _ = writeln!(
            text,
            "  externalIPs: [198.51.100.{}, \"2001:db8:5::{}\"]",
            dice.roll(4),
            dice.roll(4)
        );
    }
    if dice.roll(4) == 0 {
        text += "  internalTrafficPolicy: Local\n";
    }
    let is_local = dice.roll(2) == 0;
    let is_node_port = dice.roll(3) > 0;
    // Other Services may not have this policy.
    if is_local && (is_node_port || has_external_ips) {
        text += "  externalTrafficPolicy: Local\n";
    }
    let is_balanced = is_node_port && dice.roll(2) == 0;
    if is_node_port {
        let _ = writeln!(text, "  type: {}", if is_balanced { "LoadBalancer" } else { "NodePort" });
    }
    if is_balanced {
        let mut ranges = SOURCE_RANGES.to_vec();
        ranges.retain(|_| dice.roll(3) == 0);
        // With ranges of one family only, the other family would be open, which causes a warning.
        for family in [false, true] {
            let is_of = |range: &&str| range.contains(':') == family;
            if !ranges.is_empty() && !ranges.iter().any(is_of) {
                ranges.extend(SOURCE_RANGES.iter().find(|range| is_of(range)));
            }
        }
        let _ = writeln!(text, "  loadBalancerSourceRanges: [{}]", ranges.join(", "));
    }
    text += "  ports:\n";
    let ports = 1 + dice.roll(2);
    for port in 0..ports {
        let protocol = ["TCP", "UDP"][usize::try_from(dice.roll(2)).unwrap()];
        let _ = write!(
            text,
            "    - name: p{port}\n      port: {}\n      protocol: {protocol}\n",
            80 + port
        );
        if is_node_port {
            let _ = writeln!(text, "      nodePort: {}", 30_000 + number * 2 + port);
        }
        // The slices below match both protocols.
    }
    if is_balanced {
        let (v4, v6) = (dice.roll(3), dice.roll(3));
        let ingress =
            format!("{{ip: 198.51.100.{}}}, {{ip: \"2001:db8:5::{:x}\"}}", 40 + v4, 40 + v6);
        let _ = writeln!(text, "status:\n  loadBalancer:\n    ingress: [{ingress}]");
    }
    for (is_v6, kind) in [(false, "IPv4"), (true, "IPv6")] {
        if dice.roll(8) == 0 {
            continue;
        }
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
             name: {name}-{}\n  labels:\n    kubernetes.io/service-name: {name}\naddressType: \
             {kind}\nports:\n",
            kind.to_lowercase()
        );
        for port in 0..ports {
            for protocol in ["TCP", "UDP"] {
                let _ = write!(
                    text,
                    "  - name: p{port}\n    port: {}\n    protocol: {protocol}\n",
                    8080 + port
                );
            }
        }
        let is_hinted = dice.roll(3) == 0;
        let count = dice.roll(6);
        text += if count == 0 { "endpoints: []\n" } else { "endpoints:\n" };
        for _ in 0..count {
            let host = dice.roll(12) + 1;
            let address =
                if is_v6 { format!("2001:db8:50:1::{host:x}") } else { format!("10.50.1.{host}") };
            let node = ["na", "nb"][usize::try_from(dice.roll(2)).unwrap()];
            let condition = [
                "",
                "",
                "",
                "    conditions: {ready: false}\n",
                "    conditions: {ready: false, serving: true, terminating: true}\n",
            ][usize::try_from(dice.roll(5)).unwrap()];
            let _ =
                write!(text, "  - addresses: [\"{address}\"]\n    nodeName: {node}\n{condition}");
            if is_hinted {
                let zone = dice.roll(2) + 1;
                let _ = writeln!(text, "    hints: {{forZones: [{{name: z{zone}}}]}}");
            }
        }
    }
    text
}

/// Creates a directory with random Services, one file each; some numbers are left out. `nft` can
/// load the compiled result.
pub(crate) fn random_directory(seed: u64, services: u64) -> TempDir {
    let mut dice = Dice::new(seed);
    let directory = tempfile::tempdir().unwrap();
    for number in 0..services {
        if dice.roll(5) > 0 {
            let text = random_service(&mut dice, number);
            fs::write(directory.path().join(format!("s{number}.yaml")), text).unwrap();
        }
    }
    if dice.roll(2) == 0 {
        fs::write(directory.path().join("node.yaml"), node("z1")).unwrap();
    }
    directory
}
