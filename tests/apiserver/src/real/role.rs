//! The identity and rights of clients: exactly those of `deploy/kubernetes`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::resource::Resource;

/// The user name of the ServiceAccount of `deploy/kubernetes`.
pub(super) const USER: &str = "system:serviceaccount:kube-system:rulec";

const RBAC: &str = include_str!("../../../../deploy/kubernetes/base/rbac.yaml");

/// Returns the objects with their collections; the role lacks the rules for the kinds in `without`.
pub(super) fn objects(without: &[Resource]) -> Vec<(&'static str, Value)> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(RBAC).expect("what is deployed is YAML");
    objects.into_iter().map(|object| placed(object, without)).collect()
}

fn placed(mut object: Value, without: &[Resource]) -> (&'static str, Value) {
    match object["kind"].as_str() {
        Some("ServiceAccount") => {
            // The namespace that the kustomization sets.
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
        other => panic!("unknown kind {other:?} in rbac.yaml: create it here, too"),
    }
}

/// Writes the accepted tokens: the administrator's and those of clients.
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
