//! The figures of a node with a kubelet and no API server, as a table: `cargo bench --bench pods`.
//!
//! The kubelet is the one of the tests, in this process. Needs root; everything happens in a separate
//! network namespace.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and one that cannot go on has failed"
)]

mod table;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rulec::daemon::run::Daemon;
use rulec::daemon::sink_thread::SinkThread;
use rulec_compiler::name::NodeName;
use rulec_compiler::{Origin, Settings};
use rulec_engine::{Counts, Engine, Periods};
use rulec_kubelet::{Behaviour, Kubelet, Pod};
use rulec_sinks::nft::Ownership;
use rulec_sources::{KubeletAccess, KubeletSource, ManifestOptions, ManifestRoots};
use rulec_testkit::{Namespace, require_root};
use tokio::sync::mpsc;

use crate::table::{machine, percentiles, row};

const NODE: &str = "na";

/// How many Services there are, each of one label.
const SERVICES: usize = 200;

fn main() {
    // `cargo test --benches` builds and starts benches too, to check that they start.
    if std::env::args().any(|argument| argument == "--test") || !require_root() {
        return;
    }
    println!("\n## Figures with a kubelet\n");
    machine();
    println!("\n| what | setup | figure |\n|---|---|---|");
    let namespace = Namespace::new("bench");
    namespace.sh("ip link set lo up");
    namespace.run(measure);
}

fn measure() {
    let directory = tempfile::tempdir().unwrap();
    let (manifests, root) = (directory.path().join("manifests"), directory.path().join("kubelet"));
    fs::create_dir(&manifests).unwrap();
    let services: Vec<String> = (0..SERVICES).map(service).collect();
    fs::write(manifests.join("services.yaml"), services.join("---\n")).unwrap();
    let kubelet = Arc::new(Kubelet::start(&root, Behaviour::Serves, &[]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut acknowledgements = start(&manifests, &root);
        // The first commits: an address and a rejected frontend for each Service.
        let mut last = acknowledgements.recv().await.unwrap();
        while last.operations < SERVICES * 2 {
            last = acknowledgements.recv().await.unwrap();
        }

        let mut times = Vec::new();
        for round in 0..500_usize {
            settle(&mut acknowledgements).await;
            let pod = pod(round % SERVICES, round / SERVICES);
            let started = Instant::now();
            kubelet.put(&pod);
            acknowledgements.recv().await.unwrap();
            times.push(started.elapsed());
        }
        let setup = format!("one Pod, {SERVICES} Services");
        row("the kubelet knows its address → kernel ACK", &setup, &percentiles(times));

        for (what, services) in [("each of a Service of its own", SERVICES), ("all of one", 1)] {
            let mut times = Vec::new();
            for round in 0..20 {
                settle(&mut acknowledgements).await;
                let pods: Vec<Pod> = (0..200).map(|n| pod(n % services, 1000 + n)).collect();
                let before = acknowledged(&mut acknowledgements);
                let started = Instant::now();
                for pod in &pods {
                    if round % 2 == 0 { kubelet.put(pod) } else { kubelet.delete(&pod.name) }
                }
                // The last acknowledgement is the one after which none comes for a while.
                let mut at = started;
                while let Ok(Some(_)) =
                    tokio::time::timeout(Duration::from_millis(200), acknowledgements.recv()).await
                {
                    at = Instant::now();
                }
                assert!(before.is_none() && at > started, "there were changes");
                times.push(at - started);
            }
            row("200 Pods at once → last kernel ACK", what, &percentiles(times));
        }
    });
}

/// Starts a daemon in this process, with the Services of manifests and the Pods of the kubelet.
fn start(manifests: &Path, root: &Path) -> mpsc::UnboundedReceiver<Counts> {
    let settings = Settings::new(NodeName::from(NODE));
    let mark = settings.masquerade_bit.mark();
    let sink = SinkThread::start(Ownership::Exclusive, mark, None).unwrap();
    let engine = Engine::new(settings, Periods::default(), Instant::now());
    let mut daemon = Daemon::new(engine, sink, [Origin::Manifests, Origin::Kubelet]);
    let (acknowledged, acknowledgements) = mpsc::unbounded_channel();
    daemon.observe(acknowledged);
    let (out, updates) = mpsc::channel(256);
    let files = ManifestRoots::new(vec![manifests.to_owned()], ManifestOptions::default());
    tokio::spawn(files.run(out.clone()));
    tokio::spawn(KubeletSource::new(KubeletAccess::Root(root.to_owned())).run(out));
    tokio::spawn(async move { daemon.run(updates, std::future::pending()).await });
    acknowledgements
}

/// Waits until nothing of the round before is left.
async fn settle(acknowledgements: &mut mpsc::UnboundedReceiver<Counts>) {
    tokio::time::sleep(Duration::from_millis(5)).await;
    acknowledged(acknowledgements);
}

/// Takes all acknowledgements so far, and returns the last.
fn acknowledged(acknowledgements: &mut mpsc::UnboundedReceiver<Counts>) -> Option<Counts> {
    std::iter::from_fn(|| acknowledgements.try_recv().ok()).last()
}

fn service(number: usize) -> String {
    let address = Ipv4Addr::from(0x0a60_0100 + u32::try_from(number).unwrap());
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: service-{number}}}\nspec:\n  clusterIP: \
         {address}\n  selector: {{app: app-{number}}}\n  ports: [{{port: 80, targetPort: http}}]\n"
    )
}

fn pod(service: usize, number: usize) -> Pod {
    let address = Ipv4Addr::from(0x0a58_0000 + u32::try_from(service * 4096 + number).unwrap());
    let labels = vec![("app".to_owned(), format!("app-{service}"))];
    Pod { labels, ..Pod::of_file(&format!("pod-{service}-{number}"), &[&address.to_string()]) }
}
