//! Durations as Go writes them: `24h0m0s`, `1.5s`, `250ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Units and their nanoseconds. Go takes both the micro sign and the Greek letter.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3_600 * SECOND),
];

const SECOND: i128 = 1_000_000_000;

/// A signed number of nanoseconds in 64 bits, as Go's `time.Duration`: about 292 years each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GoDuration(i64);

impl GoDuration {
    /// The zero duration.
    pub(crate) const ZERO: Self = Self(0);

    /// Returns the duration; `None` if it is negative.
    pub(crate) fn positive(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

impl FromStr for GoDuration {
    type Err = String;

    /// Parses like `time.ParseDuration`: a sign, then numbers with units; only zero needs no unit.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a duration such as 30s, 1m30s or 24h0m0s");
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let (number, after) = take(rest, |c| c.is_ascii_digit() || c == '.');
            let (unit, after) = take(after, |c| !c.is_ascii_digit() && c != '.');
            let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            total = nanoseconds(number, *scale)
                .and_then(|part| total.checked_add(part))
                .ok_or_else(wrong)?;
            rest = after;
        }
        let signed = if negative { -total } else { total };
        i64::try_from(signed).map(Self).map_err(|_| format!("{text:?} is longer than 292 years"))
    }
}

fn take(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// Parses a number such as `1.5` of a unit. Digits below a nanosecond are dropped.
fn nanoseconds(number: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    // Twenty digits are more than 64 bits hold, and no product of them exceeds 128 bits.
    if whole.len() > 20 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // An hour has 3.6e12 nanoseconds: the sixteenth digit after the point is far below one.
    let fraction: String = fraction.chars().take(16).collect();
    let below = match fraction.as_str() {
        "" => 0,
        digits => {
            digits.parse::<i128>().ok()? * scale / 10_i128.pow(u32::try_from(digits.len()).ok()?)
        }
    };
    Some(whole * scale + below)
}

impl fmt::Display for GoDuration {
    /// Formats like Go's `Duration.String`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = i128::from(self.0.unsigned_abs());
        let sign = if self.0 < 0 { "-" } else { "" };
        f.write_str(sign)?;
        let (scale, unit) = match total {
            0 => return f.write_str("0s"),
            1..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "\u{b5}s"),
            1_000_000..SECOND => (1_000_000, "ms"),
            _ => (SECOND, "s"),
        };
        let minutes = total / (60 * SECOND);
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        let rest = total % (60 * SECOND);
        write!(f, "{}", rest / scale)?;
        let below = rest % scale;
        if below > 0 {
            let digits = scale.ilog10() as usize;
            let text = format!("{below:0digits$}");
            write!(f, ".{}", text.trim_end_matches('0'))?;
        }
        f.write_str(unit)
    }
}
