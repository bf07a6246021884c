//! The kustomizations: every reference resolves.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use rulec::config::{Config, File};
use serde_json::{Value, json};

use super::{
    args, granted, list, named, object, parse, path, read, run_args, string, strings, surroundings,
    yaml,
};

const ROOT: &str = "deploy/kubernetes";
const BASE: &str = "deploy/kubernetes/base";
const DAEMON_SET: &str = "deploy/kubernetes/base/daemonset.yaml";

/// Returns the Pod of the DaemonSet.
fn pod() -> Value {
    object(DAEMON_SET, "DaemonSet", "rulec")["spec"]["template"]["spec"].take()
}

/// Returns all containers, the init containers first.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["/initContainers", "/containers"].into_iter().flat_map(|pointer| list(pod, pointer))
}

/// Returns the directories with a kustomization, as paths in the repository.
fn kustomizations() -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![path(ROOT)];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap().path();
            if entry.is_dir() {
                left.push(entry);
            } else if entry.ends_with("kustomization.yaml") {
                let directory = directory.strip_prefix(path("")).unwrap();
                found.push(directory.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn kustomizations_list_exactly_the_existing_files() {
    let all = kustomizations();
    let components = ["components/metrics", "components/relay", "components/relay-nodes"];
    let wanted = ["base"].into_iter().chain(components).chain(["kubeadm"]);
    assert_eq!(all, wanted.map(|name| format!("{ROOT}/{name}")).collect::<Vec<_>>());
    for directory in all {
        let kustomization = yaml(&format!("{directory}/kustomization.yaml")).remove(0);
        let mut wanted = BTreeSet::from(["kustomization.yaml".to_owned()]);
        for resource in strings(&kustomization["resources"]) {
            let file = path(&directory).join(resource);
            if file.is_dir() {
                assert!(file.join("kustomization.yaml").exists(), "{directory}: {resource}");
                continue;
            }
            for object in yaml(&format!("{directory}/{resource}")) {
                string(&object, "/apiVersion");
                string(&object, "/kind");
                string(&object, "/metadata/name");
            }
            wanted.insert(resource.to_owned());
        }
        for generator in kustomization["configMapGenerator"].as_array().into_iter().flatten() {
            wanted.extend(strings(&generator["files"]).map(str::to_owned));
        }
        let there: BTreeSet<String> = fs::read_dir(path(&directory))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(there, wanted, "{directory}");
    }
}

#[test]
fn patches_target_existing_objects() {
    let generated = |name: &Value| {
        let base = yaml(&format!("{BASE}/kustomization.yaml")).remove(0);
        base["configMapGenerator"][0]["name"] == *name
    };
    for directory in kustomizations() {
        let file = format!("{directory}/kustomization.yaml");
        let kustomization = yaml(&file).remove(0);
        for patch in kustomization["patches"].as_array().into_iter().flatten() {
            let target = &patch["target"];
            let patch = parse(&file, string(patch, "/patch")).remove(0);
            // A list of operations names its target beside them.
            if patch.is_array() {
                drop(object(DAEMON_SET, string(target, "/kind"), string(target, "/name")));
                continue;
            }
            assert_eq!(patch["metadata"]["namespace"], "kube-system", "{file}");
            let name = &patch["metadata"]["name"];
            match string(&patch, "/kind") {
                "ConfigMap" => assert!(generated(name), "{file}: {name}"),
                kind => drop(object(DAEMON_SET, kind, name.as_str().unwrap())),
            }
        }
    }
}

#[test]
fn the_kubeadm_overlay_replaces_the_config_map_volume() {
    let file = format!("{ROOT}/kubeadm/kustomization.yaml");
    let kustomization = yaml(&file).remove(0);
    let patches: Vec<Value> = list(&kustomization, "/patches")
        .iter()
        .map(|patch| parse(&file, string(patch, "/patch")).remove(0))
        .collect();
    let volumes = |pod: &Value| list(pod, "/volumes").to_vec();
    let patch = patches.iter().find(|patch| patch["kind"] == "DaemonSet").unwrap();
    let ours = volumes(&patch["spec"]["template"]["spec"]);
    assert_eq!(ours, [json!({ "name": "config", "configMap": { "name": "kube-proxy" } })]);
    assert_eq!(volumes(&pod())[0]["name"], "config", "the volume that it replaces");
}

#[test]
fn the_arguments_and_the_configuration_are_accepted() {
    let pod = pod();
    let (config, kubeconfig) = (read(&format!("{BASE}/config.conf")), "kubeconfig.conf");
    for container in containers(&pod) {
        let mount = named(container, "/volumeMounts", "config");
        let directory = Path::new(string(mount, "/mountPath"));
        let (run, log) = run_args(&args(container));
        assert_eq!(run.config.as_deref(), Some(directory.join("config.conf").as_path()));
        assert_eq!(run.init_only, container["name"] == "sysctls");
        let file = File { name: "config.conf", bytes: config.as_bytes() };
        let loaded = Config::load(&run, &log, Some(file), &surroundings()).unwrap();
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert!(warnings.is_empty(), "{warnings:?}");
        let api = loaded.config.api.expect("an API server is the source");
        assert_eq!(api.kubeconfig, Some(directory.join(kubeconfig)));
        assert_eq!(
            loaded.config.settings.node_name.to_string(),
            "$(node_name)",
            "the kubelet replaces it"
        );
        let field = string(named(container, "/env", "NODE_NAME"), "/valueFrom/fieldRef/fieldPath");
        assert_eq!(field, "spec.nodeName");
    }
    // The mounted config map is the generated one, with both files.
    let generator = yaml(&format!("{BASE}/kustomization.yaml")).remove(0);
    let generator = &generator["configMapGenerator"][0];
    let volume = named(&pod, "/volumes", "config");
    assert_eq!(volume["configMap"]["name"], generator["name"]);
    assert_eq!(generator["files"], json!(["config.conf", kubeconfig]));
}

#[test]
fn the_kubeconfig_uses_the_service_account_of_the_pod() {
    let config = yaml(&format!("{BASE}/kubeconfig.conf")).remove(0);
    let current = named(&config, "/contexts", string(&config, "/current-context"));
    let cluster = named(&config, "/clusters", string(current, "/context/cluster"));
    let user = named(&config, "/users", string(current, "/context/user"));
    // The directory in which the kubelet mounts the token of a service account.
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(cluster["cluster"]["certificate-authority"], format!("{account}/ca.crt"));
    assert_eq!(user["user"]["tokenFile"], format!("{account}/token"));
    assert!(string(cluster, "/cluster/server").starts_with("https://"));
}

#[test]
fn the_state_is_on_a_host_path() {
    let pod = pod();
    let daemon = named(&pod, "/containers", "rulec");
    let (run, _) = run_args(&args(daemon));
    let state = run.state_dir.expect("a directory is given");
    let mount = named(daemon, "/volumeMounts", "state");
    assert_eq!(Path::new(string(mount, "/mountPath")), state);
    assert_ne!(mount["readOnly"], true);
    let host = &named(&pod, "/volumes", "state")["hostPath"];
    assert_eq!(*host, json!({ "path": state, "type": "DirectoryOrCreate" }));
}

/// The file system of the container is read-only, and a `kubectl exec` finds the socket by its
/// default path.
#[test]
fn the_socket_is_in_a_directory_of_the_pod() {
    let pod = pod();
    let daemon = named(&pod, "/containers", "rulec");
    let (run, _) = run_args(&args(daemon));
    let mount = named(daemon, "/volumeMounts", "socket");
    let directory = run.socket.path().and_then(Path::parent).expect("there is a socket");
    assert_eq!(Path::new(string(mount, "/mountPath")), directory);
    assert_ne!(mount["readOnly"], true);
    assert!(named(&pod, "/volumes", "socket")["emptyDir"].is_object());
}

#[test]
fn ports_match_the_configuration() {
    let config = yaml(&format!("{BASE}/config.conf")).remove(0);
    let port_of = |field: &str| {
        let address: SocketAddr = string(&config, field).parse().unwrap();
        address.port()
    };
    let (healthz, metrics) = (port_of("/healthzBindAddress"), port_of("/metricsBindAddress"));
    let pod = pod();
    let daemon = named(&pod, "/containers", "rulec");
    let declared = named(daemon, "/ports", "healthz");
    assert_eq!([&declared["containerPort"], &declared["hostPort"]], [healthz, healthz]);
    for (probe, page) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        assert_eq!(daemon[probe]["httpGet"], json!({ "path": page, "port": "healthz" }), "{probe}");
    }
    let component = format!("{ROOT}/components/metrics");
    let service = object(&format!("{component}/service.yaml"), "Service", "rulec-metrics");
    let port = named(&service, "/spec/ports", "metrics");
    assert_eq!(port["port"], metrics);
    assert_eq!(service["metadata"]["annotations"]["prometheus.io/port"], metrics.to_string());
    let kustomization = yaml(&format!("{component}/kustomization.yaml")).remove(0);
    let patch = parse(&component, string(&kustomization["patches"][0], "/patch")).remove(0);
    let patched = named(&patch, "/spec/template/spec/containers", "rulec");
    let declared = named(patched, "/ports", string(port, "/targetPort"));
    assert_eq!([&declared["containerPort"], &declared["hostPort"]], [metrics, metrics]);
    let labels = object(DAEMON_SET, "DaemonSet", "rulec")["spec"]["template"]["metadata"].take();
    assert_eq!(service["spec"]["selector"], labels["labels"]);
}

#[test]
fn the_pod_has_minimal_privileges() {
    let pod = pod();
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]), "every taint");
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let daemon = named(&pod, "/containers", "rulec");
    assert_eq!(
        daemon["securityContext"],
        json!({
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
        })
    );
    let set = object(DAEMON_SET, "DaemonSet", "rulec");
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(set["spec"]["selector"]["matchLabels"], *labels);
}

#[test]
fn the_role_grants_exactly_what_the_program_needs() {
    let file = format!("{BASE}/rbac.yaml");
    let granted = granted(&object(&file, "ClusterRole", "rulec"));
    let needed = [
        "create events.events.k8s.io",
        "get nodes.",
        "list endpointslices.discovery.k8s.io",
        "list nodes.",
        "list servicecidrs.networking.k8s.io",
        "list services.",
        "patch events.events.k8s.io",
        "watch endpointslices.discovery.k8s.io",
        "watch nodes.",
        "watch servicecidrs.networking.k8s.io",
        "watch services.",
    ];
    assert_eq!(granted, needed.map(str::to_owned).into());

    let account = pod()["serviceAccountName"].take();
    object(&file, "ServiceAccount", account.as_str().unwrap());
    let binding = object(&file, "ClusterRoleBinding", "rulec");
    let subject = json!({ "kind": "ServiceAccount", "name": account, "namespace": "kube-system" });
    assert_eq!(binding["subjects"], json!([subject]));
    assert_eq!(binding["roleRef"]["kind"], "ClusterRole");
    assert_eq!(binding["roleRef"]["name"], "rulec");
    let kustomization = yaml(&format!("{BASE}/kustomization.yaml")).remove(0);
    assert_eq!(kustomization["namespace"], "kube-system");
}

#[test]
fn the_image_has_the_version_of_the_program() {
    let version = env!("CARGO_PKG_VERSION");
    let kustomization = yaml(&format!("{BASE}/kustomization.yaml")).remove(0);
    assert_eq!(kustomization["images"], json!([{ "name": "rulec", "newTag": version }]));
    let relay = yaml(&format!("{ROOT}/components/relay/kustomization.yaml")).remove(0);
    assert_eq!(relay["images"], kustomization["images"]);
    let pod = pod();
    assert!(containers(&pod).all(|container| container["image"] == "rulec"));
    let containerfile = read("deploy/Containerfile");
    assert!(containerfile.contains(&format!("-t rulec:{version} ")));
    // The image is built with the oldest Rust that is supported.
    let rust = format!("FROM docker.io/library/rust:{}-", env!("CARGO_PKG_RUST_VERSION"));
    assert!(containerfile.contains(&rust), "{rust}");
    assert!(containerfile.contains("ENTRYPOINT [\"/usr/bin/rulec\"]"), "the args begin with run");
}
