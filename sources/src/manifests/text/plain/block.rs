//! Maps and lists by indentation.

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::Refused;
use super::cursor::{Cursor, Keys};
use super::flow::Flow;
use super::literal;
use super::scalar::Scalar;

/// A map or a list whose first entry begins here.
pub(super) struct Block<'c, 'de>(pub(super) &'c mut Cursor<'de>);

impl<'de> Deserializer<'de> for Block<'_, 'de> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let Self(cursor) = self;
        if cursor.is_at_end() {
            return Err(Refused);
        }
        cursor.enter()?;
        let column = cursor.column();
        let value = match cursor.is_at_entry() {
            true => visitor.visit_seq(Entries { cursor, column })?,
            false => visitor.visit_map(Map { cursor, column, keys: Keys::default() })?,
        };
        cursor.leave();
        Ok(value)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A value that begins in a line behind a key or a dash.
struct Inline<'c, 'de> {
    cursor: &'c mut Cursor<'de>,
    /// The column of the key or the dash.
    column: usize,
}

impl<'de> Deserializer<'de> for Inline<'_, 'de> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let Self { cursor, column } = self;
        cursor.count()?;
        let value = match cursor.byte() {
            Some(b'{' | b'[' | b'"' | b'\'') => Flow(cursor).deserialize_any(visitor)?,
            Some(b'|') => visitor.visit_string(literal::take(cursor, column).ok_or(Refused)?)?,
            Some(_) => {
                let text = text(cursor.rest_of_line());
                let scalar = Scalar::of(text).ok_or(Refused)?;
                // That would be a map, or nothing valid.
                if text.contains(": ") || text.ends_with(':') {
                    return Err(Refused);
                }
                cursor.skip(text.len());
                scalar.visit(visitor)?
            }
            None => return Err(Refused),
        };
        if !cursor.is_line_over() {
            return Err(Refused);
        }
        cursor.next_line();
        Ok(value)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Returns a line without its comment.
fn text(line: &str) -> &str {
    line.split_once(" #").map_or(line, |(text, _)| text).trim_end()
}

/// A map whose keys begin in one column.
struct Map<'c, 'de> {
    cursor: &'c mut Cursor<'de>,
    column: usize,
    keys: Keys<'de>,
}

impl<'de> MapAccess<'de> for Map<'_, 'de> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refused> {
        let Self { cursor, column, keys } = self;
        if cursor.is_at_end() || cursor.column() < *column {
            return Ok(None);
        }
        if cursor.column() > *column {
            return Err(Refused);
        }
        let key = keys.take(cursor)?;
        seed.deserialize(BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        let Self { cursor, column, .. } = self;
        if !cursor.is_line_over() {
            return seed.deserialize(Inline { cursor, column: *column });
        }
        cursor.next_line();
        // A list may begin in the column of its key.
        let is_below =
            cursor.column() > *column || (cursor.column() == *column && cursor.is_at_entry());
        if is_below && !cursor.is_at_end() {
            return seed.deserialize(Block(cursor));
        }
        seed.deserialize(().into_deserializer())
    }
}

/// A list whose dashes are in one column.
struct Entries<'c, 'de> {
    cursor: &'c mut Cursor<'de>,
    column: usize,
}

impl<'de> SeqAccess<'de> for Entries<'_, 'de> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refused> {
        let Self { cursor, column } = self;
        let is_over = cursor.is_at_end()
            || cursor.column() < *column
            || (cursor.column() == *column && !cursor.is_at_entry());
        if is_over {
            return Ok(None);
        }
        if cursor.column() > *column {
            return Err(Refused);
        }
        cursor.skip(1);
        cursor.skip_spaces();
        if cursor.is_at_key() {
            return seed.deserialize(Block(cursor)).map(Some);
        }
        seed.deserialize(Inline { cursor, column: *column }).map(Some)
    }
}
