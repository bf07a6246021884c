//! Names of network interfaces.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `IFNAMSIZ` of the kernel, including the zero that ends a name.
const SIZE: usize = 16;

/// Interfaces, by name or by how their names begin. Prints as `cni0` or `veth*`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct InterfacePattern {
    /// The name, or the beginning of names; zeros behind it.
    name: [u8; SIZE],
    is_prefix: bool,
}

impl InterfacePattern {
    /// The interface of this name.
    ///
    /// # Errors
    ///
    /// If no interface can have the name: it is empty or longer than 15 bytes, or has white space, a
    /// slash, a colon, or one of `*`, `"` and `\`, which cannot be told from patterns when printed.
    pub fn named(name: &str) -> Result<Self, String> {
        Self::new(name, false)
    }

    /// The interfaces whose names begin like this.
    ///
    /// # Errors
    ///
    /// As for `named`.
    pub fn starting_with(prefix: &str) -> Result<Self, String> {
        Self::new(prefix, true)
    }

    fn new(name: &str, is_prefix: bool) -> Result<Self, String> {
        let is_odd = |c: char| c.is_whitespace() || c.is_control() || "/:*\"\\".contains(c);
        if name.is_empty() {
            return Err("the name of an interface is not empty".to_owned());
        }
        if let Some(odd) = name.chars().find(|c| is_odd(*c)) {
            return Err(format!("{odd:?} cannot be in the name of an interface"));
        }
        let mut padded = [0; SIZE];
        match padded[..SIZE - 1].get_mut(..name.len()) {
            Some(room) => room.copy_from_slice(name.as_bytes()),
            None => return Err(format!("{name:?} is longer than {} bytes", SIZE - 1)),
        }
        Ok(Self { name: padded, is_prefix })
    }

    /// The names it stands for as a range of 16-byte strings padded with zeros: the first, and the
    /// one behind the last.
    pub fn range(self) -> ([u8; SIZE], [u8; SIZE]) {
        let mut end = self.name;
        // Behind one name comes the same with a last byte of 1, which is always 0 in a name; behind
        // all that begin alike, what begins with the last byte one higher. No byte of UTF-8 is 255.
        let last = if self.is_prefix { self.text().len().saturating_sub(1) } else { SIZE - 1 };
        end[last] = end[last].wrapping_add(1);
        (self.name, end)
    }

    /// The pattern that stands for such a range, if one does.
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

/// What stands before the first zero.
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
    fn patterns_are_ranges_that_read_back() {
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
    fn names_no_interface_has_are_refused() {
        for name in ["", "sixteen-letters!", "a b", "a/b", "a:b", "a*b", "a\"", "a\n", "a\0"] {
            assert!(InterfacePattern::named(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn ranges_that_are_no_pattern_mean_nothing() {
        assert_eq!(InterfacePattern::from_range(&[], &[]), None);
        assert_eq!(InterfacePattern::from_range(b"a", b"b"), None);
        let (start, mut end) = InterfacePattern::named("cni0").unwrap().range();
        end[15] = 2;
        assert_eq!(InterfacePattern::from_range(&start, &end), None);
    }
}
