//! Whatever is read here is what the parser of all of YAML reads.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::read;
use crate::decode::document::Document;
use crate::decode::field::Field;
use crate::manifests::text::yaml::{is_idle, limits, split};

/// Compares both parsers; returns whether the document was read here.
fn is_read(text: &str) -> bool {
    let Some(plain) = read::<Value>(text) else { return false };
    let whole: Value = serde_saphyr::from_str_with_options(text, limits())
        .unwrap_or_else(|error| panic!("only one reads this: {error}\n{text}"));
    assert_eq!(plain, whole, "{text}");
    let plain = read::<Field<Box<Document>>>(text);
    let whole: Field<Box<Document>> = serde_saphyr::from_str_with_options(text, limits()).unwrap();
    assert_eq!(format!("{plain:?}"), format!("{:?}", Some(whole)), "{text}");
    true
}

/// As `kubectl get -o yaml` writes a Service that was applied.
const OF_KUBECTL: &str = r#"apiVersion: v1
kind: Service
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"v1","kind":"Service","metadata":{"annotations":{},"name":"web"}}
  creationTimestamp: "2026-11-30T22:10:00Z"
  labels:
    app.kubernetes.io/name: web
  name: web
  namespace: default
  resourceVersion: "1234"
  uid: 0e4d0c0a-5f0e-4b6e-9d7b-0a3c7a1b2c3d
spec:
  clusterIP: 10.96.0.10
  clusterIPs:
  - 10.96.0.10
  - fd00:10:96::a
  internalTrafficPolicy: Cluster
  ports:
  - name: http
    port: 80
    protocol: TCP
    targetPort: 8080
  selector:
    app.kubernetes.io/name: web
  type: ClusterIP
status:
  loadBalancer: {}
"#;

/// As people write.
const OF_PEOPLE: &str = "---
# What serves the web.
apiVersion: v1
kind: Service   # not headless
metadata: {name: web, labels: {app: web, \"tier\": 'front end'}}
spec:
    selector:
        app: web

    ports:
      - {name: http, port: 80, targetPort: http}
      -   name: https
          port: 443
    externalIPs: [192.0.2.1, \"2001:db8::1\"]
    loadBalancerSourceRanges: []
    nothing:
    publishNotReadyAddresses: yes
";

const OF_A_POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  containers:
  - name: a
    image: registry.example/web:1.27
    args:
    - --listen=0.0.0.0:80
    - --name=a b, [c] {d} \"e\"
    command: [sh, -c, \"sleep 1\"]
    resources:
      limits: {cpu: 100m, memory: 64Mi}
    livenessProbe:
      httpGet: {path: /healthz, port: 80}
  restartPolicy: Always
status:
  podIP: 10.244.0.5
  phase: Running
  conditions:
  - type: Ready
    status: \"True\"
    lastTransitionTime: 2026-11-30T22:10:00Z
";

#[test]
fn what_kubectl_and_people_write_is_plain() {
    for text in [OF_KUBECTL, OF_PEOPLE, "- a\n- b: 1\n  c:\n  - d\n"] {
        assert!(is_read(text), "{text}");
    }
    // A part of it is not: a dash and a letter may be a negative number.
    assert!(!is_read(OF_A_POD));
    assert!(is_read(&OF_A_POD.replace("sh, -c", "sh")));
    let value: Value = read("a: {b: [1, no, x]}\nc: |-\n  1\n\n  2\n\nd:\n").unwrap();
    assert_eq!(value, json!({"a": {"b": [1, false, "x"]}, "c": "1\n\n2", "d": null}));
}

/// All of a file may be in one line. In proportion to its square, this would take minutes.
#[test]
fn a_long_line_is_read_in_proportion_to_its_length() {
    let text = format!("a: [{}1]\n", "{\"b\": 'c', d: [e]}, ".repeat(100_000));
    let value: Value = read(&text).unwrap();
    assert_eq!(value["a"].as_array().unwrap().len(), 100_001);
}

#[test]
fn what_is_unusual_or_wrong_is_refused() {
    let texts = [
        "",
        "a",
        "a: b: c\n",
        "a: 1\na: 2\n",
        "a: 1\n\"a\": 2\n",
        "a: {b: 1, b: 2}\n",
        "a: &x 1\n",
        "a: *x\n",
        "a: !!str 1\n",
        "a: >\n  folded\n",
        "a: |2\n   x\n",
        "a: |\n  x",
        "a: b\n  c\n",
        "a:\n  b\n",
        "a: 1\n b: 2\n",
        " a: 1\nb: 2\n",
        "a:\n  b: 1\n c: 2\n",
        "a: [1,\n  2]\n",
        "a: [1, 2,]\n",
        "a: [1 2]\n",
        "a: {b}\n",
        "a: {b: }\n",
        "a: {b:1}\n",
        "a: \"\\n\"\n",
        "a: 'it''s'\n",
        "a: \"b\n  c\"\n",
        "a: \"b\" c\n",
        "a: \"b\"#c\n",
        "a: [b]c\n",
        "a: b:\n",
        "y: 1\n",
        "80: 1\n",
        "<<: {a: 1}\n",
        "? a\n: b\n",
        "-\n  a\n",
        "- - a\n",
        "-a\n",
        "a:\t1\n",
        "a: 1\r\n",
        "a: é\n",
        "a: -1\n",
        "a: ~\n",
        "a: 0x1\n",
        "--- a\n",
        "%YAML 1.1\n---\na: 1\n",
        "a: 1\n...\n",
        "a: @b\n",
        "a: `b`\n",
        "a: %b\n",
    ];
    for text in texts {
        assert!(!is_read(text), "{text}");
    }
    let deep = format!("a: {}{}\n", "[".repeat(super::DEEPEST), "]".repeat(super::DEEPEST));
    assert!(!is_read(&deep));
    assert!(is_read(&deep.replacen("[]", "", 1).replacen("[[", "[", 1).replacen("]]", "]", 1)));
    let many: String = (0..100).map(|number| format!("a{number}: 1\n")).collect();
    assert!(!is_read(&many), "yaml finds keys that are there twice");
}

/// The characters that mean something, and some that do not.
const PIECES: &[&str] = &[
    "\n",
    "\n  ",
    "\n    ",
    "\n- ",
    "\n  - ",
    " ",
    "  ",
    ":",
    ": ",
    "- ",
    "-",
    "#",
    " # c",
    ",",
    ", ",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "|",
    "|\n",
    "|-\n",
    "a",
    "b: ",
    "key: 1\n",
    "no",
    "null",
    "7",
    "0",
    "1.5",
    "10.0.0.1",
    "fd00::1",
    "::",
    "2026-01-01",
    "?",
    "*",
    "&a ",
    "!",
    "~",
    "x y",
    "--a=b",
    "---\n",
];

#[test]
fn random_changes_of_plain_texts_mean_the_same_to_both_parsers() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |sides: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % sides.max(1) as u64) as usize
    };
    let (mut read, mut refused) = (0, 0);
    for round in 0..20_000 {
        let mut text = [OF_KUBECTL, OF_PEOPLE, OF_A_POD][round % 3].replace("sh, -c", "sh");
        for _ in 0..=roll(3) {
            let from = roll(text.len());
            let to = (from + roll(12)).min(text.len());
            let piece = if roll(4) == 0 { "" } else { PIECES[roll(PIECES.len())] };
            let to = if roll(2) == 0 { from } else { to };
            text.replace_range(from..to, piece);
        }
        // Each document alone, as they are read.
        for (_, document) in split(&text) {
            let count = if is_read(document) { &mut read } else { &mut refused };
            *count += 1;
        }
    }
    // Texts of nothing else, too.
    for _ in 0..40_000 {
        let text: String = (0..1 + roll(10)).map(|_| PIECES[roll(PIECES.len())]).collect();
        for (_, document) in split(&text) {
            is_read(document);
        }
    }
    assert!(read > 2_000 && refused > 2_000, "{read} read, {refused} refused");
}

#[test]
fn the_manifests_of_this_project_mean_the_same_to_both_parsers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut directories: Vec<_> =
        ["tests", "deploy", "fuzz/corpus/manifest_yaml"].map(|it| root.join(it)).into();
    let (mut read, mut all) = (0, 0);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else { continue };
            // All kinds of texts are compared, and manifests are counted.
            let is_manifest = path.extension().is_some_and(|it| it == "yaml");
            for (_, document) in split(&text).filter(|(_, text)| !text.lines().all(is_idle)) {
                let is_read = is_read(document);
                all += usize::from(is_manifest);
                read += usize::from(is_manifest && is_read);
            }
        }
    }
    assert!(read * 2 > all, "{read} of {all}");
}
