//! A configuration file as a tree with line numbers.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{
    Error, Location, MessageFormatter, Options, Spanned, UserMessageFormatter, alias_limits,
    budget, options,
};

/// A configuration is a few kilobytes; a file of another kind is not worth the memory.
const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// A value as written.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Number(f64),
    Text(String),
    /// Each element with its line.
    List(Vec<(Option<u64>, Value)>),
    Map(Vec<KeyValue>),
    /// A value from the command line: a string that becomes whatever the option takes.
    Typed(String),
}

/// A field of an object.
#[derive(Clone, Debug)]
pub(crate) struct KeyValue {
    pub(crate) key: String,
    /// The line of its key, from 1. JSON that YAML cannot read has no lines.
    pub(crate) line: Option<u64>,
    pub(crate) value: Value,
}

/// A problem with a text as a whole.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: Option<u64>,
    pub(crate) message: String,
}

/// Reads one object, YAML or JSON. A key that is written twice is returned as a warning; the last
/// one counts, as in kube-proxy.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Vec<KeyValue>, Option<SyntaxError>), SyntaxError> {
    let whole = |message: String| SyntaxError { line: None, message };
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(whole(format!(
            "is {} bytes long, more than {MAX_DOCUMENT_BYTES}",
            bytes.len()
        )));
    }
    let text = str::from_utf8(bytes).map_err(|error| whole(format!("is not UTF-8: {error}")))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (value, twice) = match serde_saphyr::from_str_with_options(text, reading(false)) {
        Ok(value) => (value, None),
        Err(error) if matches!(error.without_snippet(), Error::DuplicateMappingKey { .. }) => {
            let value = serde_saphyr::from_str_with_options(text, reading(true));
            (value.map_err(|error| fault(&error))?, Some(fault(&error)))
        }
        // YAML is a superset of JSON, except for oddities such as tabs between values.
        Err(error) if text.trim_start().starts_with('{') => match serde_json::from_str(text) {
            Ok(value) => (value, None),
            Err(json) if json.is_syntax() || json.is_eof() => {
                let line = u64::try_from(json.line()).ok();
                return Err(SyntaxError { line, message: format!("is not JSON: {json}") });
            }
            Err(_) => return Err(fault(&error)),
        },
        Err(error) => return Err(fault(&error)),
    };
    match value {
        Value::Map(entries) => Ok((entries, twice)),
        Value::Null => Err(whole("is empty".into())),
        Value::Bool(_)
        | Value::Int(_)
        | Value::Number(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Typed(_) => Err(whole("is not an object".into())),
    }
}

/// `yes` and `on` are booleans, as in kube-proxy's parser.
fn reading(last_wins: bool) -> Options {
    let duplicate_keys =
        if last_wins { DuplicateKeyPolicy::LastWins } else { DuplicateKeyPolicy::Error };
    options! {
        budget: budget! { max_depth: 64, flow_nesting_limit: 64 },
        // Aliases multiply: a few hundred bytes could otherwise take the memory of the node.
        alias_limits: alias_limits! { max_total_replayed_events: 10_000 },
        duplicate_keys: duplicate_keys,
        with_snippet: false,
    }
}

fn fault(error: &Error) -> SyntaxError {
    SyntaxError {
        line: error.location().map(|location| location.line()),
        message: format!("is not YAML: {}", UserMessageFormatter.format_message(error)),
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// Values that were not read from YAML have no line.
fn line(location: Location) -> Option<u64> {
    (location.line() > 0).then(|| location.line())
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        // A number that does not fit is too large for every field, whatever its exact value.
        Ok(Value::Int(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element::<Spanned<Value>>()? {
            elements.push((line(element.referenced), element.value));
        }
        Ok(Value::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, _>()? {
            entries.push(KeyValue { key: key.value, line: line(key.referenced), value });
        }
        Ok(Value::Map(entries))
    }
}
