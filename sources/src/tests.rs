//! For the tests of several modules: texts of manifests and their problems, and a system without
//! authorities.

use std::process::Command;

use crate::decode::Decoded;
use crate::decode::intern::Interner;
use crate::manifests::text::{Format, decode};

pub(crate) fn yaml(text: &str) -> Decoded {
    decode(&"web.yaml".into(), text.as_bytes(), Format::Yaml, &mut Interner::default())
}

pub(crate) fn json(text: &str) -> Decoded {
    decode(&"web.json".into(), text.as_bytes(), Format::Json, &mut Interner::default())
}

/// Returns the problems as they are printed.
pub(crate) fn problems(decoded: &Decoded) -> Vec<String> {
    decoded.problems.iter().map(ToString::to_string).collect()
}

/// Returns a Service `default/{name}` with an address and a port.
pub(crate) fn plain(name: &str, port: u16) -> String {
    // An unquoted `y` is a flag in YAML.
    let name = if name == "y" { "'y'" } else { name };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n\
         spec:\n  clusterIP: 10.90.0.10\n  ports:\n  - port: {port}\n"
    )
}

/// Runs tests of this crate in a process for which the system has no authorities.
pub(crate) fn pass_without_authorities(tests: &[String]) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(tests).arg("--exact").env("SSL_CERT_DIR", directory.path());
    let output = command.env_remove("SSL_CERT_FILE").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = format!("{} passed", tests.len());
    assert!(output.status.success() && text.contains(&passed), "{text}");
}
