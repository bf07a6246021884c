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
    for patch in kustomization.get("patches", []):
        objects = patched(objects, yaml.safe_load(patch["patch"]))
    for component in kustomization.get("components", []):
        objects = with_component(objects, directory / component)
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
    assert component.keys() <= {"apiVersion", "kind", "resources", "patches"}, directory
    objects = list(objects)
    for resource in component.get("resources", []):
        objects += load(directory / resource)
    for patch in component.get("patches", []):
        objects = patched(objects, yaml.safe_load(patch["patch"]))
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


def patched(objects, patch):
    """The objects after a strategic merge patch of one of them."""
    wanted = (patch["kind"], patch["metadata"]["name"])
    found = [it for it in objects if (it["kind"], it["metadata"]["name"]) == wanted]
    assert len(found) == 1, f"{wanted} is there {len(found)} times"
    if patch.get("$patch") == "delete":
        return [object for object in objects if object is not found[0]]
    return [merged(object, patch) if object is found[0] else object for object in objects]


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
