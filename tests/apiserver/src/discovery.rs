//! Documents about the server itself: health, version, discovery.

use serde_json::{Value, json};

use crate::resource::Resource;

/// Answers a path that is not a resource, if it exists.
pub(crate) fn document(path: &str) -> Option<Document> {
    let document = match path {
        "/livez" | "/readyz" | "/healthz" => Document::Text("ok"),
        "/version" => Document::Json(version()),
        "/api" => Document::Json(json!({
            "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [],
        })),
        "/apis" => Document::Json(json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": groups().map(group).collect::<Vec<_>>(),
        })),
        "/api/v1" => Document::Json(resources("")),
        other => {
            let group = other.strip_prefix("/apis/")?.strip_suffix("/v1")?;
            let known = groups().find(|known| *known == group)?;
            Document::Json(resources(known))
        }
    };
    Some(document)
}

/// Returns whether a path can be read without credentials, as by the role
/// `system:public-info-viewer`.
pub(crate) fn public(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/healthz" | "/version")
}

#[derive(Debug)]
pub(crate) enum Document {
    Text(&'static str),
    Json(Value),
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "33",
        "emulationMajor": "1", "emulationMinor": "33",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "32",
        "gitVersion": "v1.33.0", "gitCommit": "60a317eadfcb839692a68eab88b2096f4d708f4f",
        "gitTreeState": "clean", "buildDate": "2025-04-23T13:00:53Z",
        "goVersion": "go1.24.2", "compiler": "gc", "platform": "linux/amd64",
    })
}

fn groups() -> impl Iterator<Item = &'static str> {
    Resource::ALL.into_iter().map(Resource::group).filter(|group| !group.is_empty())
}

fn group(name: &'static str) -> Value {
    let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
    json!({ "name": name, "versions": [version], "preferredVersion": version })
}

fn resources(group: &str) -> Value {
    let own = Resource::ALL.into_iter().filter(|resource| resource.group() == group);
    let resources: Vec<Value> = own
        .map(|resource| {
            json!({
                "name": resource.plural(),
                "singularName": resource.kind().to_lowercase(),
                "namespaced": resource.namespaced(),
                "kind": resource.kind(),
                "verbs": resource.verbs().iter().map(|verb| verb.name()).collect::<Vec<_>>(),
            })
        })
        .collect();
    let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": version, "resources": resources,
    })
}
