//! A past state as people name it: `@now`, `@-5m`, a time, or the number of a change.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use crate::config::GoDuration;

/// What begins the name of a moment.
pub const SIGN: char = '@';

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Now.
    Now,
    /// So long ago.
    Ago(Duration),
    /// At a time.
    At(Timestamp),
    /// After a change.
    After(u64),
}

impl FromStr for Moment {
    type Err = String;

    /// Parses what follows the sign.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix(SIGN).unwrap_or(text);
        let wrong = || {
            format!(
                "{SIGN}{text}: not a moment: write {SIGN}now, {SIGN}-5m, a time such as \
                 {SIGN}2026-11-30T22:10:00Z, or the number of a change of rulec history"
            )
        };
        if text == "now" {
            return Ok(Self::Now);
        }
        if let Some(ago) = text.strip_prefix('-') {
            let ago = ago.parse::<GoDuration>().ok().and_then(GoDuration::positive);
            return ago.map(Self::Ago).ok_or_else(wrong);
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::After(id));
        }
        text.parse().map(Self::At).map_err(|_| wrong())
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => write!(f, "{SIGN}now"),
            Self::Ago(ago) => write!(f, "{SIGN}-{ago:?}"),
            Self::At(time) => write!(f, "{SIGN}{time}"),
            Self::After(id) => write!(f, "{SIGN}{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_four_forms() {
        let seconds = Duration::from_secs;
        let cases = [
            ("@now", Moment::Now),
            ("@-5m", Moment::Ago(seconds(300))),
            ("-1h30m", Moment::Ago(seconds(5_400))),
            ("@17", Moment::After(17)),
            ("@1970-01-01T00:01:00Z", Moment::At(Timestamp::from_second(60).unwrap())),
        ];
        for (text, moment) in cases {
            assert_eq!(text.parse(), Ok(moment), "{text}");
            assert_eq!(moment.to_string().parse(), Ok(moment), "{moment}");
        }
        for text in ["@", "@-", "@-5", "@5m", "@--5m", "@yesterday", "@2026-11-30"] {
            let error = text.parse::<Moment>().unwrap_err();
            assert!(error.starts_with(&format!("{text}: not a moment")), "{error}");
        }
    }
}
