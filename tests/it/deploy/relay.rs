//! The relays of a cluster, and the nodes that follow them.

use std::net::SocketAddr;
use std::path::Path;

use clap::Parser;
use rulec::cli::{Cli, Command};
use rulec::config::{Config, File};
use serde_json::{Value, json};

use super::{
    args, granted, list, named, object, parse, read, run_args, string, surroundings, yaml,
};

const BASE: &str = "deploy/kubernetes/base";
const RELAY: &str = "deploy/kubernetes/components/relay";
const NODES: &str = "deploy/kubernetes/components/relay-nodes/kustomization.yaml";

fn deployment() -> Value {
    object(&format!("{RELAY}/deployment.yaml"), "Deployment", "rulec-relay")
}

/// Returns the Pod of a relay.
fn pod() -> Value {
    deployment()["spec"]["template"]["spec"].take()
}

/// Returns the Pod of the DaemonSet.
fn daemon_pod() -> Value {
    let file = format!("{BASE}/daemonset.yaml");
    object(&file, "DaemonSet", "rulec")["spec"]["template"]["spec"].take()
}

/// Returns the value of an argument `--NAME=VALUE`.
fn argument<'a>(args: &[&'a str], name: &str) -> &'a str {
    let mut all = args.iter().filter_map(|arg| arg.strip_prefix(name)?.strip_prefix('='));
    all.next().unwrap_or_else(|| panic!("no {name} in {args:?}"))
}

/// Returns what the component of the nodes adds at a path of the DaemonSet.
fn added(path: &str) -> Vec<Value> {
    let kustomization = yaml(NODES).remove(0);
    let operations = parse(NODES, string(&kustomization, "/patches/0/patch")).remove(0);
    let at_path = list(&operations, "").iter().filter(|operation| operation["path"] == path);
    at_path.map(|operation| operation["value"].clone()).collect()
}

#[test]
fn the_arguments_of_a_relay_are_accepted_and_its_files_are_mounted() {
    let pod = pod();
    let relay = named(&pod, "/containers", "relay");
    let given = args(relay);
    let all = ["rulec"].into_iter().chain(given.iter().copied());
    let cli = Cli::try_parse_from(all).unwrap_or_else(|error| panic!("{given:?}: {error}"));
    let Command::Relay(options) = cli.command else { panic!("{given:?}") };
    let mounted = |volume: &str, file: &str| {
        let mount = named(relay, "/volumeMounts", volume);
        Some(Path::new(string(mount, "/mountPath")).join(file))
    };
    assert_eq!(options.kubeconfig, mounted("config", "kubeconfig.conf"));
    assert_eq!(options.certificate, mounted("certificate", "tls.crt"));
    assert_eq!(options.key, mounted("certificate", "tls.key"));
    // The names of both files are those of such Secrets.
    let secret = &named(&pod, "/volumes", "certificate")["secret"];
    assert!(secret["secretName"] == "rulec-relay" && secret["items"].is_null(), "{secret}");
    let port = |name: &str| {
        let declared = named(relay, "/ports", name);
        assert_eq!(declared["containerPort"], declared["hostPort"]);
        declared["hostPort"].clone()
    };
    assert_eq!(port("relay"), options.listen.port());
    let metrics: SocketAddr = options.metrics_bind_address.parse().unwrap();
    assert!(metrics.ip().is_unspecified(), "Prometheus reaches it");
    assert_eq!(port("metrics"), metrics.port());
    let health: SocketAddr = options.healthz_bind_address.parse().unwrap();
    assert!(health.ip().is_unspecified(), "the kubelet reaches it");
    assert_eq!(port("health"), health.port());
    for (probe, page) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        assert_eq!(relay[probe]["httpGet"], json!({ "path": page, "port": "health" }), "{probe}");
    }
}

#[test]
fn all_objects_of_the_relays_find_their_pods() {
    let deployment = deployment();
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], *labels);
    let budget =
        object(&format!("{RELAY}/poddisruptionbudget.yaml"), "PodDisruptionBudget", "rulec-relay");
    assert_eq!(budget["spec"]["selector"]["matchLabels"], *labels);
    let service = object(&format!("{RELAY}/service.yaml"), "Service", "rulec-relay");
    assert_eq!(service["spec"]["selector"], *labels);
    let daemon = object(&format!("{BASE}/daemonset.yaml"), "DaemonSet", "rulec");
    assert_ne!(daemon["spec"]["selector"]["matchLabels"], *labels, "they are no nodes");
    let pod = &deployment["spec"]["template"]["spec"];
    let relay = named(pod, "/containers", "relay");
    for port in list(&service, "/spec/ports") {
        let declared = named(relay, "/ports", string(port, "/targetPort"));
        assert_eq!(port["port"], declared["containerPort"]);
    }
    let metrics = named(&service, "/spec/ports", "metrics");
    let annotation = string(&service, "/metadata/annotations/prometheus.io~1port");
    assert_eq!(annotation, metrics["port"].to_string());
}

#[test]
fn a_relay_has_no_rights_on_its_node() {
    let pod = pod();
    assert_eq!(
        pod["securityContext"],
        json!({
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": { "type": "RuntimeDefault" },
        })
    );
    assert_eq!(list(&pod, "/containers").len(), 1);
    assert!(
        pod["initContainers"].is_null() && pod["hostPID"].is_null() && pod["hostIPC"].is_null()
    );
    assert_eq!(
        named(&pod, "/containers", "relay")["securityContext"],
        json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        })
    );
    for volume in list(&pod, "/volumes") {
        assert!(volume["configMap"].is_object() || volume["secret"].is_object(), "{volume}");
    }
    for mount in list(named(&pod, "/containers", "relay"), "/volumeMounts") {
        assert_eq!(mount["readOnly"], true, "{mount}");
    }
}

#[test]
fn the_role_of_a_relay_grants_exactly_what_it_needs() {
    let file = format!("{RELAY}/rbac.yaml");
    let needed = [
        "create tokenreviews.authentication.k8s.io",
        "list endpointslices.discovery.k8s.io",
        "list nodes.",
        "list servicecidrs.networking.k8s.io",
        "list services.",
        "watch endpointslices.discovery.k8s.io",
        "watch nodes.",
        "watch servicecidrs.networking.k8s.io",
        "watch services.",
    ];
    let role = object(&file, "ClusterRole", "rulec-relay");
    assert_eq!(granted(&role), needed.map(str::to_owned).into());
    let account = pod()["serviceAccountName"].take();
    object(&file, "ServiceAccount", account.as_str().unwrap());
    let binding = object(&file, "ClusterRoleBinding", "rulec-relay");
    let subject = json!({ "kind": "ServiceAccount", "name": account, "namespace": "kube-system" });
    assert_eq!(binding["subjects"], json!([subject]));
    assert_eq!(binding["roleRef"]["kind"], "ClusterRole");
    assert_eq!(binding["roleRef"]["name"], "rulec-relay");
}

#[test]
fn nodes_of_a_relay_can_still_go_to_the_api_server() {
    let pod = daemon_pod();
    let daemon = named(&pod, "/containers", "rulec");
    let more = added("/spec/template/spec/containers/0/args/-");
    let mut all = args(daemon);
    all.extend(more.iter().map(|arg| arg.as_str().unwrap()));
    let (run, log) = run_args(&all);
    let config = read(&format!("{BASE}/config.conf"));
    let file = File { name: "config.conf", bytes: config.as_bytes() };
    let loaded = Config::load(&run, &log, Some(file), &surroundings()).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(loaded.config.relay.is_some());
    assert!(loaded.config.api.is_some(), "the way back");
}

#[test]
fn nodes_show_relays_what_these_ask_for() {
    let pod = pod();
    let relay = args(named(&pod, "/containers", "relay"));
    let audience = argument(&relay, "--token-audience");
    let daemon = daemon_pod();
    let account = format!("kube-system/{}", string(&daemon, "/serviceAccountName"));
    assert_eq!(argument(&relay, "--token-service-account"), account);

    let more = added("/spec/template/spec/containers/0/args/-");
    let given: Vec<&str> = more.iter().map(|arg| arg.as_str().unwrap()).collect();
    let mount = added("/spec/template/spec/containers/0/volumeMounts/-").remove(0);
    let volume = added("/spec/template/spec/volumes/-").remove(0);
    assert_eq!(mount["name"], volume["name"]);
    let mounted = |file: &str| format!("{}/{file}", string(&mount, "/mountPath"));
    let token = &volume["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(token["audience"], audience);
    assert_eq!(argument(&given, "--relay-token"), mounted(string(token, "/path")));
    let authority = &volume["projected"]["sources"][1]["configMap"];
    assert_eq!(authority["optional"], true, "no node waits for it");
    let file = mounted(string(authority, "/items/0/path"));
    assert_eq!(argument(&given, "--relay-certificate-authority"), file);

    // The certificate of the README is for the name by which nodes know the relays.
    let (host, port) = argument(&given, "--relay").split_once(':').unwrap();
    let relay = deployment();
    let declared = named(&relay["spec"]["template"]["spec"], "/containers", "relay");
    assert_eq!(named(declared, "/ports", "relay")["hostPort"].to_string(), port);
    let readme = read("deploy/kubernetes/README.md");
    assert!(readme.contains(&format!("subjectAltName=DNS:{host}\"")), "{host}");
}
