//! Counts for people.

use std::fmt::Display;

/// Returns a number with its noun, which is in the singular for one: `1 Service`, `2 Services`.
pub fn counted<N: Copy + Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let ending = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_singular() {
        let texts = [0_u64, 1, 2].map(|number| counted(number, "object"));
        assert_eq!(texts, ["0 objects", "1 object", "2 objects"]);
    }
}
