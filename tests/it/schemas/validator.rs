//! The part of JSON Schema (draft 2020-12) that docs/schemas use. Crates for all of it bring thirty
//! others. A keyword that is not known here is an error, so that nothing passes unchecked.

use serde_json::{Map, Value};

/// Returns an error if a schema uses a keyword or a value of one that is not known here, or refers
/// to nothing.
pub(super) fn check_schema(root: &Value) -> Result<(), String> {
    check_part(root, root, "#")
}

fn check_part(root: &Value, schema: &Value, place: &str) -> Result<(), String> {
    let schema = schema.as_object().ok_or_else(|| format!("{place}: it is no object"))?;
    for (keyword, value) in schema {
        let place = format!("{place}/{keyword}");
        let wrong = |what: &str| Err(format!("{place}: {what}: {value}"));
        let is_right = match keyword.as_str() {
            "$schema" | "title" | "description" => value.is_string(),
            "const" => true,
            "enum" => value.as_array().is_some_and(|all| !all.is_empty()),
            "minimum" | "maximum" => value.is_i64(),
            "minItems" | "maxItems" => value.is_u64(),
            "format" => value == "date-time",
            "type" => value.as_str().is_some_and(|name| is_type(name, &Value::Null).is_some()),
            "required" => {
                let names = value.as_array().into_iter().flatten();
                let known = schema.get("properties").and_then(Value::as_object);
                let is_known = |name: &Value| {
                    name.as_str().is_some_and(|it| known.is_some_and(|all| all.contains_key(it)))
                };
                value.is_array() && names.into_iter().all(is_known)
            }
            // Everything is described.
            "additionalProperties" => *value == Value::Bool(false),
            "$ref" => value.as_str().is_some_and(|it| follow(root, it).is_some()),
            "items" => {
                check_part(root, value, &place)?;
                true
            }
            "oneOf" => {
                let all = value.as_array().ok_or_else(|| format!("{place}: no list"))?;
                all.iter().try_for_each(|it| check_part(root, it, &place))?;
                all.len() > 1
            }
            "properties" | "$defs" => {
                let all = value.as_object().ok_or_else(|| format!("{place}: no object"))?;
                let check = |(name, it): (&String, &Value)| {
                    check_part(root, it, &format!("{place}/{name}"))
                };
                all.iter().try_for_each(check)?;
                true
            }
            _ => return wrong("an unknown keyword"),
        };
        if !is_right {
            return wrong("a wrong value");
        }
    }
    let is_open = schema.contains_key("properties") && !schema.contains_key("additionalProperties");
    if is_open { Err(format!("{place}: it allows any field")) } else { Ok(()) }
}

/// Returns whether a value has a type; `None` if there is no such type.
fn is_type(name: &str, value: &Value) -> Option<bool> {
    Some(match name {
        "array" => value.is_array(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "object" => value.is_object(),
        "string" => value.is_string(),
        _ => return None,
    })
}

fn follow<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(reference.strip_prefix('#')?)
}

/// Returns the first way in which a document is not as its schema says.
pub(super) fn validate(root: &Value, document: &Value) -> Result<(), String> {
    Context { root }.validate(root, document, "")
}

struct Context<'a> {
    root: &'a Value,
}

impl Context<'_> {
    fn validate(&self, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        let keywords = schema.as_object().ok_or_else(|| format!("{place}: no schema"))?;
        keywords
            .iter()
            .try_for_each(|(keyword, it)| self.apply(keyword, it, keywords, value, place))
    }

    fn apply(
        &self,
        keyword: &str,
        argument: &Value,
        schema: &Map<String, Value>,
        value: &Value,
        place: &str,
    ) -> Result<(), String> {
        let demand = |is_so: bool, what: &str| {
            if is_so { Ok(()) } else { Err(format!("{place}: {value} {what}")) }
        };
        let number = || argument.as_i64().zip(value.as_i64());
        let length = || argument.as_u64().zip(value.as_array().map(Vec::len));
        let listed = |list: &Value| list.as_array().is_some_and(|all| all.contains(value));
        match keyword {
            "const" => demand(argument == value, &format!("is not {argument}")),
            "enum" => demand(listed(argument), &format!("is none of {argument}")),
            "type" => {
                let name = argument.as_str().unwrap_or_default();
                demand(is_type(name, value) == Some(true), &format!("is no {name}"))
            }
            "minimum" => demand(
                number().is_none_or(|(it, own)| own >= it),
                &format!("is less than {argument}"),
            ),
            "maximum" => demand(
                number().is_none_or(|(it, own)| own <= it),
                &format!("is more than {argument}"),
            ),
            "minItems" => demand(
                length().is_none_or(|(it, own)| own as u64 >= it),
                &format!("has fewer than {argument} elements"),
            ),
            "maxItems" => demand(
                length().is_none_or(|(it, own)| own as u64 <= it),
                &format!("has more than {argument} elements"),
            ),
            "format" => {
                let time = value.as_str().map(str::parse::<jiff::Timestamp>);
                demand(time.is_none_or(|it| it.is_ok()), "is no date and time")
            }
            "required" => {
                let Some(members) = value.as_object() else { return Ok(()) };
                let names = argument.as_array().into_iter().flatten().filter_map(Value::as_str);
                match names.into_iter().find(|name| !members.contains_key(*name)) {
                    Some(name) => Err(format!("{place}: {name} is missing")),
                    None => Ok(()),
                }
            }
            "properties" => {
                let Some(members) = value.as_object() else { return Ok(()) };
                members.iter().try_for_each(|(name, member)| match argument.get(name) {
                    Some(schema) => self.validate(schema, member, &format!("{place}/{name}")),
                    None => Ok(()),
                })
            }
            "additionalProperties" => {
                let Some(members) = value.as_object() else { return Ok(()) };
                let known = schema.get("properties").and_then(Value::as_object);
                let is_known = |name: &&String| known.is_some_and(|all| all.contains_key(*name));
                match members.keys().find(|name| !is_known(name)) {
                    Some(name) => Err(format!("{place}: {name} is not described")),
                    None => Ok(()),
                }
            }
            "items" => {
                let elements = value.as_array().into_iter().flatten().enumerate();
                elements.into_iter().try_for_each(|(number, element)| {
                    self.validate(argument, element, &format!("{place}/{number}"))
                })
            }
            "$ref" => {
                let reference = argument.as_str().unwrap_or_default();
                let schema = follow(self.root, reference);
                let schema = schema.ok_or_else(|| format!("{reference}: there is none"))?;
                self.validate(schema, value, place)
            }
            "oneOf" => self.one_of(argument, value, place),
            _ => Ok(()),
        }
    }

    fn one_of(&self, schemas: &Value, value: &Value, place: &str) -> Result<(), String> {
        let all = schemas.as_array().into_iter().flatten();
        let outcomes: Vec<_> = all.map(|schema| self.validate(schema, value, place)).collect();
        let failed: Vec<&String> = outcomes.iter().filter_map(|it| it.as_ref().err()).collect();
        match outcomes.len() - failed.len() {
            1 => Ok(()),
            // The schema that fits best fails at the deepest place.
            0 => {
                let deepest = failed.iter().max_by_key(|error| error.matches('/').count());
                Err(deepest.map_or_else(|| format!("{place}: nothing fits"), |it| (**it).clone()))
            }
            number => Err(format!("{place}: {number} schemas fit, instead of one")),
        }
    }
}
