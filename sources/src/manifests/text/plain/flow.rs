//! Collections in brackets and texts in quotes, within one line.

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::Refused;
use super::cursor::{Cursor, Keys};
use super::scalar::Scalar;

/// A value that begins here.
pub(super) struct Flow<'c, 'de>(pub(super) &'c mut Cursor<'de>);

impl<'de> Deserializer<'de> for Flow<'_, 'de> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let Self(cursor) = self;
        cursor.count()?;
        match cursor.byte() {
            Some(b'{') => {
                cursor.enter()?;
                cursor.skip(1);
                let inside = Inside { cursor, end: b'}', is_begun: false };
                let value = visitor.visit_map(Map { inside, keys: Keys::default() })?;
                cursor.leave();
                Ok(value)
            }
            Some(b'[') => {
                cursor.enter()?;
                cursor.skip(1);
                let value = visitor.visit_seq(Inside { cursor, end: b']', is_begun: false })?;
                cursor.leave();
                Ok(value)
            }
            Some(b'"' | b'\'') => {
                let text = cursor.quoted().ok_or(Refused)?;
                cursor.skip(text.len() + 2);
                visitor.visit_borrowed_str(text)
            }
            Some(_) => {
                let text = plain(cursor.rest());
                let scalar = Scalar::of(text).ok_or(Refused)?;
                cursor.skip(text.len());
                scalar.visit(visitor)
            }
            None => Err(Refused),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Returns the scalar without quotes that begins a text. A colon is a part of it before more of it.
fn plain(text: &str) -> &str {
    let bytes = text.as_bytes();
    let of_scalar = |at: usize| match bytes.get(at) {
        Some(b':') => bytes.get(at + 1).is_some_and(|it| it.is_ascii_alphanumeric() || *it == b':'),
        Some(byte) => byte.is_ascii_alphanumeric() || b"_./-".contains(byte),
        None => false,
    };
    let end = (0..).find(|at| !of_scalar(*at)).unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

/// What is between two brackets. It is a list, or the part of a map that lists have, too.
struct Inside<'c, 'de> {
    cursor: &'c mut Cursor<'de>,
    /// The bracket that ends it.
    end: u8,
    is_begun: bool,
}

impl Inside<'_, '_> {
    /// Moves to the next value or key, if there is one, or else behind the end.
    fn advance(&mut self) -> Result<bool, Refused> {
        let Self { cursor, end, is_begun } = self;
        cursor.skip_spaces();
        let is_first = !std::mem::replace(is_begun, true);
        match cursor.byte() {
            Some(byte) if byte == *end => {
                cursor.skip(1);
                Ok(false)
            }
            Some(b',') if !is_first => {
                cursor.skip(1);
                cursor.skip_spaces();
                // A comma at the end has no value behind it.
                if cursor.byte() == Some(*end) { Err(Refused) } else { Ok(true) }
            }
            Some(_) if is_first => Ok(true),
            _ => Err(Refused),
        }
    }
}

impl<'de> SeqAccess<'de> for Inside<'_, 'de> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refused> {
        if !self.advance()? {
            return Ok(None);
        }
        seed.deserialize(Flow(self.cursor)).map(Some)
    }
}

struct Map<'c, 'de> {
    inside: Inside<'c, 'de>,
    keys: Keys<'de>,
}

impl<'de> MapAccess<'de> for Map<'_, 'de> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refused> {
        let Self { inside, keys } = self;
        if !inside.advance()? {
            return Ok(None);
        }
        let key = keys.take(inside.cursor)?;
        seed.deserialize(BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        self.inside.cursor.skip_spaces();
        seed.deserialize(Flow(self.inside.cursor))
    }
}
