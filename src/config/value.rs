//! Values with the types of fields and flags.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::config::document::{KeyValue, Value};
use crate::config::duration::GoDuration;

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldType {
    /// `true` or `false`.
    Bool,
    /// Go's `int32`.
    Int,
    /// Go's `float32`.
    Number,
    /// A string with a duration.
    Duration,
    /// A string.
    Text,
    /// A list of strings; on the command line, separated by commas.
    List,
    /// Names, each with true or false; on the command line, `A=true,B=false`.
    Gates,
    /// Any value, of a field that has no effect.
    Any,
}

/// A string in a list, with its line.
#[derive(Clone, Debug)]
pub(crate) struct Element {
    pub(crate) line: Option<u64>,
    pub(crate) text: String,
}

/// A value of the right type.
#[derive(Clone, Debug)]
pub(crate) enum Typed {
    Bool(bool),
    Int(i32),
    Number(f64),
    Duration(GoDuration),
    Text(String),
    List(Vec<Element>),
    Gates(BTreeMap<String, bool>),
    Any(Json),
}

impl FieldType {
    /// Returns the requirement that a value of another type violates.
    fn must(self) -> &'static str {
        match self {
            Self::Bool => "must be true or false",
            Self::Int => "must be a whole number of 32 bits",
            Self::Number => "must be a number",
            Self::Duration => "must be a duration such as 30s or 1h0m0s",
            Self::Text => "must be a string",
            Self::List => "must be a list of strings",
            Self::Gates => "must be names with true or false",
            Self::Any => "must be a value",
        }
    }

    /// Returns the value, if it has this type, or else what is wrong with it. Null means no value.
    pub(crate) fn check(self, value: &Value) -> Result<Option<Typed>, String> {
        let wrong = || format!("{}, not {}", self.must(), found(value));
        if let Value::Typed(text) = value {
            return self.typed(text).map(Some);
        }
        if matches!(value, Value::Null) {
            return Ok(None);
        }
        Ok(Some(match (self, value) {
            (Self::Bool, Value::Bool(value)) => Typed::Bool(*value),
            (Self::Int, Value::Int(value)) => Typed::Int(
                i32::try_from(*value).map_err(|_| format!("{}, not {value}", self.must()))?,
            ),
            #[expect(clippy::cast_precision_loss, reason = "a float32 is less precise")]
            (Self::Number, Value::Int(value)) => Typed::Number(*value as f64),
            (Self::Number, Value::Number(value)) => Typed::Number(*value),
            (Self::Duration, Value::Text(text)) => Typed::Duration(text.parse()?),
            (Self::Text, Value::Text(text)) => Typed::Text(text.clone()),
            (Self::List, Value::List(list)) => Typed::List(
                list.iter()
                    .map(|(line, element)| {
                        let Value::Text(text) = element else {
                            return Err(format!("{}; one is {}", self.must(), found(element)));
                        };
                        Ok(Element { line: *line, text: text.clone() })
                    })
                    .collect::<Result<_, _>>()?,
            ),
            (Self::Gates, Value::Map(gates)) => Typed::Gates(
                gates
                    .iter()
                    .map(|KeyValue { key, value, .. }| {
                        let Value::Bool(is_on) = value else {
                            return Err(format!(
                                "{key} {}, not {}",
                                Self::Bool.must(),
                                found(value)
                            ));
                        };
                        Ok((key.clone(), *is_on))
                    })
                    .collect::<Result<_, _>>()?,
            ),
            (Self::Any, value) => Typed::Any(plain(value)),
            _ => return Err(wrong()),
        }))
    }

    /// Parses a value from the command line.
    pub(crate) fn typed(self, text: &str) -> Result<Typed, String> {
        let wrong = || format!("{}, not {text:?}", self.must());
        Ok(match self {
            Self::Bool => Typed::Bool(go_bool(text)?),
            Self::Int => Typed::Int(text.parse().map_err(|_| wrong())?),
            Self::Number => {
                let number: f64 = text.parse().map_err(|_| wrong())?;
                Typed::Number(Some(number).filter(|number| number.is_finite()).ok_or_else(wrong)?)
            }
            Self::Duration => Typed::Duration(text.parse()?),
            Self::Text => Typed::Text(text.to_owned()),
            Self::List => Typed::List(
                pieces(text).map(|text| Element { line: None, text: text.to_owned() }).collect(),
            ),
            Self::Gates => Typed::Gates(
                pieces(text)
                    .map(|gate| {
                        let (name, value) = gate.split_once('=').ok_or_else(wrong)?;
                        Ok((name.trim().to_owned(), go_bool(value.trim())?))
                    })
                    .collect::<Result<_, String>>()?,
            ),
            Self::Any => Typed::Any(if text.is_empty() { Json::Null } else { json!(text) }),
        })
    }
}

impl Typed {
    /// Returns whether it is Go's zero value of its type, which means "not set" in most fields.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Self::Bool(value) => !value,
            Self::Int(value) => *value == 0,
            Self::Number(value) => *value == 0.0,
            Self::Duration(value) => *value == GoDuration::ZERO,
            Self::Text(text) => text.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Gates(gates) => gates.is_empty(),
            Self::Any(Json::Null) => true,
            Self::Any(Json::Number(number)) => number.as_f64() == Some(0.0),
            Self::Any(Json::String(text)) => matches!(text.as_str(), "" | "0" | "0s"),
            Self::Any(Json::Bool(value)) => !value,
            Self::Any(Json::Array(list)) => list.is_empty(),
            Self::Any(Json::Object(map)) => map.is_empty(),
        }
    }

    /// Returns the value as it is written in a file.
    pub(crate) fn json(&self) -> Json {
        match self {
            Self::Bool(value) => json!(value),
            Self::Int(value) => json!(value),
            Self::Number(value) => json!(value),
            Self::Duration(value) => json!(value.to_string()),
            Self::Text(text) => json!(text),
            Self::List(list) => list.iter().map(|element| json!(element.text)).collect(),
            Self::Gates(gates) => json!(gates),
            Self::Any(value) => value.clone(),
        }
    }
}

/// Parses the words that Go's `strconv.ParseBool` knows.
///
/// # Errors
///
/// If the word is another one.
pub(crate) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("must be true or false, not {other:?}")),
    }
}

/// Splits a text at commas; an empty text has no pieces.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(move |_| !text.is_empty())
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::Text(text) | Value::Typed(text) => format!("{:?}", brief(text)),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "an object".into(),
    }
}

/// Returns the beginning of a text that may be long.
fn brief(text: &str) -> String {
    text.chars().take(64).collect()
}

fn plain(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Number(value) => json!(value),
        Value::Text(text) | Value::Typed(text) => json!(text),
        Value::List(list) => list.iter().map(|(_, value)| plain(value)).collect(),
        Value::Map(entries) => Json::Object(
            entries.iter().map(|entry| (entry.key.clone(), plain(&entry.value))).collect(),
        ),
    }
}
