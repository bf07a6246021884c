"""Builds the kustomizations of deploy/kubernetes without kustomize.

Only the fields that they use are understood; any other is an error. The hash that kustomize appends to
the name of a generated ConfigMap is left out.
"""

import copy
from pathlib import Path

import yaml

KNOWN = set(
    "apiVersion kind namespace labels resources components configMapGenerator images patches".split()
)
KNOWN_IN_COMPONENTS = set("apiVersion kind resources images patches replacements".split())
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding"}


def build(directory):
    """The objects of a kustomization."""
    directory = Path(directory)
    kustomization = load(directory / "kustomization.yaml")[0]
    unknown = kustomization.keys() - KNOWN
    assert not unknown, f"{directory}: {unknown} are not understood"
    objects = []
    for resource in kustomization.get("resources", []):
        path = directory / resource
        objects += build(path) if path.is_dir() else load(path)
    for generator in kustomization.get("configMapGenerator", []):
        assert generator.keys() == {"name", "files"}, generator
        data = {file: (directory / file).read_text() for file in generator["files"]}
        metadata = {"name": generator["name"]}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for component in kustomization.get("components", []):
        objects = with_component(objects, directory / component)
    for patch in kustomization.get("patches", []):
        objects = patched(objects, patch)
    for object in objects:
        if "namespace" in kustomization and object["kind"] not in CLUSTER_WIDE:
            object["metadata"]["namespace"] = kustomization["namespace"]
        for labels in kustomization.get("labels", []):
            label(object, labels)
        for image in kustomization.get("images", []):
            tag(object, image)
    return objects


def with_component(objects, directory):
    """The objects, with those of a component and its patches."""
    component = load(directory / "kustomization.yaml")[0]
    assert component.keys() <= KNOWN_IN_COMPONENTS, directory
    objects = list(objects)
    for resource in component.get("resources", []):
        objects += load(directory / resource)
    for patch in component.get("patches", []):
        objects = patched(objects, patch)
    for object in objects:
        for image in component.get("images", []):
            tag(object, image)
    for replacement in component.get("replacements", []):
        replace(objects, replacement)
    return objects


def load(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def label(object, labels):
    assert labels.keys() == {"pairs", "includeTemplates"} and labels["includeTemplates"]
    object["metadata"].setdefault("labels", {}).update(labels["pairs"])
    if "template" in object.get("spec", {}):
        metadata = object["spec"]["template"].setdefault("metadata", {})
        metadata.setdefault("labels", {}).update(labels["pairs"])


def tag(object, image):
    assert image.keys() == {"name", "newTag"}, image
    pod = object.get("spec", {}).get("template", {}).get("spec", {})
    for container in pod.get("initContainers", []) + pod.get("containers", []):
        if container["image"] == image["name"]:
            container["image"] = f"{image['name']}:{image['newTag']}"


def selected(objects, kind, name):
    """The only object of a kind and name."""
    found = [it for it in objects if (it["kind"], it["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{kind} {name} is there {len(found)} times"
    return found[0]


def patched(objects, patch):
    """The objects after a patch of one of them: a strategic merge, or a list of operations."""
    assert patch.keys() <= {"patch", "target"}, patch
    content = yaml.safe_load(patch["patch"])
    if isinstance(content, list):
        old = selected(objects, **patch["target"])
        new = copy.deepcopy(old)
        for operation in content:
            operate(new, operation)
    else:
        assert "target" not in patch, patch
        old = selected(objects, content["kind"], content["metadata"]["name"])
        if content.get("$patch") == "delete":
            return [object for object in objects if object is not old]
        new = merged(old, content)
    return [new if object is old else object for object in objects]


def operate(object, operation):
    """Does one operation of a JSON patch: only those that add are understood."""
    assert operation.keys() == {"op", "path", "value"} and operation["op"] == "add", operation
    *way, last = operation["path"].split("/")[1:]
    for step in way:
        object = object[int(step) if isinstance(object, list) else step]
    if isinstance(object, list):
        assert last == "-", operation
        object.append(operation["value"])
    else:
        object[last] = operation["value"]


def replace(objects, replacement):
    """Takes the value of a field of one object over into others."""
    assert replacement.keys() == {"source", "targets"}, replacement
    source = dict(replacement["source"])
    holder, last = parent(source.pop("fieldPath"), objects, source)
    for target in replacement["targets"]:
        assert target.keys() == {"select", "fieldPaths"}, target
        for path in target["fieldPaths"]:
            other, field = parent(path, objects, target["select"])
            assert field in other, path
            other[field] = holder[last]


def parent(path, objects, selection):
    """What holds the field at a path such as `spec.volumes.[name=config].secret`, and its name."""
    value = selected(objects, **selection)
    *way, last = path.split(".")
    for step in way:
        if step.startswith("["):
            key, wanted = step.strip("[]").split("=")
            (value,) = [it for it in value if it[key] == wanted]
        else:
            value = value[step]
    return value, last


def merged(old, patch):
    """A value after a patch: maps by key, lists by the name of their members."""
    if isinstance(old, dict) and isinstance(patch, dict):
        both = copy.deepcopy(old)
        for key, value in patch.items():
            both[key] = merged(both[key], value) if key in both else value
        return both
    if isinstance(old, list) and isinstance(patch, list):
        both = {member["name"]: member for member in old}
        for member in patch:
            both[member["name"]] = merged(both.get(member["name"], {}), member)
        return list(both.values())
    return patch
