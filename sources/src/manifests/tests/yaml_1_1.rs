//! Texts that YAML 1.1 and 1.2 read differently, which are read as kubectl does; and files that are
//! concatenated.

use rulec_compiler::object::{Object, TargetPort};

use super::{json, plain, problems, yaml};

fn with_port(port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
         spec: {{clusterIP: 1.2.3.4, ports: [{{port: {port}}}]}}\n"
    )
}

#[test]
fn boolean_words_are_read_as_booleans() {
    let yes = ["true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y"];
    let no = ["false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N"];
    for (words, want) in [(yes, true), (no, false)] {
        for word in words {
            let decoded = yaml(&format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
                 spec: {{clusterIP: None, publishNotReadyAddresses: {word}}}\n"
            ));
            assert_eq!(problems(&decoded), [""; 0], "of {word}");
            let Object::Service(web) = &decoded.objects[0] else { panic!("{decoded:?}") };
            assert_eq!(web.publish_not_ready, want, "of {word}");
        }
    }
    for word in ["'yes'", "\"on\"", "truly", "1"] {
        let decoded = yaml(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
             spec: {{clusterIP: None, publishNotReadyAddresses: {word}}}\n"
        ));
        assert_eq!(decoded.broken.len(), 1, "of {word}");
    }
}

#[test]
fn unquoted_boolean_words_are_not_strings() {
    for word in ["no", "y", "Off"] {
        let text = |label: &str| {
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{x: {label}}}}}\n")
        };
        let all = problems(&yaml(&text(word)));
        assert_eq!(all.len(), 1, "of {word}: {all:?}");
        assert!(all[0].contains("metadata.labels.x: expected a string, found true or false"));
        assert!(all[0].contains("without quotes"), "{all:?}");
        assert_eq!(problems(&yaml(&text(&format!("'{word}'")))), [""; 0]);
    }
}

#[test]
fn numbers_are_read_as_by_kubectl() {
    let good = [
        ("80", 80),
        ("+80", 80),
        ("0120", 80),
        ("010", 8),
        ("0080", 80),
        ("089", 89),
        ("0o120", 80),
        ("0x50", 80),
        ("0b1010000", 80),
        ("1_000", 1000),
        ("80.0", 80),
        ("80.", 80),
        ("8e1", 80),
        ("8.0e+1", 80),
    ];
    for (text, want) in good {
        let decoded = yaml(&with_port(text));
        assert_eq!(problems(&decoded), [""; 0], "of {text}");
        let Object::Service(web) = &decoded.objects[0] else { panic!("{decoded:?}") };
        assert_eq!(web.ports[0].port.get(), want, "of {text}");
        assert_eq!(web.ports[0].target, TargetPort::Number(web.ports[0].port), "of {text}");
    }
    let bad = [
        ("80.5", "expected a number, found a fraction"),
        ("'80'", "expected a number, found a string"),
        ("080x", "expected a number, found a string"),
        ("0200000", "65536 is not in 1..65535"),
        ("99999999999999999999", "expected a number, found a number that is too large"),
        ("1e300", "expected a number, found a number that is too large"),
        ("-010", "-8 is not in 1..65535"),
    ];
    for (text, message) in bad {
        let all = problems(&yaml(&with_port(text)));
        assert_eq!(all.len(), 1, "of {text}: {all:?}");
        assert!(all[0].ends_with(&format!("spec.ports[0].port: {message}")), "{all:?}");
    }
    let name = "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME}\n";
    for text in ["010", "80.0", "0080"] {
        let all = problems(&yaml(&name.replace("NAME", text)));
        assert!(all[0].ends_with("metadata.name: expected a string, found a number"), "{all:?}");
    }
}

#[test]
fn whole_numbers_may_have_a_fraction_in_json_too() {
    let text = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},
        "spec":{"clusterIP":"1.2.3.4","ports":[{"port":80.0}]}}"#;
    assert_eq!(problems(&json(text)), [""; 0]);
}

fn names(decoded: &crate::decode::Decoded) -> Vec<String> {
    decoded.objects.iter().map(|object| object.key().to_string()).collect()
}

#[test]
fn a_byte_order_mark_may_begin_any_document() {
    let (a, b) = (plain("a", 1), plain("b", 2));
    let texts = [
        format!("\u{feff}{a}---\n\u{feff}{b}"),
        format!("\u{feff}{a}\u{feff}---\n{b}"),
        format!("{a}--- # of Windows\n# a comment\n\u{feff}{b}"),
        format!("{a}...\n\u{feff}{b}"),
        format!("\u{feff}{a}---\n\u{feff}---\n{b}"),
        format!("\u{feff}{a}---\r\n\u{feff}{}", b.replace('\n', "\r\n")),
    ];
    for text in texts {
        let decoded = yaml(&text);
        assert_eq!(problems(&decoded), [""; 0], "of {text:?}");
        assert_eq!(names(&decoded), ["Service default/a", "Service default/b"], "of {text:?}");
    }
    // Lines are counted from the beginning of the file.
    let broken = b.replace("port: 2", "port: 0");
    let all = problems(&yaml(&format!("{a}---\n\u{feff}{broken}")));
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].starts_with("web.yaml:17:11: "), "{all:?}");
}

#[test]
fn document_markers_may_separate_json_documents() {
    let one = |name: &str| {
        format!(
            "{{\n \"apiVersion\": \"v1\",\n \"kind\": \"Pod\",\n \"metadata\": {{\"name\": {name}}}\n}}\n"
        )
    };
    let (a, b) = (one("\"a\""), one("\"b\""));
    let texts = [
        format!("{a}---\n{b}"),
        format!("---\n{a}---\n\n---\n{b}---\n"),
        format!("{a}...\n---\n{b}..."),
        format!("{a}---\r\n{b}"),
        format!("{a}---\n\u{feff}{b}"),
        format!("{a}{b}"),
    ];
    for text in texts {
        let decoded = json(&text);
        assert_eq!(problems(&decoded), [""; 0], "of {text:?}");
        assert_eq!(names(&decoded), ["Pod default/a", "Pod default/b"], "of {text:?}");
    }
    let all = problems(&json(&format!("{a}---\n{}", one("7"))));
    assert_eq!(all, ["web.json:10:23: metadata.name: expected a string, found a number"]);
    let all = problems(&json(&format!("{a}---\n{{\n\"kind\": x}}\n")));
    assert_eq!(all, ["web.json:8:9: not JSON: expected value"]);
}
