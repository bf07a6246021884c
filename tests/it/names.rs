//! The file of names, as name servers read it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use rulec_testkit::{
    Family, Namespace, Options, Protocol, Server, World, WorldSpec, address, ask, require_root,
    unbroken,
};

use crate::daemon::{Daemon, Manifests};
use crate::health::Metrics;
use crate::support::{SETTINGS, eventually, file, service, slice};

/// A Service that writes no address, and the Pods that it selects.
fn web(world: &World) -> String {
    let pod = |(index, pod): (usize, &rulec_testkit::Pod)| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web-{index}\n  labels: {{app: web}}\n\
             status: {{podIP: {}}}\n",
            pod.ip(Family::V4)
        )
    };
    let service = |name: &str, ip: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n{ip}  \
             selector: {{app: web}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
        )
    };
    let mut all: Vec<String> = world.pods().iter().enumerate().map(pod).collect();
    all.push(service("web", ""));
    all.push(service("peers", "  clusterIP: None\n"));
    file(&all)
}

/// dnsmasq in a namespace, as docs/without-api-server.md configures it. Ends on drop.
struct Dnsmasq(Child);

impl Dnsmasq {
    fn start(namespace: &Namespace, address: IpAddr, directory: &Path) -> Self {
        let args = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file",
            "--user=root",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--local=/cluster.local/",
        ];
        let more =
            [format!("--listen-address={address}"), format!("--hostsdir={}", directory.display())];
        let args = args.iter().map(ToString::to_string).chain(more);
        let mut command = namespace.command("dnsmasq", args);
        Self(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks a name server for the IPv4 addresses of a name; `None` if it does not answer in time.
fn resolve(from: &Namespace, server: IpAddr, name: &str) -> Option<Vec<IpAddr>> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.bytes());
    }
    // The root, type A, class IN.
    query.extend([0, 0, 1, 0, 1]);
    let answer = from.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut room = [0; 1500];
        // It is asked again, as by any resolver.
        let length = (0..30).find_map(|_| {
            socket.send_to(&query, SocketAddr::new(server, 53)).ok()?;
            unbroken(|| socket.recv(&mut room)).ok()
        })?;
        Some(room[..length].to_vec())
    })?;
    assert_eq!(answer[..2], query[..2], "it is the answer");
    let count = usize::from(u16::from_be_bytes([answer[6], answer[7]]));
    // Each answer: a pointer to the name, type, class, time to live, length, address.
    let records = answer[query.len()..].chunks(16).take(count);
    let mut found: Vec<IpAddr> =
        records.map(|record| <[u8; 4]>::try_from(&record[12..16]).unwrap().into()).collect();
    found.sort();
    Some(found)
}

/// From the file of manifests to a connection by name: no address is written anywhere.
#[test]
fn a_name_server_answers_with_what_the_kernel_serves() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 2, remote_pods: 0 });
    let _servers: Vec<Server> = world
        .pods()
        .iter()
        .map(|pod| Server::start(&pod.namespace, "web", &[(Protocol::Tcp, 8080)]))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("rulec");
    let server = IpAddr::from(address::NODE.0);
    let _dnsmasq = Dnsmasq::start(&world.node, server, directory.path());
    let manifests = Manifests::of(&web(&world));
    let args = [&SETTINGS[..], &["--hosts-file", hosts.to_str().unwrap()]].concat();
    let _daemon = Daemon::start(&world.node, &manifests.path(), &args);
    let find = |name: &str| resolve(&world.client, server, name);
    let name = "web.default.svc.cluster.local";
    eventually("the name is there", || find(name).is_some_and(|found| found.len() == 1));
    let cluster_ip = find(name).unwrap()[0];
    for short in ["web.default.svc", "web.default"] {
        assert_eq!(find(short), Some(vec![cluster_ip]), "{short}");
    }
    let pods: Vec<IpAddr> = world.pods().iter().map(|pod| pod.ip(Family::V4)).collect();
    assert_eq!(find("peers.default.svc.cluster.local"), Some(pods));
    assert_eq!(find("none.default.svc.cluster.local"), Some(Vec::new()));
    let to = SocketAddr::new(cluster_ip, 80);
    let answer = ask(&world.client, Protocol::Tcp, to, Options::default());
    assert!(answer.is_ok(), "{answer:?}");
    let mode = fs::metadata(&hosts).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "name servers run as other users");
    manifests.write("all.yaml", "# Nothing any more.\n");
    eventually("the name goes with the Service", || find(name) == Some(Vec::new()));
}

#[test]
fn the_file_follows_the_kernel_and_is_replaced_only_for_news() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("hosts-file");
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    let held = |more: &str| fs::read_to_string(&hosts).is_ok_and(|text| text.contains(more));
    let good =
        |endpoints: &[&str]| file(&[service("good", "10.96.0.10", ""), slice("good", endpoints)]);
    let manifests = Manifests::of(&good(&["10.50.1.5"]));
    let args = [
        &SETTINGS[..],
        &["--hosts-file", hosts.to_str().unwrap(), "--cluster-domain", "Corp.Example."],
    ]
    .concat();
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &args);
    let line = "\n10.96.0.10 good.default.svc.corp.example good.default.svc good.default\n";
    eventually("the name is there", || held(line));
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&hosts).unwrap());
    let before = inode();
    daemon.after(|| manifests.write("all.yaml", &good(&["10.50.1.5", "10.50.1.6"])));
    let other = service("other", "10.96.0.11", "");
    daemon.after(|| manifests.write("other.yaml", &other));
    eventually("another name", || held("10.96.0.11 other.default"));
    assert_ne!(inode(), before);
    // A name stays over a restart, and nothing is rewritten.
    let before = inode();
    daemon.kill9();
    let daemon = Daemon::start(&namespace, &manifests.path(), &args);
    eventually("the names are known", || {
        Metrics::of(&namespace).value("rulec_hosts_file_names", "") == 2.0
    });
    assert_eq!(inode(), before);
    assert!(held(line));
    daemon.stop();
    assert!(held(line), "the rules stay, and so do the names");
}

#[test]
fn a_file_that_cannot_be_written_is_reported_once_and_retried() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("hosts-fault");
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let hosts = missing.join("hosts");
    let manifests = Manifests::of(&service("good", "10.96.0.10", ""));
    let args = [&SETTINGS[..], &["--hosts-file", hosts.to_str().unwrap()]].concat();
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &args);
    let warning = "cannot write names of Services";
    daemon.wait_for(warning);
    let failures = || Metrics::of(&namespace).value("rulec_hosts_file_write_failures_total", "");
    eventually("it is retried", || failures() >= 2.0);
    assert_eq!(daemon.count(warning), 1, "{}", daemon.log());
    fs::create_dir(&missing).unwrap();
    eventually("the file is there", || {
        fs::read_to_string(&hosts).is_ok_and(|text| text.contains("good.default.svc.cluster.local"))
    });
    daemon.wait_for("names of Services can be written again");
}
