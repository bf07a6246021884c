//! Tests of every field and every flag.

use super::{errors, load, load_file, printed};
use crate::config::fields::{FIELDS, Field, Role};
use crate::config::value::FieldType;

/// Returns a value other than the default, as it is written in a file and on a command line.
fn sample(field: &Field) -> (&'static str, &'static str) {
    match (field.path, field.kind) {
        ("hostnameOverride", _) => ("other", "other"),
        ("bindAddress", _) => ("10.0.0.1", "10.0.0.1"),
        ("healthzBindAddress" | "metricsBindAddress", _) => ("10.0.0.1:8", "10.0.0.1:8"),
        ("logging.format", _) => ("json", "json"),
        ("mode", _) => ("ipvs", "ipvs"),
        ("ipvs.scheduler", _) => ("lc", "lc"),
        ("detectLocalMode", _) => ("NodeCIDR", "NodeCIDR"),
        ("clusterCIDR", _) => ("10.0.0.0/8", "10.0.0.0/8"),
        ("nodePortAddresses" | "ipvs.excludeCIDRs", _) => ("[10.0.0.0/8]", "10.0.0.0/8"),
        (_, FieldType::Bool) if field.default == "true" => ("false", "false"),
        (_, FieldType::Bool) => ("true", "true"),
        (_, FieldType::Int | FieldType::Number) => ("7", "7"),
        (_, FieldType::Duration) => ("7s", "7s"),
        (_, FieldType::Text) => ("text", "text"),
        (_, FieldType::List) => ("[text]", "text"),
        (_, FieldType::Gates) => ("{Gate: true}", "Gate=true"),
        (_, FieldType::Any) => ("[{a: 1}]", "text"),
    }
}

/// Returns what must be set for a field to have an effect, in a file and on a command line.
fn condition(field: &Field) -> (&'static str, &'static [&'static str]) {
    match field.path {
        "mode" => ("", &[]),
        "detectLocal.bridgeInterface" => (
            "mode: nftables\ndetectLocalMode: BridgeInterface\n",
            &["--proxy-mode=nftables", "--detect-local-mode=BridgeInterface"],
        ),
        "detectLocal.interfaceNamePrefix" => (
            "mode: nftables\ndetectLocalMode: InterfaceNamePrefix\n",
            &["--proxy-mode=nftables", "--detect-local-mode=InterfaceNamePrefix"],
        ),
        path if path.starts_with("iptables.") => ("mode: iptables\n", &["--proxy-mode=iptables"]),
        path if path.starts_with("ipvs.") => ("mode: ipvs\n", &["--proxy-mode=ipvs"]),
        _ => ("mode: nftables\n", &["--proxy-mode=nftables"]),
    }
}

/// Returns a file with one field, and the line of that field.
fn file(before: &str, path: &str, value: &str) -> (String, usize) {
    let mut text = before.to_owned();
    for (depth, key) in path.split('.').enumerate() {
        let end = if text.ends_with(":\n") || text.ends_with('\n') || text.is_empty() {
            ""
        } else {
            "\n"
        };
        text += &format!("{end}{}{key}:\n", "  ".repeat(depth));
    }
    let text = format!("{} {value}\n", text.trim_end());
    let line = text.lines().count() + 2;
    (text, line)
}

/// Returns the warnings that are not about the mode itself.
fn warnings(loaded: &crate::config::Loaded) -> Vec<String> {
    let is_of_mode =
        |text: &String| text.contains(" mode: is ") || text.starts_with("--proxy-mode: is ");
    printed(&loaded.warnings).into_iter().filter(|text| !is_of_mode(text)).collect()
}

fn in_files() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(|field| field.in_file())
}

#[test]
fn a_wrong_type_is_refused_with_the_line_and_the_path() {
    for field in in_files().filter(|field| field.kind != FieldType::Any) {
        let (text, line) = file("", field.path, "[{wrong: 1}]");
        let errors = errors(load_file(&text));
        let expected = format!("proxy.conf:{line}: {}: must be ", field.path);
        assert!(errors.iter().any(|error| error.starts_with(&expected)), "{errors:?}");
    }
}

#[test]
fn a_wrong_value_of_a_flag_is_refused_by_its_name() {
    for field in FIELDS.iter().filter(|field| !field.flag.is_empty()) {
        let typed = matches!(
            field.kind,
            FieldType::Bool
                | FieldType::Int
                | FieldType::Number
                | FieldType::Duration
                | FieldType::Gates
        );
        // rulec's own flags are checked when they are parsed.
        if !typed || matches!(field.flag, "masquerade-all" | "iptables-masquerade-bit") {
            continue;
        }
        let flag = format!("--{}=wrong", field.flag);
        let errors = errors(load(&["--proxy-mode=nftables", &flag], None));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(&format!("--{}: ", field.flag)), "{errors:?}");
    }
}

#[test]
fn fields_without_effect_are_reported_and_others_take_effect() {
    for field in in_files() {
        let (before, _) = condition(field);
        // The mode of an interface without its name is no valid configuration to compare with.
        let usual = load_file(before).or_else(|_| load_file("mode: nftables\n")).unwrap().config;
        let (text, line) = file(before, field.path, sample(field).0);
        let loaded = load_file(&text).unwrap();
        let warnings = warnings(&loaded);
        match field.role {
            Role::Used | Role::When(_) => {
                assert_ne!(loaded.config, usual, "{}", field.path);
                assert_eq!(warnings, [""; 0]);
            }
            Role::Ignored(reason) => {
                assert_eq!(loaded.config, usual, "{}", field.path);
                let [warning] = warnings.try_into().unwrap();
                assert!(
                    warning.starts_with(&format!("proxy.conf:{line}: {}: ", field.path)),
                    "{warning}"
                );
                assert!(warning.ends_with(&format!("has no effect: {reason}")), "{warning}");
            }
        }
    }
}

#[test]
fn a_field_of_another_mode_is_reported() {
    for field in in_files() {
        let Role::When(condition) = field.role else { continue };
        let before = match field.path {
            "clusterCIDR" => "detectLocalMode: NodeCIDR\n",
            path if path.starts_with("iptables.") => "mode: nftables\n",
            _ => "",
        };
        let (text, line) = file(before, field.path, sample(field).0);
        let warnings = warnings(&load_file(&text).unwrap());
        let expected =
            format!("proxy.conf:{line}: {}: has no effect: used only if {condition}", field.path);
        assert_eq!(warnings, [expected]);
    }
}

#[test]
fn explicit_defaults_cause_no_warning() {
    for field in in_files() {
        let before = if field.path == "mode" { "" } else { "mode: nftables\n" };
        let usual = load_file("mode: nftables\n").unwrap().config;
        let default = match field.kind {
            FieldType::Text | FieldType::Duration | FieldType::Any => {
                format!("{:?}", field.default)
            }
            FieldType::List => "[]".to_owned(),
            FieldType::Gates => "{}".to_owned(),
            FieldType::Bool | FieldType::Int | FieldType::Number => field.default.to_owned(),
        };
        for value in [default.as_str(), "null"] {
            if field.path == "mode" && value == "null" {
                continue;
            }
            let (text, _) = file(before, field.path, value);
            let loaded = load_file(&text).unwrap();
            assert_eq!(warnings(&loaded), [""; 0], "{text}");
            assert_eq!(loaded.config, usual, "{text}");
        }
    }
}

#[test]
fn a_flag_is_equivalent_to_its_field() {
    for field in in_files().filter(|field| !field.flag.is_empty()) {
        let (before, options) = condition(field);
        let (written, typed) = sample(field);
        let (text, _) = file(before, field.path, written);
        let from_file = load_file(&text).unwrap();
        let flag = format!("--{}={typed}", field.flag);
        let all: Vec<&str> = options.iter().copied().chain([flag.as_str()]).collect();
        let from_flags = load(&all, None).unwrap();
        assert_eq!(from_flags.config, from_file.config, "{flag}");
        assert_eq!(warnings(&from_flags).len(), warnings(&from_file).len(), "{flag}");
    }
}
