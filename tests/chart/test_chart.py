"""The Helm chart: what it renders is what deploy/kubernetes has, and wrong values are refused.

TEST_ASSET_HELM and TEST_ASSET_KUBECTL name programs with which the rendering is compared, too: without
them, these tests say that they did not run.
"""

import copy
import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import jsonschema
import yaml

import kustomize
from template import Templates, Unsupported

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "deploy/helm/rulec"
PLAIN = ROOT / "deploy/kubernetes"
ADDED = {
    "helm.sh/chart",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
}


def chart_file(name):
    return yaml.safe_load((CHART / name).read_text())


def overridden(default, value):
    """As Helm combines values: maps by key, and null removes a key."""
    if not isinstance(default, dict) or not isinstance(value, dict):
        return value
    both = {**default, **{key: overridden(default.get(key), it) for key, it in value.items()}}
    return {key: it for key, it in both.items() if it is not None}


def valid(values):
    """The values of the chart with these; an error if the schema refuses them."""
    values = overridden(chart_file("values.yaml"), values)
    jsonschema.validate(values, json.loads((CHART / "values.schema.json").read_text()))
    return values


def rendered(values, namespace="kube-system"):
    """The objects that the chart makes of values."""
    chart = chart_file("Chart.yaml")
    names = {"Name": "name", "Version": "version", "AppVersion": "appVersion"}
    root = {
        "Values": valid(values),
        "Chart": {ours: chart[theirs] for ours, theirs in names.items()},
        "Release": {"Name": "rulec", "Namespace": namespace, "Service": "Helm"},
    }
    files = {it.name: it.read_text() for it in sorted((CHART / "templates").iterdir())}
    templates = Templates(files)
    templates.render("NOTES.txt", root)
    texts = [templates.render(name, root) for name in files if name.endswith(".yaml")]
    return [it for text in texts for it in yaml.safe_load_all(text) if it]


def comparable(objects):
    """Objects by kind and name, without what Helm and kustomize each add, and ports in order."""
    found = {}
    for object in copy.deepcopy(objects):
        metadata = object["metadata"]
        for name in ADDED:
            metadata["labels"].pop(name, None)
        template = object.get("spec", {}).get("template", {})
        annotations = template.get("metadata", {}).pop("annotations", {})
        kept = {key: it for key, it in annotations.items() if not key.startswith("checksum/")}
        if kept:
            template["metadata"]["annotations"] = kept
        for container in template.get("spec", {}).get("containers", []):
            container["ports"].sort(key=lambda port: port["name"])
        if object["kind"] == "ConfigMap":
            object["data"] = {key: yaml.safe_load(it) for key, it in object["data"].items()}
        key = (object["kind"], metadata["name"])
        assert key not in found, f"{key} is there twice"
        found[key] = object
    return found


def pod(objects, kind="DaemonSet"):
    (found,) = [it for it in objects if it["kind"] == kind]
    return found["spec"]["template"]["spec"]


ALIASES = [
    {"ip": "192.0.2.11", "hostnames": ["rulec-relay.kube-system.svc"]},
    {"ip": "192.0.2.12", "hostnames": ["rulec-relay.kube-system.svc"]},
]
FOUND_BY_ALIASES = {"op": "add", "path": "/spec/template/spec/hostAliases", "value": ALIASES}

# Values, and what they must be equal to: an overlay, components, and a patch of the DaemonSet.
VARIANTS = {
    "base": ({}, "base", [], []),
    "kubeadm": ({"existingConfigMap": "kube-proxy"}, "kubeadm", [], []),
    "metrics": ({"metrics": {"service": True}}, "base", ["metrics"], []),
    "relay": ({"relay": {"enabled": True}}, "base", ["relay"], []),
    "relay elsewhere": ({"relay": {"follow": True}}, "base", ["relay-nodes"], []),
    "everything": (
        {
            "existingConfigMap": "kube-proxy",
            "metrics": {"service": True},
            "relay": {"enabled": True, "follow": True},
            "hostAliases": ALIASES,
        },
        "kubeadm",
        ["metrics", "relay", "relay-nodes"],
        [FOUND_BY_ALIASES],
    ),
}


def plain(variant):
    """The objects of deploy/kubernetes that a variant must be equal to."""
    with tempfile.TemporaryDirectory() as directory:
        return kustomize.build(write_kustomization(directory, variant))


def write_kustomization(directory, variant):
    """Writes a kustomization like that of the README, if there are components; says where it is."""
    _, overlay, components, patch = VARIANTS[variant]
    if not components:
        return PLAIN / overlay
    own = {
        "resources": [os.path.relpath(PLAIN / overlay, directory)],
        "components": [os.path.relpath(PLAIN / "components" / it, directory) for it in components],
    }
    if patch:
        target = {"kind": "DaemonSet", "name": "rulec"}
        own["patches"] = [{"target": target, "patch": yaml.safe_dump(patch)}]
    (Path(directory) / "kustomization.yaml").write_text(yaml.safe_dump(own))
    return directory


class Chart(unittest.TestCase):
    maxDiff = None

    def test_every_variant_equals_the_plain_manifests(self):
        for variant, (values, *_) in VARIANTS.items():
            with self.subTest(variant):
                self.assertEqual(comparable(rendered(values)), comparable(plain(variant)))

    def test_every_object_has_the_standard_labels(self):
        for object in rendered(VARIANTS["everything"][0]):
            self.assertLessEqual(ADDED, object["metadata"]["labels"].keys(), object["kind"])

    def test_the_versions_are_those_of_the_program(self):
        cargo = (ROOT / "Cargo.toml").read_text()
        version = re.search(r'^\[workspace\.package\]\nversion = "(.*)"', cargo, re.M)[1]
        chart = chart_file("Chart.yaml")
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))

    def test_a_changed_configuration_changes_the_pods(self):
        def pods(values):
            (found,) = [it for it in rendered(values) if it["kind"] == "DaemonSet"]
            return found["spec"]["template"]

        self.assertNotEqual(pods({}), pods({"config": {"mode": "ipvs"}}))
        self.assertNotEqual(pods({}), pods({"apiServer": {"url": "https://other:6443"}}))

    def test_the_ports_follow_the_configuration(self):
        config = {"healthzBindAddress": "[::]:9000", "metricsBindAddress": "0.0.0.0:9001"}
        objects = rendered({"config": config, "metrics": {"service": True}})
        (daemon,) = pod(objects)["containers"]
        ports = {it["name"]: (it["containerPort"], it["hostPort"]) for it in daemon["ports"]}
        self.assertEqual(ports, {"healthz": (9000, 9000), "metrics": (9001, 9001)})
        service = comparable(objects)["Service", "rulec-metrics"]
        self.assertEqual(service["spec"]["ports"][0]["port"], 9001)
        self.assertEqual(service["metadata"]["annotations"]["prometheus.io/port"], "9001")

    def test_the_image_is_that_of_all_containers(self):
        version = chart_file("Chart.yaml")["appVersion"]
        digest = "sha256:" + "0123456789abcdef" * 4
        cases = [
            ({"tag": "main"}, "rulec:main"),
            ({"repository": "registry.example:5000/a/rulec"}, f"registry.example:5000/a/rulec:{version}"),
            ({"tag": "main", "digest": digest}, f"rulec@{digest}"),
        ]
        for image, wanted in cases:
            values = {"image": {**image, "pullPolicy": "Always"}, "relay": {"enabled": True}}
            found, relay = (pod(rendered(values), kind) for kind in ("DaemonSet", "Deployment"))
            for container in found["initContainers"] + found["containers"] + relay["containers"]:
                self.assertEqual(container["image"], wanted)
                self.assertEqual(container["imagePullPolicy"], "Always")

    def test_every_other_value_is_where_it_belongs(self):
        extra = ["--log-level=debug", "--load-balancing=maglev"]
        values = {
            "imagePullSecrets": [{"name": "registry"}],
            "extraArgs": extra,
            "maxUnavailable": 3,
            "priorityClassName": "",
            "nodeSelector": {"pool": "a"},
            "tolerations": [],
            "affinity": {"nodeAffinity": {}},
            "podAnnotations": {"example.com/a": "true"},
            "resources": {"requests": {"cpu": None}, "limits": {"memory": "1Gi"}},
        }
        objects = comparable(rendered(values))
        spec = objects["DaemonSet", "rulec"]["spec"]
        self.assertEqual(spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 3)
        self.assertEqual(spec["template"]["metadata"]["annotations"], {"example.com/a": "true"})
        found = spec["template"]["spec"]
        self.assertEqual(found["imagePullSecrets"], [{"name": "registry"}])
        self.assertEqual(found["nodeSelector"], {"kubernetes.io/os": "linux", "pool": "a"})
        self.assertEqual(found["affinity"], {"nodeAffinity": {}})
        self.assertEqual(found.keys() & {"priorityClassName", "tolerations"}, set())
        for container in found["initContainers"] + found["containers"]:
            self.assertEqual(container["args"][-2:], extra)
            wanted = {"requests": {"memory": "64Mi"}, "limits": {"memory": "1Gi"}}
            self.assertEqual(container["resources"], wanted)

    def test_every_value_of_the_relay_is_where_it_belongs(self):
        values = {
            "imagePullSecrets": [{"name": "registry"}],
            "existingConfigMap": "own",
            "relay": {
                "enabled": True,
                "follow": True,
                "address": "relay.example:18000",
                "certificateSecret": "a",
                "certificateAuthorityConfigMap": "b",
                "replicas": 3,
                "maxUnavailable": 1,
                "extraArgs": ["--log-level=debug"],
                "resources": {"requests": None, "limits": {"memory": "1Gi"}},
                "priorityClassName": "",
                "nodeSelector": {"node-role.kubernetes.io/control-plane": None, "pool": "relay"},
                "tolerations": [],
            },
        }
        objects = comparable(rendered(values))
        spec = objects["Deployment", "rulec-relay"]["spec"]
        self.assertEqual(spec["replicas"], 3)
        rolling = {"maxUnavailable": 1, "maxSurge": 0}
        self.assertEqual(spec["strategy"]["rollingUpdate"], rolling)
        found = spec["template"]["spec"]
        self.assertEqual(found["imagePullSecrets"], [{"name": "registry"}])
        self.assertEqual(found["nodeSelector"], {"kubernetes.io/os": "linux", "pool": "relay"})
        self.assertEqual(found.keys() & {"priorityClassName", "tolerations"}, set())
        (relay,) = found["containers"]
        self.assertEqual(relay["args"][-1], "--log-level=debug")
        self.assertEqual(relay["resources"], {"limits": {"memory": "1Gi"}})
        config, certificate = found["volumes"]
        self.assertEqual(config["configMap"]["name"], "own")
        self.assertEqual(certificate["secret"]["secretName"], "a")
        nodes = pod(rendered(values))
        self.assertIn("--relay=relay.example:18000", nodes["containers"][0]["args"])
        (volume,) = [it for it in nodes["volumes"] if it["name"] == "relay"]
        self.assertEqual(volume["projected"]["sources"][1]["configMap"]["name"], "b")

    def test_a_relay_knows_the_nodes_of_its_own_namespace(self):
        objects = rendered({"relay": {"enabled": True, "follow": True}}, namespace="network")
        self.assertNotIn("kube-system", json.dumps(objects))
        (relay,) = pod(objects, "Deployment")["containers"]
        self.assertIn("--token-service-account=network/rulec", relay["args"])
        (daemon,) = pod(objects)["containers"]
        self.assertIn("--relay=rulec-relay.network.svc:18000", daemon["args"])

    def test_the_daemon_alone_is_told_what_to_count(self):
        plain = pod(rendered({}))
        self.assertNotIn("--traffic", json.dumps(plain))
        for traffic in ["services", "endpoints"]:
            found = pod(rendered({"traffic": traffic, "extraArgs": ["--log-level=debug"]}))
            (daemon,) = found["containers"]
            self.assertEqual(daemon["args"][-2:], [f"--traffic={traffic}", "--log-level=debug"])
            self.assertNotIn("--traffic", json.dumps(found["initContainers"]))

    def test_without_sysctls_nothing_is_privileged(self):
        without = pod(rendered({"sysctls": {"enabled": False}}))
        self.assertNotIn("initContainers", without)
        self.assertNotIn("privileged", json.dumps(without))
        self.assertEqual(without["containers"], pod(rendered({}))["containers"])

    def test_wrong_values_are_refused(self):
        wrong = [
            {"images": {}},
            {"image": {"repository": ""}},
            {"image": {"tag": "a b"}},
            {"image": {"digest": "sha256:12"}},
            {"image": {"pullPolicy": "Sometimes"}},
            {"apiServer": {"url": "control-plane:6443"}},
            {"apiServer": None},
            {"config": {"kind": "KubeletConfiguration"}},
            {"config": {"healthzBindAddress": "0.0.0.0"}},
            {"existingConfigMap": "Kube_Proxy"},
            {"extraArgs": ["debug"]},
            {"traffic": "all"},
            {"traffic": False},
            {"sysctls": {"enabled": "no"}},
            {"metrics": {"service": "yes"}},
            {"maxUnavailable": 0},
            {"maxUnavailable": "0%"},
            {"nodeSelector": {"a": True}},
            {"resources": {"request": {}}},
            {"hostAliases": [{"ip": "relay", "hostnames": ["a"]}]},
            {"hostAliases": [{"ip": "192.0.2.1", "hostnames": []}]},
            {"relay": None},
            {"relay": {"enable": True}},
            {"relay": {"follow": "yes"}},
            {"relay": {"address": "http://relay:18000"}},
            {"relay": {"certificateSecret": ""}},
            {"relay": {"certificateAuthorityConfigMap": "A"}},
            {"relay": {"replicas": 0}},
            {"relay": {"maxUnavailable": "10%"}},
            {"relay": {"extraArgs": ["debug"]}},
            {"relay": {"resources": {"request": {}}}},
        ]
        for values in wrong:
            with self.subTest(values), self.assertRaises(jsonschema.ValidationError):
                valid(values)

    def test_every_value_is_described_by_the_schema_and_the_readme(self):
        schema = json.loads((CHART / "values.schema.json").read_text())
        jsonschema.Draft7Validator.check_schema(schema)
        values = chart_file("values.yaml")
        self.assertEqual(values.keys(), schema["properties"].keys() - {"global"})
        readme = (CHART / "README.md").read_text()
        for name, value in values.items():
            nested = value if name in ("image", "apiServer", "sysctls", "metrics", "relay") else [None]
            for inner in nested:
                self.assertIn(f"| `{name}.{inner}` |" if inner else f"| `{name}` |", readme)


class Renderer(unittest.TestCase):
    """The renderer knows only what the chart needs."""

    def test_what_it_does_not_know_is_an_error(self):
        root = {"Values": {"a": "b", "list": [1], "yes": True}}
        wrong = [
            "{{ range .Values.list }}{{ end }}",
            "{{ with .Values }}{{ end }}",
            "{{ .Values.missing }}",
            "{{ .Values.a | upper }}",
            "{{ .Values.list }}",
            "{{ .Values.yes }}",
            "{{ if .Values.a }}",
            "{{ end }}",
            "{{ if .Values.a }}{{ else if .Values.a }}{{ end }}",
            "{{ $x := 1 }}",
            "{{/* a comment */}}",
            "{{ (.Values.a }}",
        ]
        for text in wrong:
            with self.subTest(text), self.assertRaises(Unsupported):
                Templates({"a": text}).render("a", root)

    def test_white_space_is_that_of_go(self):
        text = "a:\n  {{- if .x }}\n  b: {{ .y | quote }}\n  {{- else }}\n  c\n  {{- end }}\nd\n"
        for x, wanted in [(True, 'a:\n  b: "z"\nd\n'), (False, "a:\n  c\nd\n")]:
            self.assertEqual(Templates({"a": text}).render("a", {"x": x, "y": "z"}), wanted)


class Real(unittest.TestCase):
    """Helm and kustomize themselves make the same."""

    maxDiff = None

    def program(self, variable):
        path = os.environ.get(variable)
        if not path:
            self.skipTest(f"{variable} names none")
        return path

    def output(self, *command):
        ran = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return ran.stdout

    def test_helm_renders_the_same(self):
        helm = self.program("TEST_ASSET_HELM")
        self.output(helm, "lint", "--strict", CHART)
        for variant, (values, *_) in VARIANTS.items():
            with self.subTest(variant), tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(yaml.safe_dump(values))
                file.flush()
                command = [helm, "template", "rulec", CHART, "-n", "kube-system", "-f", file.name]
                objects = [it for it in yaml.safe_load_all(self.output(*command)) if it]
                self.assertEqual(comparable(objects), comparable(rendered(values)))

    def test_kubectl_builds_the_same(self):
        kubectl = self.program("TEST_ASSET_KUBECTL")
        for variant in VARIANTS:
            with self.subTest(variant), tempfile.TemporaryDirectory() as directory:
                source = write_kustomization(directory, variant)
                # Without the hash of the name, which the volume has, too.
                free = "--load-restrictor=LoadRestrictionsNone"
                built = self.output(kubectl, "kustomize", free, source)
                built = re.sub(r"(name: rulec)-[a-z0-9]{10}$", r"\1", built, flags=re.M)
                objects = [it for it in yaml.safe_load_all(built) if it]
                self.assertEqual(comparable(objects), comparable(plain(variant)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
