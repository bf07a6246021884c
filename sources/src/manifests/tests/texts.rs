use super::{json, plain, problems, yaml};

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
