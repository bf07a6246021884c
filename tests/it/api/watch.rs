//! The causes of changes that come from the server.

use rulec_apiserver::ApiServer;
use rulec_testkit::require_root;
use serde_json::Value;

use super::{Cluster, service, slice};
use crate::daemon::{SETTLED, rulec};
use crate::support::eventually;

#[test]
fn a_change_of_the_server_names_the_version_of_its_object() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<ApiServer>::new("api-watch");
    for object in [service(1, 80), slice(1, 2)] {
        cluster.server.apply(&object);
    }
    let socket = cluster.path("rulec.sock");
    let socket = socket.to_str().unwrap().to_owned();
    cluster.start(&["--socket", &socket]);
    cluster.daemon().wait_for(SETTLED);
    let history = || -> Vec<Value> {
        let ran = rulec(&cluster.node, &["history", "-o", "json", "--socket", &socket]);
        assert!(ran.status.success(), "{ran:?}");
        let list: Value = serde_json::from_slice(&ran.stdout).unwrap();
        list["items"].as_array().unwrap().clone()
    };
    cluster.server.apply(&slice(1, 3));
    let mut cause = Value::Null;
    eventually("the change is there", || {
        let all = history();
        let causes = all.iter().flat_map(|it| it["causes"].as_array().unwrap());
        let found = causes.into_iter().find(|it| it["object"] == "EndpointSlice default/web-1-a");
        cause = found.cloned().unwrap_or_default();
        found.is_some()
    });
    assert_eq!(cause["source"], "api");
    let from = cause["from"].as_str().unwrap();
    let version = from.strip_prefix("API server, resourceVersion ");
    assert!(version.is_some_and(|it| it.parse::<u64>().is_ok()), "{from}");
    assert_eq!(cause["fields"].as_array().unwrap().len(), 1, "{cause}");
}
