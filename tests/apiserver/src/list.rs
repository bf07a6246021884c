//! Lists, whole or in pages.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::options::{Match, Options};
use crate::resource::Target;
use crate::status::Status;
use crate::store::{Key, Objects, Store};

const EXPIRED_TOKEN: &str = "The provided continue parameter is too old to display a consistent \
    list result. You can start a new list without the continue parameter, or use the continue \
    token in this response to retrieve the remainder of the results. Continuing with the provided \
    token results in an inconsistent list - objects that were created, modified, or deleted \
    between the time the first chunk was returned and now may show up in the list.";

/// The content of a continue token, as in those of real servers.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    v: String,
    /// The version of the snapshot; -1 is the current one when the token is used.
    rv: i64,
    /// The smallest key that may come next.
    start: String,
}

impl Continue {
    fn after(version: i64, key: &str) -> Self {
        Self { v: "meta.k8s.io/v1".to_owned(), rv: version, start: format!("{key}\0") }
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!(self).to_string())
    }

    fn decode(token: &str) -> Result<Self, Status> {
        URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| Status::bad_request("continue key is not valid"))
    }
}

/// Answers a list.
///
/// With `as_of`, the server treats this version as the current one.
///
/// # Errors
///
/// 410 for versions and tokens that are compacted, 504 for versions not reached, 400 for an invalid
/// token.
pub(crate) fn list(
    store: &Store,
    target: &Target,
    options: &Options,
    as_of: Option<u64>,
) -> Result<Value, Status> {
    let current = as_of.map_or(store.version(), |version| version.min(store.version()));
    let mut limit = options.limit;
    let mut start = String::new();
    let version = if !options.go_on.is_empty() {
        let token = Continue::decode(&options.go_on)?;
        start = token.start;
        match u64::try_from(token.rv) {
            Ok(version) if version < store.compacted() => {
                let fresh = Continue { v: token.v, rv: -1, start };
                return Err(Status::expired(EXPIRED_TOKEN).going_on(fresh.encode()));
            }
            Ok(version) => version,
            Err(_) => current,
        }
    } else {
        match (options.version, options.matching) {
            (Some(0), _) => {
                // Served by the watch cache, which does not page.
                limit = 0;
                current
            }
            (Some(wanted), _) if wanted > current => {
                return Err(Status::too_large(wanted, current));
            }
            (Some(wanted), Some(Match::Exact)) => wanted,
            // The behaviour from before `resourceVersionMatch` existed.
            (Some(wanted), None) if limit > 0 => wanted,
            (Some(_) | None, _) => current,
        }
    };
    let objects = store
        .snapshot(target.resource, version)
        .map_err(|_| Status::expired("The resourceVersion for the provided list is too old."))?;
    let page = Page::cut(&objects, target, options, &start, limit);
    Ok(page.to_json(target, version))
}

struct Page<'a> {
    items: Vec<(&'a Key, &'a Arc<Value>)>,
    /// The number of further objects.
    remaining: usize,
    /// False with a selector: real servers then send no `remainingItemCount`.
    counted: bool,
}

impl<'a> Page<'a> {
    fn cut(
        objects: &'a Objects,
        target: &Target,
        options: &Options,
        start: &str,
        limit: usize,
    ) -> Self {
        let mut items: Vec<_> = objects
            .iter()
            .filter(|(key, _)| key.as_str() >= start)
            .filter(|(key, _)| target.namespace.as_ref().is_none_or(|of| key.in_namespace(of)))
            .filter(|(_, object)| options.selector.matches(object))
            .collect();
        let remaining = if limit == 0 { 0 } else { items.len().saturating_sub(limit) };
        items.truncate(items.len() - remaining);
        Self { items, remaining, counted: options.selector.is_empty() }
    }

    fn to_json(&self, target: &Target, version: u64) -> Value {
        let mut metadata = json!({ "resourceVersion": version.to_string() });
        if self.remaining > 0
            && let Some((last, _)) = self.items.last()
        {
            let version = i64::try_from(version).unwrap_or(-1);
            metadata["continue"] = Continue::after(version, last.as_str()).encode().into();
            if self.counted {
                metadata["remainingItemCount"] = self.remaining.into();
            }
        }
        let items: Vec<Value> = self.items.iter().map(|(_, object)| item(object)).collect();
        json!({
            "kind": format!("{}List", target.resource.kind()),
            "apiVersion": target.resource.api_version(),
            "metadata": metadata,
            "items": items,
        })
    }
}

/// Returns an object as it is inside a typed list, where kind and version are the list's.
fn item(object: &Value) -> Value {
    let mut item = object.clone();
    if let Some(fields) = item.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Expiry, Features};
    use crate::resource::Resource;

    fn store(names: &[&str]) -> Store {
        let mut store = Store::new();
        names.iter().for_each(|name| add(&mut store, name));
        store
    }

    fn add(store: &mut Store, name: &str) {
        let (namespace, own) = name.split_once('/').unwrap();
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "namespace": namespace, "name": own },
        });
        store.apply(Resource::Services, Key::new(Resource::Services, namespace, own), &service);
    }

    fn ask(store: &Store, path: &str, query: &str) -> Result<Value, Status> {
        let features = Features { streaming_lists: true, expiry: Expiry::Event };
        let options = Options::parse(Resource::Services, query, features)?;
        list(store, &Target::parse(path).unwrap(), &options, None)
    }

    fn names(list: &Value) -> Vec<&str> {
        let items = list["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
    }

    const ALL: &str = "/api/v1/services";

    #[test]
    fn pages_show_one_snapshot() {
        let mut store = store(&["n/a", "n/b", "n/c"]);
        let version = store.version().to_string();
        let first = ask(&store, ALL, "limit=2").unwrap();
        assert_eq!(names(&first), ["a", "b"]);
        assert_eq!(first["metadata"]["remainingItemCount"], 1);
        let token = first["metadata"]["continue"].as_str().unwrap();

        add(&mut store, "n/b2");
        store.delete(Resource::Services, Key::new(Resource::Services, "n", "c"));
        let rest = ask(&store, ALL, &format!("limit=2&continue={token}")).unwrap();
        assert_eq!(names(&rest), ["c"], "as of the first page");
        assert_eq!(rest["metadata"]["resourceVersion"], version);
        assert_eq!(rest["metadata"]["continue"], Value::Null);
    }

    #[test]
    fn an_expired_token_comes_with_an_inconsistent_replacement() {
        let mut store = store(&["n/a", "n/b", "n/c"]);
        let first = ask(&store, ALL, "limit=1").unwrap();
        let token = first["metadata"]["continue"].as_str().unwrap();
        add(&mut store, "n/b2");
        store.compact();
        let expired = ask(&store, ALL, &format!("limit=1&continue={token}")).unwrap_err();
        assert_eq!((expired.code, expired.reason), (410, "Expired"));
        let token = expired.to_json()["metadata"]["continue"].as_str().unwrap().to_owned();
        let rest = ask(&store, ALL, &format!("continue={token}")).unwrap();
        assert_eq!(names(&rest), ["b", "b2", "c"]);
        assert_eq!(ask(&store, ALL, "continue=nonsense").unwrap_err().code, 400);
    }

    #[test]
    fn the_watch_cache_does_not_page() {
        let store = store(&["n/a", "n/b"]);
        let list = ask(&store, ALL, "limit=1&resourceVersion=0").unwrap();
        assert_eq!(names(&list), ["a", "b"]);
        assert_eq!(list["items"][0]["kind"], Value::Null);
    }

    #[test]
    fn versions_are_exact_or_not_older() {
        let mut store = store(&["n/a"]);
        let then = store.version();
        add(&mut store, "n/b");
        let at = |store: &Store, matching: &str| {
            ask(store, ALL, &format!("resourceVersion={then}&resourceVersionMatch={matching}"))
        };
        assert_eq!(names(&at(&store, "Exact").unwrap()), ["a"]);
        assert_eq!(names(&at(&store, "NotOlderThan").unwrap()), ["a", "b"]);
        store.compact();
        assert_eq!(at(&store, "Exact").unwrap_err().code, 410);
        let future = store.version() + 1;
        assert_eq!(ask(&store, ALL, &format!("resourceVersion={future}")).unwrap_err().code, 504);
    }

    #[test]
    fn a_namespace_is_not_the_prefix_of_another() {
        let store = store(&["n/a", "n-2/b"]);
        let list = ask(&store, "/api/v1/namespaces/n/services", "").unwrap();
        assert_eq!(names(&list), ["a"]);
    }
}
