//! Other inputs, made of those of a corpus.
//!
//! The same seed makes the same input, so that a failure can be repeated. libFuzzer knows which
//! branches an input reaches, and finds more; this needs no other compiler.

use std::ops::Range;

/// No input grows beyond this, whatever is repeated in it.
const LONGEST: usize = 64 << 10;

/// What is put into inputs: what readers of texts and of lengths stumble over.
const PIECES: [&[u8]; 40] = [
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x80\0\0\0",
    b"\0\0\0\x80",
    b"\x04\0\x01\0",
    b"\x08\0\x01\x80",
    b"\xef\xbb\xbf",
    b"\xc3\x28",
    b"\xf0\x9f\x98\x80",
    b"\r\n",
    b"\n---\n",
    b"\n...\n",
    b"\n%YAML 1.1\n",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!binary ",
    b"? ",
    b"- - - - - -",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[[[[[[[[",
    b"{\"\":{\"\":",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b",",
    b":",
    b"/",
    b"-1",
    b"65536",
    b"1e400",
    b"9223372036854775808",
    b"null",
    b"~",
    b"::ffff:1.2.3.4/0",
];

/// A small generator of numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Creates a generator; every seed gives other numbers.
    pub fn new(seed: u64) -> Self {
        // A state of zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Returns a number below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next()).unwrap_or(0) % end.max(1)
    }

    /// Returns a part of what has this length, mostly a short one.
    fn part(&mut self, len: usize) -> Range<usize> {
        let longest = if self.below(4) == 0 { len } else { len.min(16) };
        let size = self.below(longest + 1);
        let start = self.below(len - size + 1);
        start..start + size
    }
}

/// Makes another input of `one`, with parts of `other`.
pub fn mutated(one: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = one.to_vec();
    for _ in 0..=dice.below(4) {
        change(&mut bytes, other, dice);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let at = dice.below(bytes.len());
    let part = dice.part(bytes.len());
    match dice.below(9) {
        0 => {
            let bit = dice.below(8);
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
        }
        1 => {
            let value = dice.next().to_le_bytes()[0];
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = value);
        }
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(part)),
        4 => {
            let piece = PIECES[dice.below(PIECES.len())];
            drop(bytes.splice(at..at, piece.iter().copied()));
        }
        5 => {
            let piece = PIECES[dice.below(PIECES.len())];
            drop(bytes.splice(part, piece.iter().copied()));
        }
        6 => {
            let most = if dice.below(8) == 0 { 4096 } else { 8 };
            let times = (1 + dice.below(most)).min(LONGEST / part.len().max(1));
            let repeated = bytes.get(part.clone()).unwrap_or_default().repeat(times);
            drop(bytes.splice(part.end..part.end, repeated));
        }
        7 => {
            let theirs = dice.part(other.len());
            let theirs = other.get(theirs).unwrap_or_default().to_vec();
            drop(bytes.splice(part, theirs));
        }
        _ => {
            // The start of one, and the rest of another.
            let rest = dice.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(other.get(rest..).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_always_makes_the_same_input_and_others_make_others() {
        // Of a short text, some mutations are the same by chance.
        let text = b"apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: default}\n";
        let of = |seed| mutated(text, b"spec: {clusterIP: 10.0.0.1}", &mut Dice::new(seed));
        let all: BTreeSet<_> = (0..1000).map(of).collect();
        assert!(all.len() > 900, "{}", all.len());
        assert!((0..1000).all(|seed| all.contains(&of(seed))));
    }

    #[test]
    fn inputs_that_are_empty_or_long_are_changed_as_well() {
        for seed in 0..1000 {
            let empty = mutated(b"", b"", &mut Dice::new(seed));
            let long = mutated(&vec![b'x'; LONGEST], b"y", &mut Dice::new(seed));
            assert!(empty.len() <= LONGEST && long.len() <= LONGEST);
        }
    }
}
