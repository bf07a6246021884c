//! Fields that keep a wrong type as a finding instead of failing the document.
//!
//! A derived `Deserialize` fails at the first value of a wrong type, does not know its path, and
//! discards the documents and items beside it. A [`Field`] never fails: a value that does not fit
//! is kept as a note of what was found, and the check that knows the path of the field and its
//! object reports it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// No name, address or label is longer. The limit keeps aliases from multiplying a long text.
const LONGEST_TEXT: usize = 1024;

/// More elements than any list of a manifest has. The limit keeps tiny elements (`{},{},{}`) from
/// growing into a hundred times their bytes.
const LONGEST_LIST: usize = 200_000;

/// The text for numbers that no field can have.
const TOO_LARGE: &str = "a number that is too large";

/// A field as it was written.
#[derive(Clone, Debug, Default)]
pub(crate) enum Field<T> {
    /// Not written, or null: the two mean the same to Kubernetes.
    #[default]
    Absent,
    /// A value of the right type.
    Is(T),
    /// A value of another type, and which one.
    Wrong(&'static str),
}

/// A type that a field can have. It accepts the values that it can read.
pub(crate) trait Shape: Sized {
    /// Its name in messages: "expected {NAME}, found a number".
    const NAME: &'static str;

    fn from_text(_: &str) -> Option<Self> {
        None
    }

    fn from_number(_: i64) -> Option<Self> {
        None
    }

    fn from_flag(_: bool) -> Option<Self> {
        None
    }

    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn from_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// A text field.
pub(crate) type Text = Box<str>;

impl Shape for Text {
    const NAME: &'static str = "a string";

    fn from_text(text: &str) -> Option<Self> {
        (text.len() <= LONGEST_TEXT).then(|| text.into())
    }
}

impl Shape for i64 {
    const NAME: &'static str = "a number";

    fn from_number(number: i64) -> Option<Self> {
        Some(number)
    }
}

impl Shape for bool {
    const NAME: &'static str = "true or false";

    fn from_flag(flag: bool) -> Option<Self> {
        Some(flag)
    }
}

/// A port by number or by name.
#[derive(Clone, Debug)]
pub(crate) enum NumberOrText {
    Number(i64),
    Text(Text),
}

impl Shape for NumberOrText {
    const NAME: &'static str = "a number or a string";

    fn from_text(text: &str) -> Option<Self> {
        Text::from_text(text).map(Self::Text)
    }

    fn from_number(number: i64) -> Option<Self> {
        Some(Self::Number(number))
    }
}

impl<T: Shape> Shape for Vec<Field<T>> {
    const NAME: &'static str = "a list";

    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut elements = Self::new();
        while let Some(element) = list.next_element()? {
            if elements.len() == LONGEST_LIST {
                return Err(A::Error::custom(format!("a list of more than {LONGEST_LIST}")));
            }
            elements.push(element);
        }
        Ok(Some(elements))
    }
}

/// A map of strings to strings: labels and selectors, in the order written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts(pub(crate) Vec<(Text, Field<Text>)>);

impl Shape for Texts {
    const NAME: &'static str = "a map";

    fn from_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key.len() > LONGEST_TEXT {
                return Err(A::Error::custom(format!("a key of more than {LONGEST_TEXT} bytes")));
            }
            entries.push((key.into(), map.next_value()?));
        }
        Ok(Some(Self(entries)))
    }
}

/// A struct with named fields. It is boxed, because most are absent in most documents.
impl<T: Part> Shape for Box<T> {
    const NAME: &'static str = "an object";

    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        T::read(MapAccessDeserializer::new(map)).map(|part| Some(Box::new(part)))
    }
}

/// A struct of some fields of an object. The trait keeps [`Shape`] for boxes apart from the one for
/// [`Text`].
pub(crate) trait Part: Sized {
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

impl<'de, T: Shape> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<T> FieldVisitor<T> {
    fn fit(value: Option<T>, found: &'static str) -> Field<T> {
        value.map_or(Field::Wrong(found), Field::Is)
    }
}

impl<'de, T: Shape> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::NAME)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Field::Absent)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Field::Absent)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        // A user who writes `no` for Norway may not know that YAML reads it as a flag.
        let found = "true or false (in YAML, yes, no, on, off, y and n are that without quotes)";
        Ok(Self::fit(T::from_flag(value), found))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Self::fit(T::from_number(value), "a number"))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        let Ok(number) = i64::try_from(value) else { return Ok(Field::Wrong(TOO_LARGE)) };
        Ok(Self::fit(T::from_number(number), "a number"))
    }

    /// Whole numbers may be written as `80.0` or `8e1`. Go reads numbers that begin with a zero and
    /// are not octal, such as `0080`, as fractions.
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        if value.fract() != 0.0 {
            return Ok(Field::Wrong("a fraction"));
        }
        // A value that prints without a fraction or an exponent is exact, within the range of an
        // i64.
        let Ok(number) = format!("{value:.0}").parse() else { return Ok(Field::Wrong(TOO_LARGE)) };
        Ok(Self::fit(T::from_number(number), "a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        let found = if value.len() > LONGEST_TEXT { "a very long string" } else { "a string" };
        Ok(Self::fit(T::from_text(value), found))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        Ok(Self::fit(T::from_list(list)?, "a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Ok(Self::fit(T::from_map(map)?, "an object"))
    }
}
