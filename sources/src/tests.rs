//! Texts of manifests and their problems, for the tests of `decode` and `manifests`.

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
