//! One change of a Service, in terms of Services.

use std::collections::BTreeSet;

use ipnet::IpNet;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Backend;
use serde::Serialize;

use super::fields::Difference;
use super::what::What;

/// A change of a Service.
#[derive(Debug, Serialize)]
pub(super) struct Change {
    #[serde(flatten)]
    pub(super) kind: Kind,
    /// The frontends that it concerns, as text.
    pub(super) frontends: Vec<String>,
    /// The reason: the object and the field.
    pub(super) reason: String,
}

/// What changes, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Kind {
    pub(super) what: What,
    /// The backend, if it concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backend: Option<Backend>,
    /// Which Services a frontend moves between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) moved: Option<Move>,
    /// The Service that has a frontend which another one asks for.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_optional_text")]
    pub(super) holder: Option<NamespacedName>,
    /// Who may connect, if that changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sources: Option<Sources>,
    /// The fields that it is about, with their values, as far as they are known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fields: Vec<Difference>,
}

impl From<What> for Kind {
    fn from(what: What) -> Self {
        let fields = Vec::new();
        Self { what, backend: None, moved: None, holder: None, sources: None, fields }
    }
}

/// Two Services, of which one takes over what the other one had.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Move {
    #[serde(serialize_with = "as_text")]
    pub(super) from: NamespacedName,
    #[serde(serialize_with = "as_text")]
    pub(super) to: NamespacedName,
}

/// The networks that may connect, before and after; `None` for all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Sources {
    pub(super) from: Option<BTreeSet<IpNet>>,
    pub(super) to: Option<BTreeSet<IpNet>>,
}

impl Sources {
    /// Returns what that means, if it means anything: networks can be cut in other ways.
    pub(super) fn what(&self) -> Option<What> {
        let is_covered = |networks: &Option<BTreeSet<IpNet>>, by: &Option<BTreeSet<IpNet>>| {
            let by = by.as_ref().map(joined);
            match (networks.as_ref().map(joined), by) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(networks), Some(by)) => {
                    networks.iter().all(|network| by.iter().any(|it| it.contains(network)))
                }
            }
        };
        if !is_covered(&self.to, &self.from) {
            Some(What::FrontendOpened)
        } else if !is_covered(&self.from, &self.to) {
            Some(What::FrontendRestricted)
        } else {
            None
        }
    }

    /// Describes who may connect, before and after.
    pub(super) fn texts(&self) -> [String; 2] {
        [&self.from, &self.to].map(|networks| match networks {
            None => "all".to_owned(),
            Some(none) if none.is_empty() => "none".to_owned(),
            Some(some) => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        })
    }
}

/// Returns the fewest networks with the same addresses.
fn joined(networks: &BTreeSet<IpNet>) -> Vec<IpNet> {
    IpNet::aggregate(&Vec::from_iter(networks.iter().copied()))
}

fn as_text<S: serde::Serializer>(name: &NamespacedName, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(name)
}

fn as_optional_text<S: serde::Serializer>(
    name: &Option<NamespacedName>,
    to: S,
) -> Result<S::Ok, S::Error> {
    name.as_ref().map(ToString::to_string).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_change_of_source_ranges_means() {
        let networks = |text: &str| -> Option<BTreeSet<IpNet>> {
            let all = text.split(' ').filter(|it| !it.is_empty());
            (text != "all").then(|| all.map(|it| it.parse().unwrap()).collect())
        };
        let cases = [
            ("10.0.0.0/8", "all", Some(What::FrontendOpened)),
            ("all", "10.0.0.0/8", Some(What::FrontendRestricted)),
            ("10.0.0.0/8", "10.0.0.0/8 192.0.2.0/24", Some(What::FrontendOpened)),
            ("10.0.0.0/8", "10.1.0.0/16", Some(What::FrontendRestricted)),
            // Some may connect that could not, even if others may not any more.
            ("10.1.0.0/16", "10.2.0.0/16", Some(What::FrontendOpened)),
            ("10.0.0.0/8", "10.0.0.0/9 10.128.0.0/9", None),
            ("10.0.0.0/9 10.128.0.0/9", "10.0.0.0/8", None),
            ("10.0.0.0/8", "", Some(What::FrontendRestricted)),
            ("all", "all", None),
        ];
        for (from, to, what) in cases {
            let sources = Sources { from: networks(from), to: networks(to) };
            assert_eq!(sources.what(), what, "{from} -> {to}");
        }
    }
}
