//! How much of the API server's changes a state has in it.

use std::fmt;

use crate::topic::Topic;

/// The versions of the API server up to which a state has all changes, for each type of resources.
///
/// All versions of a cluster come from one counter and can be compared (KEP-5504), whichever server
/// has given them, and so can the positions of two relays, or of a relay and an API server. A state
/// must not take the place of one that is further.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The uid of the cluster, if it is known. Those of two clusters cannot be compared.
    pub cluster: Option<String>,
    /// `None` if it is not known, as without an API server.
    pub versions: [Option<u64>; Topic::ALL.len()],
}

impl Position {
    /// Returns whether this has less of a type than another: what is not known is less than anything.
    /// Two clusters cannot be compared.
    pub fn is_behind(&self, other: &Self, topic: Topic) -> bool {
        let is_other =
            self.cluster.as_ref().zip(other.cluster.as_ref()).is_some_and(|(a, b)| a != b);
        let [ours, theirs] = [self, other].map(|it| it.versions[topic.index()]);
        !is_other && ours < theirs
    }

    /// Takes over a newer one. Types of which that has less stay: what was held of them was kept.
    pub fn advance(&mut self, newer: &Self) {
        self.advance_but(newer, |_| false);
    }

    /// Takes over a newer one, but for some types.
    pub fn advance_but(&mut self, newer: &Self, is_kept: impl Fn(Topic) -> bool) {
        for topic in Topic::ALL {
            if !newer.is_behind(self, topic) && !is_kept(topic) {
                self.versions[topic.index()] = newer.versions[topic.index()];
            }
        }
        if newer.cluster.is_some() {
            self.cluster.clone_from(&newer.cluster);
        }
    }

    /// Returns whether this has less of any type than another.
    pub fn is_behind_in_any(&self, other: &Self) -> bool {
        Topic::ALL.into_iter().any(|topic| self.is_behind(other, topic))
    }
}

/// Where a relay stands, as it tells its nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What it knows.
    pub position: Position,
    /// Whether it hears nothing from the API server, so that it learns nothing new.
    pub is_cut_off: bool,
    /// Whether it has more than the API server, so that nothing can take its place.
    pub has_manifests: bool,
}

/// The words for these.
const CUT_OFF: &str = "cut-off";
const MANIFESTS: &str = "manifests";

/// The longest text that is read.
const LONGEST: usize = 1024;

impl Standing {
    /// Reads what `Display` has written: the cluster, the versions in the order of the types, and
    /// words, with `/` between. `None` if it is something else. Unknown words are skipped.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let mut parts = text.split('/');
        let cluster = parts.next().filter(|it| !it.is_empty()).map(str::to_owned);
        let mut versions = [None; Topic::ALL.len()];
        for version in &mut versions {
            *version = match parts.next()? {
                "" => None,
                number => Some(number.parse().ok()?),
            };
        }
        let words: Vec<&str> = parts.collect();
        let has = |word| words.contains(&word);
        let position = Position { cluster, versions };
        Some(Self { position, is_cut_off: has(CUT_OFF), has_manifests: has(MANIFESTS) })
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position: Position { cluster, versions }, is_cut_off, has_manifests } = self;
        f.write_str(cluster.as_deref().unwrap_or_default())?;
        for version in versions {
            f.write_str("/")?;
            if let Some(version) = version {
                write!(f, "{version}")?;
            }
        }
        for (word, _) in
            [(CUT_OFF, is_cut_off), (MANIFESTS, has_manifests)].iter().filter(|it| *it.1)
        {
            write!(f, "/{word}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(cluster: &str, versions: [u64; 4]) -> Position {
        let known = |it: u64| (it > 0).then_some(it);
        let cluster = Some(cluster.to_owned()).filter(|it| !it.is_empty());
        Position { cluster, versions: versions.map(known) }
    }

    #[test]
    fn what_is_written_is_read() {
        for (position, is_cut_off, has_manifests, text) in [
            (Position::default(), false, false, "////"),
            (position("7f-a", [1, 20, 0, 3]), false, true, "7f-a/1/20//3/manifests"),
            (position("", [0, 0, 0, u64::MAX]), true, false, "////18446744073709551615/cut-off"),
            (position("", [1, 0, 0, 0]), true, true, "/1////cut-off/manifests"),
        ] {
            let standing = Standing { position, is_cut_off, has_manifests };
            assert_eq!(standing.to_string(), text);
            assert_eq!(Standing::parse(text), Some(standing));
        }
        let long = "x".repeat(2_000) + "////";
        for text in ["", "17", "a/1/2/3", "a/1/2/3/x", &long] {
            assert_eq!(Standing::parse(text), None, "{text}");
        }
        let newer = Standing::parse("a/1/2/3/4/more/cut-off").unwrap();
        assert!(newer.is_cut_off && !newer.has_manifests, "of another program");
    }

    #[test]
    fn nothing_goes_back_but_to_another_cluster() {
        let mut held = position("a", [5, 5, 0, 5]);
        held.advance(&position("a", [4, 6, 1, 0]));
        assert_eq!(held, position("a", [5, 6, 1, 5]));
        held.advance(&position("b", [1, 2, 0, 0]));
        assert_eq!(held, position("b", [1, 2, 0, 0]));
    }

    #[test]
    fn only_versions_of_one_cluster_are_compared() {
        let here = position("a", [5, 5, 0, 5]);
        for (other, expected) in [
            (position("a", [5, 5, 0, 5]), false),
            (position("a", [5, 5, 5, 5]), true),
            (position("a", [5, 6, 5, 5]), true),
            (position("", [6, 0, 0, 0]), true),
            (position("b", [6, 6, 6, 6]), false),
            (position("a", [4, 4, 0, 0]), false),
        ] {
            assert_eq!(here.is_behind_in_any(&other), expected, "{other:?}");
        }
        let other = position("a", [5, 6, 5, 5]);
        let behind = Topic::ALL.map(|topic| here.is_behind(&other, topic));
        assert_eq!(behind, [false, true, true, false]);
    }
}
