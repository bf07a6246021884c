//! Who clients are, and what they may do: what `deploy/kubernetes` says, and nothing more.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::resource::Resource;

/// The ServiceAccount of `deploy/kubernetes`, as a user.
pub(super) const USER: &str = "system:serviceaccount:kube-system:rulec";

const RBAC: &str = include_str!("../../../../deploy/kubernetes/base/rbac.yaml");

/// The objects with their collections, the role without the rules about some kinds.
pub(super) fn objects(without: &[Resource]) -> Vec<(&'static str, Value)> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(RBAC).expect("what is deployed is YAML");
    objects.into_iter().map(|object| placed(object, without)).collect()
}

fn placed(mut object: Value, without: &[Resource]) -> (&'static str, Value) {
    match object["kind"].as_str() {
        Some("ServiceAccount") => {
            // As the kustomization sets it.
            object["metadata"]["namespace"] = json!("kube-system");
            ("/api/v1/namespaces/kube-system/serviceaccounts", object)
        }
        Some("ClusterRole") => {
            if let Some(rules) = object["rules"].as_array_mut() {
                rules.retain(|rule| {
                    let names = |of: &Resource| {
                        let plural = json!(of.plural());
                        rule["resources"].as_array().is_some_and(|all| all.contains(&plural))
                    };
                    !without.iter().any(names)
                });
            }
            ("/apis/rbac.authorization.k8s.io/v1/clusterroles", object)
        }
        Some("ClusterRoleBinding") => {
            ("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", object)
        }
        other => panic!("{other:?} is new in what is deployed, and must be made here too"),
    }
}

/// Writes the tokens that are accepted: the administrator's, and those of clients.
pub(super) fn write_tokens(directory: &Path, administrator: &str, clients: &[&str]) {
    let own = [format!("{administrator},admin,admin,system:masters\n")].into_iter();
    let clients =
        clients.iter().map(|token| format!("{token},{USER},rulec,system:serviceaccounts\n"));
    fs::write(tokens_path(directory), own.chain(clients).collect::<String>())
        .expect("the tokens are written");
}

pub(super) fn tokens_path(directory: &Path) -> PathBuf {
    directory.join("tokens.csv")
}
