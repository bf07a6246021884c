//! Label and field selectors.

use serde_json::Value;

use crate::resource::Resource;
use crate::status::Status;

/// The objects of a collection that a request selects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: Vec<Label>,
    fields: Vec<Field>,
}

/// One requirement on labels. Only `Present` and `In` require the label to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Label {
    Present(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    /// The path of the field, for example `spec.clusterIP`.
    path: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// Parses both selectors, which may be empty.
    ///
    /// # Errors
    ///
    /// 400 for an invalid selector, and for a field by which the kind cannot be selected.
    pub(crate) fn parse(resource: Resource, labels: &str, fields: &str) -> Result<Self, Status> {
        let labels = split(labels).into_iter().map(label).collect::<Result<_, _>>()?;
        let fields: Vec<Field> = split(fields).into_iter().map(field).collect::<Result<_, _>>()?;
        for field in &fields {
            if !selectable(resource).contains(&field.path.as_str()) {
                return Err(Status::bad_request(format!(
                    "Unable to find {:?} that match field selector {:?}: field label not supported: {}",
                    resource.plural(),
                    field.path,
                    field.path
                )));
            }
        }
        Ok(Self { labels, fields })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        self.labels.iter().all(|requirement| match requirement {
            Label::Present(key) => label(key).is_some(),
            Label::Absent(key) => label(key).is_none(),
            Label::In(key, values) => {
                label(key).is_some_and(|value| values.iter().any(|one| one == value))
            }
            Label::NotIn(key, values) => {
                !label(key).is_some_and(|value| values.iter().any(|one| one == value))
            }
        }) && self.fields.iter().all(|field| {
            let value = field.path.split('.').fold(object, |at, step| &at[step]);
            // A field that does not exist is selected as the empty string.
            (value.as_str().unwrap_or_default() == field.value) == field.equal
        })
    }
}

/// Returns the fields that can be selected, as in `pkg/registry/core/service/strategy.go` and
/// `GenericPredicateFunc`.
fn selectable(resource: Resource) -> &'static [&'static str] {
    match resource {
        Resource::Services => {
            &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"]
        }
        Resource::EndpointSlices | Resource::Events => &["metadata.name", "metadata.namespace"],
        Resource::Nodes | Resource::ServiceCidrs => &["metadata.name"],
    }
}

/// Splits at the commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(|character| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
    .collect()
}

fn label(text: &str) -> Result<Label, Status> {
    let unreadable = || Status::bad_request(format!("unable to parse requirement: {text:?}"));
    let key = |key: &str| {
        let key = key.trim();
        let valid = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        (!key.is_empty() && key.chars().all(valid)).then(|| key.to_owned()).ok_or_else(unreadable)
    };
    let values = |list: &str| {
        let list = list.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        list.map(|list| list.split(',').map(|value| value.trim().to_owned()).collect())
            .ok_or_else(unreadable)
    };
    if let Some((name, list)) = text.split_once(" notin ") {
        return Ok(Label::NotIn(key(name)?, values(list)?));
    }
    if let Some((name, list)) = text.split_once(" in ") {
        return Ok(Label::In(key(name)?, values(list)?));
    }
    if let Some((name, value)) = text.split_once("!=") {
        return Ok(Label::NotIn(key(name)?, vec![value.trim().to_owned()]));
    }
    if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Label::In(key(name)?, vec![value.trim().to_owned()]));
    }
    match text.strip_prefix('!') {
        Some(name) => Ok(Label::Absent(key(name)?)),
        None => Ok(Label::Present(key(text)?)),
    }
}

fn field(text: &str) -> Result<Field, Status> {
    let (path, value, equal) = if let Some((path, value)) = text.split_once("!=") {
        (path, value, false)
    } else if let Some((path, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (path, value, true)
    } else {
        return Err(Status::bad_request(format!(
            "invalid selector: {text:?}; can't understand {text:?}"
        )));
    };
    Ok(Field { path: path.trim().to_owned(), value: value.trim().to_owned(), equal })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(selector: &str, labels: &Value) -> bool {
        let object = json!({ "metadata": { "labels": labels } });
        Selector::parse(Resource::Services, selector, "").unwrap().matches(&object)
    }

    #[test]
    fn presence_ignores_the_value() {
        let labelled = json!({ "service.kubernetes.io/headless": "" });
        assert!(labels("service.kubernetes.io/headless", &labelled));
        assert!(!labels("!service.kubernetes.io/headless", &labelled));
        assert!(labels("!service.kubernetes.io/headless", &json!({})));
        assert!(labels("!service.kubernetes.io/headless", &Value::Null), "no labels at all");
    }

    #[test]
    fn absence_satisfies_inequality_but_not_equality() {
        for (selector, a, b, none) in [
            ("k=a", true, false, false),
            ("k==a", true, false, false),
            ("k!=a", false, true, true),
            ("k in (a, c)", true, false, false),
            ("k notin (a,c)", false, true, true),
        ] {
            assert_eq!(labels(selector, &json!({ "k": "a" })), a, "{selector} of a");
            assert_eq!(labels(selector, &json!({ "k": "b" })), b, "{selector} of b");
            assert_eq!(labels(selector, &json!({})), none, "{selector} of nothing");
        }
    }

    #[test]
    fn all_requirements_must_hold() {
        assert!(labels("x in (1,2),!y", &json!({ "x": "2" })));
        assert!(!labels("x in (1,2),!y", &json!({ "x": "2", "y": "" })));
        assert!(labels("", &json!({})));
    }

    #[test]
    fn fields_are_compared_as_text() {
        let headless = json!({ "spec": { "clusterIP": "None" } });
        let pending = json!({ "spec": {} });
        let selector = Selector::parse(Resource::Services, "", "spec.clusterIP!=None").unwrap();
        assert!(!selector.matches(&headless));
        assert!(selector.matches(&pending));
        let selector = Selector::parse(Resource::Nodes, "", "metadata.name=n1").unwrap();
        assert!(selector.matches(&json!({ "metadata": { "name": "n1" } })));
        assert!(!selector.matches(&json!({ "metadata": { "name": "n2" } })));
    }

    #[test]
    fn invalid_selectors_are_refused() {
        for (labels, fields) in [
            ("a b", ""),
            ("k in a", ""),
            ("=v", ""),
            ("!", ""),
            ("", "metadata.name"),
            ("", "spec.externalName=x"),
        ] {
            let refused = Selector::parse(Resource::Services, labels, fields);
            assert_eq!(refused.map(|_| ()).unwrap_err().code, 400, "{labels:?} {fields:?}");
        }
    }
}
