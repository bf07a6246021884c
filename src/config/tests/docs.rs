//! docs/configuration.md must match the table of fields.

use std::fmt::Write as _;
use std::path::Path;

use crate::config::fields::{FIELDS, Role};

const BEGIN: &str = "<!-- fields: begin -->\n";
const END: &str = "<!-- fields: end -->";

fn table() -> String {
    let mut text = String::from("| Field | Flag | Default | Effect |\n| --- | --- | --- | --- |\n");
    for field in FIELDS {
        let code = |text: &str| {
            if text.is_empty() { String::new() } else { format!("`{text}`") }
        };
        let path = if field.in_file() { code(field.path) } else { String::new() };
        let flag =
            if field.flag.is_empty() { String::new() } else { code(&format!("--{}", field.flag)) };
        let what = match field.role {
            Role::Used => field.note.to_owned(),
            Role::When(condition) => format!("{}; only if {condition}", field.note),
            Role::Ignored(reason) => format!("*no effect*: {reason}"),
        };
        writeln!(text, "| {path} | {flag} | {} | {what} |", code(field.default)).unwrap();
    }
    text
}

/// Write the table again with `RULEC_WRITE_DOCS=1 cargo test -p rulec config::tests::docs`.
#[test]
fn the_documentation_has_the_table_of_fields() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the begin of the table");
    let (_, after) = rest.split_once(END).expect("the end of the table");
    let expected = format!("{before}{BEGIN}{}{END}{after}", table());
    if std::env::var_os("RULEC_WRITE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text == expected, "docs/configuration.md is out of date; RULEC_WRITE_DOCS=1 writes it");
}
