//! The given values by field, from a file or from the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value as Json;

use crate::config::document::{self, KeyValue, Value};
use crate::config::fields::{FIELDS, Field, Role, Zero, find, is_section};
use crate::config::problem::Problem;
use crate::config::value::Typed;

/// The kind and version that a file must have.
const KIND: &str = "KubeProxyConfiguration";
const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";

/// Where a value was given.
#[derive(Clone, Debug)]
enum Place {
    /// In the file, in this line.
    File(Option<u64>),
    /// By this flag, dashes included.
    Flag(String),
}

#[derive(Clone, Debug)]
struct Given {
    typed: Typed,
    place: Place,
}

/// The given values, with the problems that were found. Fields without a value have their defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    file: Option<Arc<str>>,
    given: BTreeMap<&'static str, Given>,
    /// The fields that were used. Values of others have no effect.
    taken: BTreeSet<&'static str>,
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl Values {
    /// Takes in a file. Returns false if it is not an object, so that nothing else about it
    /// matters.
    pub(crate) fn read(&mut self, name: &str, bytes: &[u8]) -> bool {
        self.file = Some(name.into());
        let problem = |fault: document::SyntaxError| Problem {
            file: Some(name.into()),
            line: fault.line,
            name: String::new(),
            message: fault.message,
        };
        match document::parse(bytes) {
            Ok((entries, twice)) => {
                self.warnings.extend(twice.map(|mut fault| {
                    fault.message += "; the last one counts";
                    problem(fault)
                }));
                self.identify(&entries);
                self.descend("", &entries);
                true
            }
            Err(fault) => {
                self.errors.push(problem(fault));
                false
            }
        }
    }

    fn identify(&mut self, entries: &[KeyValue]) {
        for (key, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
            let entry = entries.iter().find(|entry| entry.key == key);
            let message = match entry.map(|entry| &entry.value) {
                Some(Value::Text(found)) if found == wanted => continue,
                Some(Value::Text(found)) => format!("must be {wanted}, not {found:?}"),
                Some(_) => format!("must be {wanted}"),
                None => format!("is missing; it must be {wanted}"),
            };
            let line = entry.and_then(|entry| entry.line);
            self.errors.push(self.in_file(key, line, message));
        }
    }

    fn descend(&mut self, above: &str, entries: &[KeyValue]) {
        for KeyValue { key, line, value } in entries {
            if above.is_empty() && (key == "apiVersion" || key == "kind") {
                continue;
            }
            let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
            if let Some(field) = find(&path).filter(|field| field.in_file()) {
                self.take_in(field, value, Place::File(*line));
            } else if is_section(&path) {
                if let Value::Map(entries) = value {
                    self.descend(&path, entries);
                } else if !matches!(value, Value::Null) {
                    let message = "must be an object".into();
                    self.errors.push(self.in_file(&path, *line, message));
                }
            } else {
                let message = "unknown field, ignored".into();
                self.warnings.push(self.in_file(&path, *line, message));
            }
        }
    }

    /// Sets the value that the file implies by leaving a field out.
    pub(crate) fn assume(&mut self, path: &'static str, typed: Typed) {
        self.given.entry(path).or_insert(Given { typed, place: Place::File(None) });
    }

    /// Takes in a flag from the command line.
    pub(crate) fn flag(&mut self, field: &'static Field, name: &str, text: &str) {
        let place = Place::Flag(format!("--{name}"));
        self.take_in(field, &Value::Typed(text.to_owned()), place);
    }

    fn take_in(&mut self, field: &'static Field, value: &Value, place: Place) {
        match field.kind.check(value) {
            Ok(Some(typed)) => {
                let is_unset = field.zero == Zero::Unset && typed.is_zero();
                if matches!(place, Place::Flag(_)) || !is_unset {
                    self.given.insert(field.path, Given { typed, place });
                }
            }
            Ok(None) => {}
            Err(message) => {
                let problem = self.problem_at(&place, field.path, message);
                self.errors.push(problem);
            }
        }
    }

    /// Returns whether a field was given a value.
    pub(crate) fn is_given(&self, path: &str) -> bool {
        self.given.contains_key(path)
    }

    /// Returns the value of a field, and notes that it has an effect.
    pub(crate) fn take(&mut self, path: &'static str) -> Option<Typed> {
        self.taken.insert(path);
        self.look(path)
    }

    /// Returns the value of a field without noting an effect, to check it.
    pub(crate) fn look(&self, path: &str) -> Option<Typed> {
        self.given.get(path).map(|given| given.typed.clone()).or_else(|| default(find(path)?))
    }

    /// Notes that the value of a field is invalid.
    pub(crate) fn refuse(&mut self, path: &str, message: impl Into<String>) {
        self.errors.push(self.problem(path, message));
    }

    /// Notes that an element of a list is invalid.
    pub(crate) fn refuse_element(
        &mut self,
        path: &str,
        (index, line): (usize, Option<u64>),
        message: impl Into<String>,
    ) {
        let mut problem = self.problem(path, message);
        if problem.file.is_some() {
            problem.name += &format!("[{index}]");
            problem.line = line.or(problem.line);
        }
        self.errors.push(problem);
    }

    /// Returns whether a field is already known to be invalid.
    pub(crate) fn is_refused(&self, path: &str) -> bool {
        let name = &self.problem(path, "").name;
        self.errors.iter().any(|error| error.name == *name)
    }

    /// Notes that the value of an option without a field is missing or invalid.
    pub(crate) fn refuse_option(&mut self, option: &str, message: impl Into<String>) {
        self.errors.push(option_problem(option, message.into()));
    }

    /// Notes that a flag has no effect because of a file.
    pub(crate) fn overridden(&mut self, name: &str, file: &str) {
        let message = format!("has no effect: {file} is used instead");
        self.warnings.push(option_problem(&format!("--{name}"), message));
    }

    /// Notes that an option without a field has no effect, for a reason.
    pub(crate) fn option_unused(&mut self, option: &str, reason: &str) {
        self.warn_of_option(option, format!("has no effect: {reason}"));
    }

    /// Notes a warning about an option without a field.
    pub(crate) fn warn_of_option(&mut self, option: &str, message: impl Into<String>) {
        self.warnings.push(option_problem(option, message.into()));
    }

    /// Notes a warning for the operator.
    pub(crate) fn warn(&mut self, path: &str, message: impl Into<String>) {
        self.warnings.push(self.problem(path, message));
    }

    fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        let message = message.into();
        match self.given.get(path) {
            Some(given) => self.problem_at(&given.place, path, message),
            None if self.file.is_none() => option_problem(&flag_of(path), message),
            None => self.in_file(path, None, message),
        }
    }

    fn problem_at(&self, place: &Place, path: &str, message: String) -> Problem {
        match place {
            Place::File(line) => self.in_file(path, *line, message),
            Place::Flag(flag) => option_problem(flag, message),
        }
    }

    fn in_file(&self, path: &str, line: Option<u64>, message: String) -> Problem {
        Problem { file: self.file.clone(), line, name: path.to_owned(), message }
    }

    /// Warns of all values that have no effect. Explicit defaults cause no warning.
    pub(crate) fn warn_of_the_rest(&mut self) {
        let mut rest = Vec::new();
        for field in FIELDS.iter().filter(|field| !self.taken.contains(field.path)) {
            let Some(given) = self.given.get(field.path) else { continue };
            let usual = default(field).map(|typed| typed.json());
            if given.typed.is_zero() && field.zero == Zero::Unset
                || usual == Some(given.typed.json())
            {
                continue;
            }
            if let Typed::Gates(gates) = &given.typed {
                for gate in gates.keys() {
                    let message = format!("{gate} has no effect: rulec has no feature gates");
                    rest.push(self.problem(field.path, message));
                }
                continue;
            }
            let message = match field.role {
                Role::Ignored(reason) => format!("has no effect: {reason}"),
                Role::When(condition) => format!("has no effect: used only if {condition}"),
                Role::Used => "has no effect".to_owned(),
            };
            rest.push(self.problem(field.path, message));
        }
        self.warnings.append(&mut rest);
    }

    /// Returns all fields with their effective values, in the form of a file.
    pub(crate) fn effective(&self) -> Json {
        let mut root = Json::Object(serde_json::Map::new());
        root["apiVersion"] = API_VERSION.into();
        root["kind"] = KIND.into();
        for field in FIELDS.iter().filter(|field| field.in_file() && !field.gone) {
            let Some(typed) = self.look(field.path) else { continue };
            let mut at = &mut root;
            for key in field.path.split('.') {
                at = &mut at[key];
            }
            *at = typed.json();
        }
        root
    }
}

fn option_problem(option: &str, message: String) -> Problem {
    Problem { file: None, line: None, name: option.to_owned(), message }
}

/// Returns the flag of a field, with dashes; its path if it has no flag.
pub(crate) fn flag_of(path: &str) -> String {
    match find(path) {
        Some(field) if !field.flag.is_empty() => format!("--{}", field.flag),
        _ => path.to_owned(),
    }
}

fn default(field: &Field) -> Option<Typed> {
    field.kind.typed(field.default).ok()
}
