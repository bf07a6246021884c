//! What a scalar without quotes is, as YAML 1.1 reads it.

use serde::de::Visitor;

use super::Refused;

/// A value that is no collection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scalar<'a> {
    Null,
    Flag(bool),
    Number(u64),
    Text(&'a str),
}

impl<'a> Scalar<'a> {
    /// Returns what a text without quotes is; `None` if that takes more rules than are here.
    pub(super) fn of(text: &'a str) -> Option<Self> {
        match *text.as_bytes().first()? {
            b'a'..=b'z' | b'A'..=b'Z' => match flag(text) {
                Some(flag) => Some(Self::Flag(flag)),
                None if text == "null" => Some(Self::Null),
                None if is_word(text) => None,
                None => Some(Self::Text(text)),
            },
            b'0'..=b'9' => Self::of_digits(text),
            b'/' => Some(Self::Text(text)),
            // An argument of a command.
            b'-' => {
                let name = text.strip_prefix("--")?;
                name.starts_with(|first: char| first.is_ascii_alphabetic())
                    .then_some(Self::Text(text))
            }
            _ => None,
        }
    }

    /// Numbers that begin with a zero have a base, and others may have a fraction or an exponent.
    fn of_digits(text: &'a str) -> Option<Self> {
        let is_zero = text.starts_with('0');
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let is_simple = text.len() <= 18 && (!is_zero || text.len() == 1);
            return if is_simple { text.parse().ok().map(Self::Number) } else { None };
        }
        // Addresses, networks, times, quantities and identifiers: no integer of any base has such a
        // character, and fractions are as in Rust.
        let of_integer = |byte: u8| byte.is_ascii_hexdigit() || b"xXoO_".contains(&byte);
        let is_text = !text.bytes().all(of_integer) && text.parse::<f64>().is_err();
        is_text.then_some(Self::Text(text))
    }

    pub(super) fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused>
    where
        'a: 'de,
    {
        match self {
            Self::Null => visitor.visit_unit(),
            Self::Flag(flag) => visitor.visit_bool(flag),
            Self::Number(number) => visitor.visit_u64(number),
            Self::Text(text) => visitor.visit_borrowed_str(text),
        }
    }
}

fn flag(text: &str) -> Option<bool> {
    let is_one_of = |words: [&str; 4]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    // None is longer.
    if text.len() > 5 {
        None
    } else if is_one_of(["true", "yes", "on", "y"]) {
        Some(true)
    } else if is_one_of(["false", "no", "off", "n"]) {
        Some(false)
    } else {
        None
    }
}

/// Returns whether a text that begins with a letter is more than a text.
pub(super) fn is_word(text: &str) -> bool {
    flag(text).is_some() || text.eq_ignore_ascii_case("null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_is_what_yaml_1_1_makes_of_it_or_is_refused() {
        let text = |text| Some(Scalar::Text(text));
        let cases = [
            ("null", Some(Scalar::Null)),
            ("Null", None),
            ("Yes", Some(Scalar::Flag(true))),
            ("off", Some(Scalar::Flag(false))),
            ("offer", text("offer")),
            ("0", Some(Scalar::Number(0))),
            ("8080", Some(Scalar::Number(8080))),
            ("0120", None),
            ("1_000", None),
            ("1.5", None),
            ("1e3", None),
            ("10.96.0.10", text("10.96.0.10")),
            ("10.96.0.0/16", text("10.96.0.0/16")),
            ("2001:db8::1", text("2001:db8::1")),
            ("2026-11-30T22:10:00Z", text("2026-11-30T22:10:00Z")),
            ("2026-11-30", text("2026-11-30")),
            ("0e4d0c0a-5f0e", text("0e4d0c0a-5f0e")),
            ("1e-5", None),
            ("100m", text("100m")),
            ("0x10", None),
            ("/healthz", text("/healthz")),
            ("--port=80", text("--port=80")),
            ("-1", None),
            ("~", None),
        ];
        for (written, expected) in cases {
            assert_eq!(Scalar::of(written), expected, "{written}");
        }
    }
}
