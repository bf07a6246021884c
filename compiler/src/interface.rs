//! Names of network interfaces.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kernel's `IFNAMSIZ`, which includes the terminating zero of a name.
const SIZE: usize = 16;

/// A set of interfaces: one by its name, or all by the prefix of their names. Prints as `cni0` or
/// `veth*`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct InterfacePattern {
    /// The name or prefix, padded with zeros.
    name: [u8; SIZE],
    is_prefix: bool,
}

impl InterfacePattern {
    /// Returns the pattern for the interface with this name.
    ///
    /// # Errors
    ///
    /// Fails if no interface can have the name: it is empty or longer than 15 bytes, or contains
    /// white space, a slash, a colon, or one of `*`, `"` and `\`, which would be ambiguous in a
    /// printed pattern.
    pub fn named(name: &str) -> Result<Self, String> {
        Self::new(name, false)
    }

    /// Returns the pattern for all interfaces whose names begin with this prefix.
    ///
    /// # Errors
    ///
    /// The same as for `named`.
    pub fn starting_with(prefix: &str) -> Result<Self, String> {
        Self::new(prefix, true)
    }

    fn new(name: &str, is_prefix: bool) -> Result<Self, String> {
        let is_odd = |c: char| c.is_whitespace() || c.is_control() || "/:*\"\\".contains(c);
        if name.is_empty() {
            return Err("must not be empty".to_owned());
        }
        if let Some(odd) = name.chars().find(|c| is_odd(*c)) {
            return Err(format!("{odd:?} is not allowed in an interface name"));
        }
        let mut padded = [0; SIZE];
        match padded[..SIZE - 1].get_mut(..name.len()) {
            Some(room) => room.copy_from_slice(name.as_bytes()),
            None => return Err(format!("{name:?} is longer than {} bytes", SIZE - 1)),
        }
        Ok(Self { name: padded, is_prefix })
    }

    /// Returns the matching names as a range of 16-byte strings padded with zeros: the first name,
    /// and the exclusive end.
    pub fn range(self) -> ([u8; SIZE], [u8; SIZE]) {
        let mut end = self.name;
        // For a single name, the exclusive end is the same name with 1 as its last byte, which is
        // always 0 in a name. For a prefix, it is the prefix with its last byte incremented; this
        // cannot overflow, as no byte of UTF-8 is 255.
        let last = if self.is_prefix { self.text().len().saturating_sub(1) } else { SIZE - 1 };
        end[last] = end[last].wrapping_add(1);
        (self.name, end)
    }

    /// Returns the pattern that such a range stands for, if there is one.
    pub fn from_range(start: &[u8], end: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(before_zeros(start)).ok()?;
        [false, true]
            .into_iter()
            .filter_map(|is_prefix| Self::new(name, is_prefix).ok())
            .find(|pattern| (&pattern.range().0[..], &pattern.range().1[..]) == (start, end))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(before_zeros(&self.name)).unwrap_or_default()
    }
}

/// Returns the bytes before the first zero.
fn before_zeros(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text(), if self.is_prefix { "*" } else { "" })
    }
}

impl fmt::Debug for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<InterfacePattern> for String {
    fn from(pattern: InterfacePattern) -> Self {
        pattern.to_string()
    }
}

impl TryFrom<String> for InterfacePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.strip_suffix('*') {
            Some(prefix) => Self::starting_with(prefix),
            None => Self::named(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_round_trip_through_ranges() {
        for text in ["lo", "cni0", "veth*", "a*", "fifteen-letters", "fifteen-letter*", "ü*"] {
            let pattern = InterfacePattern::try_from(text.to_owned()).unwrap();
            assert_eq!(pattern.to_string(), text);
            let (start, end) = pattern.range();
            assert!(start < end, "{text}");
            assert_eq!(InterfacePattern::from_range(&start, &end), Some(pattern), "{text}");
        }
        let veth = InterfacePattern::starting_with("veth").unwrap().range();
        let in_range = |name: &str| {
            let exact = InterfacePattern::named(name).unwrap().range().0;
            veth.0 <= exact && exact < veth.1
        };
        assert!(in_range("veth") && in_range("veth0") && in_range("vethzzzzzzzzzzz"));
        assert!(!in_range("vet") && !in_range("veti") && !in_range("eth0"));
    }

    #[test]
    fn invalid_interface_names_are_refused() {
        for name in ["", "sixteen-letters!", "a b", "a/b", "a:b", "a*b", "a\"", "a\n", "a\0"] {
            assert!(InterfacePattern::named(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn invalid_ranges_yield_no_pattern() {
        assert_eq!(InterfacePattern::from_range(&[], &[]), None);
        assert_eq!(InterfacePattern::from_range(b"a", b"b"), None);
        let (start, mut end) = InterfacePattern::named("cni0").unwrap().range();
        end[15] = 2;
        assert_eq!(InterfacePattern::from_range(&start, &end), None);
    }
}
