//! What is known of tokens, for a short time. Time comes from the caller.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rulec_compiler::name::NodeName;

/// How long a token is accepted without asking again. One that was revoked, or whose Pod has gone,
/// may be used for so long.
pub(super) const GOOD: Duration = Duration::from_secs(60);

/// How long a token is refused without asking again.
pub(super) const BAD: Duration = Duration::from_secs(10);

/// How long a token counts that was good, while the API server cannot be asked.
pub(super) const AWAY: Duration = Duration::from_secs(600);

/// How many good tokens are remembered, and how many others. The latter can be made up.
const MOST_GOOD: usize = 16_384;
const MOST_BAD: usize = 1_024;

/// What stands for a token, so that none is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(token: &str) -> Self {
        Self(*blake3::hash(token.as_bytes()).as_bytes())
    }
}

/// The node of a token, or why it is of none.
pub(super) type Verdict = Result<NodeName, String>;

#[derive(Debug, Default)]
pub(super) struct Verdicts {
    good: Kept<NodeName>,
    bad: Kept<String>,
}

/// What was said last, and when.
type Kept<T> = BTreeMap<Digest, (Instant, T)>;

impl Verdicts {
    /// Returns what need not be asked for again.
    pub(super) fn fresh(&mut self, token: &Digest, now: Instant) -> Option<Verdict> {
        let good = self.good.get(token).filter(|(at, _)| is_within(*at, now, GOOD));
        let bad = self.bad.get(token).filter(|(at, _)| is_within(*at, now, BAD));
        good.map(|(_, node)| Ok(node.clone())).or(bad.map(|(_, reason)| Err(reason.clone())))
    }

    /// Returns the node of a token that was good when it was last asked for, not too long ago.
    pub(super) fn last_good(&mut self, token: &Digest, now: Instant) -> Option<NodeName> {
        let good = self.good.get(token).filter(|(at, _)| is_within(*at, now, AWAY));
        good.map(|(_, node)| node.clone())
    }

    /// Takes over what was said.
    pub(super) fn put(&mut self, token: Digest, verdict: Verdict, now: Instant) {
        self.good.remove(&token);
        self.bad.remove(&token);
        match verdict {
            Ok(node) => keep(&mut self.good, MOST_GOOD, AWAY, token, (now, node)),
            Err(reason) => keep(&mut self.bad, MOST_BAD, BAD, token, (now, reason)),
        }
    }
}

fn is_within(at: Instant, now: Instant, time: Duration) -> bool {
    now.saturating_duration_since(at) < time
}

/// Keeps a verdict. If there are too many, those go that are too old, or else the oldest.
fn keep<T>(kept: &mut Kept<T>, most: usize, time: Duration, token: Digest, what: (Instant, T)) {
    if kept.len() >= most {
        let now = what.0;
        kept.retain(|_, (at, _)| is_within(*at, now, time));
        let oldest = kept.iter().min_by_key(|(_, (at, _))| *at).map(|(token, _)| *token);
        if let Some(oldest) = oldest.filter(|_| kept.len() >= most) {
            kept.remove(&oldest);
        }
    }
    kept.insert(token, what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_kept_for_a_short_time_and_a_good_one_longer_while_nobody_can_be_asked() {
        let (mut verdicts, start) = (Verdicts::default(), Instant::now());
        let second = Duration::from_secs(1);
        let (good, bad) = (Digest::of("good"), Digest::of("bad"));
        verdicts.put(good, Ok(NodeName::from("a")), start);
        verdicts.put(bad, Err("no".to_owned()), start);
        let node = Some(NodeName::from("a"));
        assert_eq!(verdicts.fresh(&good, start + GOOD - second), node.clone().map(Ok));
        assert_eq!(verdicts.fresh(&good, start + GOOD), None);
        assert_eq!(verdicts.fresh(&bad, start + BAD - second), Some(Err("no".to_owned())));
        assert_eq!(verdicts.fresh(&bad, start + BAD), None);
        assert_eq!(verdicts.last_good(&good, start + AWAY - second), node);
        assert_eq!(verdicts.last_good(&good, start + AWAY), None);
        assert_eq!(verdicts.last_good(&bad, start), None);
        // The newest word counts.
        verdicts.put(good, Err("revoked".to_owned()), start + GOOD);
        assert_eq!(verdicts.last_good(&good, start + GOOD), None);
    }

    #[test]
    fn tokens_that_are_made_up_push_out_only_their_like() {
        let (mut verdicts, start) = (Verdicts::default(), Instant::now());
        verdicts.put(Digest::of("good"), Ok(NodeName::from("a")), start);
        for number in 0..3 * MOST_BAD {
            let at = start + Duration::from_millis(number as u64);
            verdicts.put(Digest::of(&number.to_string()), Err("no".to_owned()), at);
        }
        assert_eq!((verdicts.good.len(), verdicts.bad.len()), (1, MOST_BAD));
        let newest = Digest::of(&(3 * MOST_BAD - 1).to_string());
        assert!(verdicts.bad.contains_key(&newest), "the oldest have gone");
    }
}
