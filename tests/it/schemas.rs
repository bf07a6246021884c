//! docs/schemas: every JSON that the program prints in these tests is valid by its schema, which
//! allows no field that it does not describe.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod validator;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};

use validator::{check_schema, validate};

/// The schema of each kind of document.
const KINDS: [(&str, &str); 15] = [
    ("Change", "history.json"),
    ("ChangeList", "history.json"),
    ("Check", "check.json"),
    ("Diff", "diff.json"),
    ("EndpointList", "show.json"),
    ("Explanation", "explain.json"),
    ("ExplanationList", "explain.json"),
    ("NodeList", "show.json"),
    ("Recording", "recording.json"),
    ("ServiceList", "show.json"),
    ("SourceList", "show.json"),
    ("Status", "status.json"),
    ("Trace", "trace.json"),
    ("Traffic", "traffic.json"),
    ("", "check-sarif.json"),
];

/// The document that describes the fields of a schema, if they are not those of a standard.
const DOCUMENTS: [(&str, &str); 9] = [
    ("check.json", "docs/check-json.md"),
    ("diff.json", "docs/diff-json.md"),
    ("explain.json", "docs/explain-json.md"),
    ("history.json", "docs/watch.md"),
    ("recording.json", "docs/recording.md"),
    ("show.json", "docs/show.md"),
    ("status.json", "docs/show.md"),
    ("trace.json", "docs/trace.md"),
    ("traffic.json", "docs/traffic.md"),
];

static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let schema = serde_json::from_str(&text);
        (name, schema.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    };
    files.map(read).collect()
});

/// Checks what the program has printed where it prints a document.
#[track_caller]
pub(crate) fn check_document(text: &str) {
    let document = serde_json::from_str(text);
    check(&document.unwrap_or_else(|error| panic!("{error} in what is to be JSON: {text}")));
}

/// Checks what the program has printed, if it is one of its documents.
#[track_caller]
pub(crate) fn check_output(text: &str) {
    if !text.starts_with('{') {
        return;
    }
    // Not the log, which is one object in each line, and nothing that was cut off on purpose.
    let Ok(document) = serde_json::from_str::<Value>(text) else { return };
    if is_whole(&document) {
        check(&document);
    }
}

/// Returns whether something is a document of the program, and not a part of one.
fn is_whole(document: &Value) -> bool {
    let is_sarif = document.get("runs").is_some();
    let version = document.get("apiVersion").and_then(Value::as_str);
    is_sarif || version.is_some_and(|it| it.starts_with("rulec.io/"))
}

#[track_caller]
fn check(document: &Value) {
    if let Err(error) = errors(document) {
        panic!("{error}\nThe document, by docs/schemas: {document:#}");
    }
}

fn errors(document: &Value) -> Result<(), String> {
    let kind = document["kind"].as_str().unwrap_or_default();
    let found = KINDS.iter().find(|(name, _)| *name == kind);
    let (_, file) = found.ok_or_else(|| format!("the kind {kind:?} has no schema"))?;
    validate(&SCHEMAS[*file], document).map_err(|error| format!("{file}: {error}"))
}

/// Also a keyword that the validator does not know is an error: it would check nothing.
#[test]
fn the_schemas_are_schemas() {
    let files: BTreeSet<&str> = KINDS.iter().map(|(_, file)| *file).collect();
    assert_eq!(SCHEMAS.keys().map(String::as_str).collect::<BTreeSet<_>>(), files);
    for (file, schema) in &*SCHEMAS {
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{file}");
        check_schema(schema).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// Each schema is complete in itself. What two of them have in common is the same.
#[test]
fn definitions_of_one_name_are_the_same() {
    let mut known: BTreeMap<&String, &Value> = BTreeMap::new();
    for (file, schema) in &*SCHEMAS {
        for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
            let other = known.insert(name, definition);
            assert!(other.is_none_or(|it| it == definition), "{file}: {name}");
        }
    }
    assert!(known.contains_key(&"source".to_owned()));
}

/// Returns the names of all properties of a schema.
fn properties<'a>(schema: &'a Value, names: &mut BTreeSet<&'a str>) {
    match schema {
        Value::Object(members) => {
            let own = members.get("properties").and_then(Value::as_object);
            names.extend(own.into_iter().flatten().map(|(name, _)| name.as_str()));
            members.values().for_each(|it| properties(it, names));
        }
        Value::Array(all) => all.iter().for_each(|it| properties(it, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_field_is_in_its_document() {
    for (file, document) in DOCUMENTS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
        let text = fs::read_to_string(path).unwrap();
        let words: BTreeSet<&str> = text.split(|it: char| !it.is_ascii_alphanumeric()).collect();
        let mut names = BTreeSet::new();
        properties(&SCHEMAS[file], &mut names);
        assert!(names.len() > 10, "{file}: {names:?}");
        for name in names {
            assert!(words.contains(name), "{document} does not describe {name} of {file}");
        }
        assert!(text.contains(&format!("schemas/{file}")), "{document} does not name {file}");
    }
}

#[test]
fn every_golden_document_is_valid() {
    let mut kinds = BTreeSet::new();
    let mut read = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        // After the head of a snapshot.
        let Some((_, body)) = text.split_once("\n---\n") else { return };
        let Ok(document) = serde_json::from_str::<Value>(body) else { return };
        if !is_whole(&document) {
            return;
        }
        if let Err(error) = errors(&document) {
            panic!("{}: {error}", path.display());
        }
        kinds.insert(document["kind"].as_str().unwrap_or_default().to_owned());
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut directories = vec![root.join("golden"), root.join("it")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|it| it == "snap") {
                read(&path);
            }
        }
    }
    for kind in ["Check", "Diff", "EndpointList", "NodeList", "ServiceList", "SourceList", ""] {
        assert!(kinds.contains(kind), "no golden document of kind {kind:?}: {kinds:?}");
    }
}

/// What the schemas are for.
#[test]
fn a_field_that_is_missing_unknown_or_of_another_type_is_found() {
    let good = json!({
        "apiVersion": "rulec.io/v1alpha1",
        "kind": "Check",
        "summary": {"files": 1, "errors": 0, "warnings": 0, "notes": 1, "complete": true},
        "findings": [{
            "rule": "not-read", "severity": "note", "file": "a.yaml", "line": 1, "message": "x",
        }],
    });
    check(&good);
    for (pointer, value, expected) in [
        ("/summary", json!({"files": 1}), "/summary: errors is missing"),
        ("/summary/files", json!("1"), "/summary/files: \"1\" is no integer"),
        ("/summary/files", json!(-1), "/summary/files: -1 is less than 0"),
        ("/findings/0/line", json!(0), "/findings/0/line: 0 is less than 1"),
        ("/findings/0/severity", json!("bad"), "/findings/0/severity: \"bad\" is none of"),
        ("/findings/0", json!({}), "/findings/0: rule is missing"),
        ("/findings", json!({}), "/findings: {} is no array"),
        ("/kind", json!("Nothing"), "the kind \"Nothing\" has no schema"),
    ] {
        let mut document = good.clone();
        *document.pointer_mut(pointer).unwrap() = value;
        let error = errors(&document).expect_err(pointer);
        assert!(error.contains(expected), "{error}");
    }
    let mut document = good;
    document["findings"][0]["colour"] = "red".into();
    let error = errors(&document).expect_err("an unknown field");
    assert_eq!(error, "check.json: /findings/0: colour is not described");
}
