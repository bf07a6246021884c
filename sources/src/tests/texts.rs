use super::{json, plain, problems, yaml};
use crate::address::{parse_ip, parse_range};
use crate::intern::Interner;
use crate::problem::{Problem, Severity};

fn names(decoded: &crate::decode::Decoded) -> Vec<String> {
    decoded.objects.iter().map(|object| object.key().to_string()).collect()
}

#[test]
fn a_yaml_file_may_hold_several_documents() {
    let text = format!(
        "# a comment\n%YAML 1.2\n---\n{}--- # another\n{}...\n---\n\n---\n# nothing\n---\n{}",
        plain("a", 1),
        plain("b", 2),
        plain("c", 3)
    );
    let decoded = yaml(&text);
    assert_eq!(problems(&decoded), [""; 0]);
    assert_eq!(names(&decoded), ["Service default/a", "Service default/b", "Service default/c"]);
}

#[test]
fn line_ends_and_byte_order_marks_do_not_matter() {
    let text = format!("\u{feff}{}---\n{}", plain("a", 1), plain("b", 2));
    assert_eq!(names(&yaml(&text)).len(), 2);
    let windows = text.replace('\n', "\r\n");
    assert_eq!(yaml(&windows).objects, yaml(&text).objects);
}

#[test]
fn dashes_inside_a_string_are_not_a_marker() {
    let text = "apiVersion: v1\nkind: ConfigMap\ndata:\n  a: |\n    ---\n    x\n  b: '--- y'\n";
    let decoded = yaml(&format!("{text}---\n{}", plain("a", 1)));
    assert_eq!(problems(&decoded), [""; 0]);
    assert_eq!(names(&decoded), ["Service default/a"]);
}

#[test]
fn a_json_file_may_hold_several_documents() {
    let one = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"NAME"}}"#;
    let text = format!("{}{}\n\n{}\n", one.replace("NAME", "a"), one.replace("NAME", "b"), one);
    assert_eq!(names(&json(&text)), ["Pod default/a", "Pod default/b", "Pod default/NAME"]);
    assert!(json(" \n ").blank);
}

#[test]
fn problems_name_their_line_and_column() {
    let text = format!(
        "{}---\n# the second\napiVersion: v1\nkind: Service\nmetadata:\n  name: b\nspec:\n  clusterIP: None\n  ports:\n  - name: x\n    port: 70000\n",
        plain("a", 1)
    );
    assert_eq!(
        problems(&yaml(&text)),
        ["web.yaml:19:11: Service default/b: spec.ports[0].port: 70000 is not in 1..65535"]
    );
    let text = "\n{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}}\n{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": 7}\n}\n";
    assert_eq!(
        problems(&json(text)),
        ["web.json:6:23: metadata.name: expected a string, found a number"]
    );
}

#[test]
fn syntax_errors_name_their_position() {
    let decoded = yaml(&format!("{}---\nkind: [a\nb: c\n", plain("a", 1)));
    let all = problems(&decoded);
    assert!(decoded.unreadable);
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].starts_with("web.yaml:1"), "{all:?}");
    assert!(all[0].contains(": not YAML: "), "{all:?}");

    let decoded = yaml("kind: a\nkind: b\n");
    assert!(decoded.unreadable);
    assert!(
        problems(&decoded)[0].starts_with("web.yaml:2:1: not YAML: "),
        "{:?}",
        problems(&decoded)
    );

    let decoded = json("{\"kind\": \"Pod\",\n\"a\" 1}");
    assert!(decoded.unreadable);
    assert_eq!(problems(&decoded), ["web.json:2:5: not JSON: expected `:`"]);

    for text in ["just a word\n", "- a\n- b\n", "7\n"] {
        let decoded = yaml(text);
        assert!(decoded.unreadable, "of {text}");
        assert_eq!(decoded.problems.len(), 1, "of {text}");
    }
}

#[test]
fn addresses_are_parsed_as_in_kubernetes() {
    let good = [
        ("10.0.0.1", "10.0.0.1"),
        ("010.000.00.08", "10.0.0.8"),
        ("0000000000001.2.3.4", "1.2.3.4"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
    ];
    for (text, want) in good {
        assert_eq!(parse_ip(text), Some(want.parse().unwrap()), "of {text}");
    }
    let bad = [
        "",
        ".",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.-4",
        "1.2.3.+4",
        "1..2.3",
        "a",
        "1.2.3.4 ",
        "fe80::1%eth0",
        ":",
        "0x1.2.3.4",
        "99999999999.1.1.1",
    ];
    for text in bad {
        assert_eq!(parse_ip(text), None, "of {text:?}");
    }
    let good = [
        ("203.0.113.000/025", "203.0.113.0/25"),
        (" 10.1.2.3/8\n", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("fd00::1/64", "fd00::/64"),
        ("::/0", "::/0"),
    ];
    for (text, want) in good {
        assert_eq!(parse_range(text), Some(want.parse().unwrap()), "of {text}");
    }
    for text in [
        "",
        "/",
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/",
        "fd00::/129",
        "x/8",
        "10.0.0.0/8/8",
    ] {
        assert_eq!(parse_range(text), None, "of {text:?}");
    }
}

#[test]
fn strings_are_shared_and_dropped_when_unused() {
    let mut interner = Interner::default();
    let kept = interner.get("kept");
    assert!(std::sync::Arc::ptr_eq(&kept, &interner.get("kept")));
    for number in 0..5000 {
        interner.get(&number.to_string());
    }
    interner.tidy();
    assert_eq!(interner.len(), 1);
    assert_eq!(&*interner.get("kept"), "kept");
}

#[test]
fn a_problem_prints_its_known_fields() {
    let mut problem = Problem::of_file(&"web.yaml".into(), Severity::Error, "no");
    assert_eq!(problem.to_string(), "web.yaml: no");
    problem.line = Some(12);
    assert_eq!(problem.to_string(), "web.yaml:12: no");
    problem.column = Some(7);
    problem.object = Some("Service default/web".to_owned());
    problem.message = "spec.ports[0].port: 70000 is not in 1..65535".to_owned();
    assert_eq!(
        problem.to_string(),
        "web.yaml:12:7: Service default/web: spec.ports[0].port: 70000 is not in 1..65535"
    );
}
