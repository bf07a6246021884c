//! `ListOptions`: the query of a list or watch.

use std::time::Duration;

use crate::resource::Resource;
use crate::selector::Selector;
use crate::status::Status;

/// How a watch from a compacted version is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// 200 with one ERROR event, as kube-apiserver does for every version it can read.
    Event,
    /// HTTP status 410, as the API's documentation promises and other servers do.
    Status,
}

/// The features of the server on which the validity of options depends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Features {
    /// The feature gate `WatchList`.
    pub(crate) streaming_lists: bool,
    pub(crate) expiry: Expiry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    Exact,
    NotOlderThan,
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) watch: bool,
    pub(crate) selector: Selector,
    /// The page size; 0 is no limit.
    pub(crate) limit: usize,
    /// The continue token, opaque to clients; empty if there is none.
    pub(crate) go_on: String,
    /// `None` if not given, which is not the same as 0.
    pub(crate) version: Option<u64>,
    pub(crate) matching: Option<Match>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout: Option<Duration>,
}

impl Options {
    /// Returns whether a query asks for a watch; the verb must be known before the other options
    /// are checked.
    pub(crate) fn wants_watch(query: &str) -> bool {
        value(query, "watch").is_some_and(|text| truth(&text))
    }

    /// Parses a query. `k8s.io/apimachinery/pkg/apis/meta/internalversion/validation` has the rules
    /// of which options may be combined.
    ///
    /// # Errors
    ///
    /// 400 for options that cannot be parsed, 422 for options that must not be combined.
    pub(crate) fn parse(
        resource: Resource,
        query: &str,
        features: Features,
    ) -> Result<Self, Status> {
        let text = |name: &str| value(query, name).unwrap_or_default();
        let number = |name: &str| match text(name).as_str() {
            "" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("invalid value {digits:?} of {name}: no number"))
            }),
        };
        let mut wrong = Vec::new();
        let matching = match text("resourceVersionMatch").as_str() {
            "" => None,
            "Exact" => Some(Match::Exact),
            "NotOlderThan" => Some(Match::NotOlderThan),
            other => {
                wrong.push(("resourceVersionMatch", format!("unsupported value {other:?}")));
                None
            }
        };
        let options = Self {
            watch: Self::wants_watch(query),
            selector: Selector::parse(resource, &text("labelSelector"), &text("fieldSelector"))?,
            limit: number("limit")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            go_on: text("continue"),
            version: number("resourceVersion")?,
            matching,
            bookmarks: truth(&text("allowWatchBookmarks")),
            send_initial_events: value(query, "sendInitialEvents").map(|text| truth(&text)),
            timeout: number("timeoutSeconds")?.filter(|n| *n > 0).map(Duration::from_secs),
        };
        options.judge(features, &mut wrong);
        if wrong.is_empty() { Ok(options) } else { Err(Status::invalid_options(&wrong)) }
    }

    fn judge(&self, features: Features, wrong: &mut Vec<(&'static str, String)>) {
        const MATCH: &str = "resourceVersionMatch";
        const INITIAL: &str = "sendInitialEvents";
        let mut forbid = |field, what: &str| wrong.push((field, what.to_owned()));
        if !self.watch {
            if self.send_initial_events.is_some() {
                forbid(INITIAL, "sendInitialEvents is forbidden for list");
            }
            if self.matching.is_some() && self.version.is_none() {
                forbid(
                    MATCH,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if self.matching.is_some() && !self.go_on.is_empty() {
                forbid(MATCH, "resourceVersionMatch is forbidden when continue is provided");
            }
            if self.matching == Some(Match::Exact) && self.version == Some(0) {
                let what = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                forbid(MATCH, what);
            }
            return;
        }
        if self.send_initial_events.is_some() {
            if self.matching != Some(Match::NotOlderThan) {
                forbid(
                    MATCH,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
            if !features.streaming_lists {
                let what = "sendInitialEvents is forbidden for watch unless the WatchList feature \
                            gate is enabled";
                forbid(INITIAL, what);
            }
        } else if self.matching.is_some() {
            forbid(
                MATCH,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
    }
}

fn value(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// Parses a boolean like `k8s.io/apimachinery/pkg/runtime/converter.go`: anything not false is
/// true.
fn truth(text: &str) -> bool {
    !matches!(text.to_ascii_lowercase().as_str(), "" | "0" | "false")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(query: &str, streaming_lists: bool) -> u16 {
        let features = Features { streaming_lists, expiry: Expiry::Event };
        Options::parse(Resource::Services, query, features).map_or_else(|status| status.code, |_| 0)
    }

    #[test]
    fn conflicting_options_are_refused() {
        assert_eq!(code("limit=5&resourceVersion=0&resourceVersionMatch=NotOlderThan", true), 0);
        for query in [
            "sendInitialEvents=true",
            "resourceVersionMatch=NotOlderThan",
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersion=9&resourceVersionMatch=Exact&continue=x",
            "resourceVersion=9&resourceVersionMatch=Sometimes",
            "watch=1&resourceVersion=9&resourceVersionMatch=NotOlderThan",
            "watch=1&sendInitialEvents=true",
        ] {
            assert_eq!(code(query, true), 422, "{query}");
        }
        assert_eq!(code("resourceVersion=abc", true), 400);
    }

    #[test]
    fn streaming_lists_need_the_feature() {
        let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        assert_eq!(code(query, true), 0);
        assert_eq!(code(query, false), 422);
    }

    #[test]
    fn version_zero_differs_from_no_version() {
        let features = Features { streaming_lists: true, expiry: Expiry::Event };
        let version = |query| Options::parse(Resource::Nodes, query, features).unwrap().version;
        assert_eq!(version("resourceVersion=0"), Some(0));
        assert_eq!(version("resourceVersion="), None);
        assert_eq!(version(""), None);
    }
}
