//! A place in a document, which moves on along tokens and lines.

use super::scalar::is_word;
use super::{DEEPEST, MOST_NODES, Refused};

/// No key is longer. `yaml` does not look for the end of a key for ever either.
const LONGEST_KEY: usize = 512;

/// See the module's documentation.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// Where the line begins.
    line: usize,
    depth: usize,
    nodes: usize,
}

impl<'a> Cursor<'a> {
    /// Stands at the first content, behind the marker.
    pub(super) fn new(text: &'a str) -> Self {
        let mut cursor = Self { text, at: 0, line: 0, depth: 0, nodes: 0 };
        cursor.skip_spaces();
        if matches!(cursor.byte(), Some(b'\n' | b'#')) {
            cursor.next_line();
        }
        if cursor.column() == 0 && cursor.rest_of_line().trim_end() == "---" {
            cursor.next_line();
        }
        cursor
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    /// Returns how far from the begin of its line it is.
    pub(super) fn column(&self) -> usize {
        self.at - self.line
    }

    pub(super) fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    pub(super) fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(super) fn rest_of_line(&self) -> &'a str {
        let rest = self.rest();
        rest.split_once('\n').map_or(rest, |(line, _)| line)
    }

    /// Moves on within the line.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }

    pub(super) fn skip_spaces(&mut self) {
        while self.byte() == Some(b' ') {
            self.at += 1;
        }
    }

    /// Moves to the next line, which begins behind this one.
    pub(super) fn begin_line(&mut self) {
        self.at += self.rest_of_line().len();
        self.at = (self.at + 1).min(self.text.len());
        self.line = self.at;
    }

    /// Moves to the content of the next line that has any.
    pub(super) fn next_line(&mut self) {
        loop {
            self.begin_line();
            self.skip_spaces();
            if !matches!(self.byte(), Some(b'\n' | b'#')) {
                return;
            }
        }
    }

    /// Returns whether nothing but a comment follows in this line.
    pub(super) fn is_line_over(&mut self) -> bool {
        let before = self.at;
        self.skip_spaces();
        match self.byte() {
            None | Some(b'\n') => true,
            Some(b'#') => self.at > before,
            Some(_) => false,
        }
    }

    /// Returns whether an entry of a list begins here.
    pub(super) fn is_at_entry(&self) -> bool {
        self.rest().starts_with("- ")
    }

    /// Passes over a key with its colon, if there is one, and returns it.
    fn take_key(&mut self) -> Option<&'a str> {
        let (key, bytes) = self.key()?;
        self.at += bytes;
        Some(key)
    }

    /// Returns whether a key with its colon begins here.
    pub(super) fn is_at_key(&self) -> bool {
        self.key().is_some()
    }

    /// Returns the key that begins here, and how many bytes it takes with its colon.
    fn key(&self) -> Option<(&'a str, usize)> {
        let (key, bytes) = match self.byte()? {
            b'"' | b'\'' => self.quoted().map(|key| (key, key.len() + 2))?,
            _ => self.plain_key().map(|key| (key, key.len()))?,
        };
        let behind = self.rest().get(bytes..)?.strip_prefix(':')?;
        let is_key = behind.is_empty() || behind.starts_with([' ', '\n']);
        (is_key && !key.is_empty() && key.len() <= LONGEST_KEY).then_some((key, bytes + 1))
    }

    /// Returns what would be a plain key, if a colon and a space follow.
    fn plain_key(&self) -> Option<&'a str> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let is_end = |at: usize| {
            bytes.get(at) == Some(&b':') && matches!(bytes.get(at + 1), None | Some(b' ' | b'\n'))
        };
        let of_key = |byte: &u8| byte.is_ascii_alphanumeric() || b"_./:-".contains(byte);
        let end = (0..).find(|at| is_end(*at) || !bytes.get(*at).is_some_and(of_key))?;
        let key = rest.get(..end)?;
        (key.starts_with(|first: char| first.is_ascii_alphabetic()) && !is_word(key)).then_some(key)
    }

    /// Returns what is between the quotes that begin here, if nothing in it is escaped.
    pub(super) fn quoted(&self) -> Option<&'a str> {
        // Not the rest of the line: it may be long, with many such texts.
        let mut characters = self.rest().chars();
        let quote = characters.next()?;
        let (text, behind) = characters.as_str().split_once(quote)?;
        let is_escaped = if quote == '"' { text.contains('\\') } else { behind.starts_with(quote) };
        (!is_escaped && !text.contains('\n')).then_some(text)
    }

    /// Counts a collection that begins, and must end.
    pub(super) fn enter(&mut self) -> Result<(), Refused> {
        self.depth += 1;
        if self.depth > DEEPEST { Err(Refused) } else { self.count() }
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Counts a value or a key.
    pub(super) fn count(&mut self) -> Result<(), Refused> {
        self.nodes += 1;
        if self.nodes > MOST_NODES { Err(Refused) } else { Ok(()) }
    }
}

/// The keys of a map so far.
#[derive(Default)]
pub(super) struct Keys<'a>(Vec<&'a str>);

impl<'a> Keys<'a> {
    /// Of larger maps, `yaml` finds keys that are there twice faster.
    const MOST: usize = 64;

    /// Passes over the next key with its colon, and returns it.
    pub(super) fn take(&mut self, cursor: &mut Cursor<'a>) -> Result<&'a str, Refused> {
        let key = cursor.take_key().ok_or(Refused)?;
        if self.0.len() == Self::MOST || self.0.contains(&key) {
            return Err(Refused);
        }
        self.0.push(key);
        cursor.count()?;
        Ok(key)
    }
}
