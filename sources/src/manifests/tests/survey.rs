//! What a survey reads: the same as a source, with places, and everything that is wrong.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rulec_compiler::object::Object;

use super::{plain, write};
use crate::manifests::{Node, Reason, Survey, read_all};
use crate::problem::Severity;

fn survey(paths: &[&Path]) -> Survey {
    Survey::of(&paths.iter().map(|path| path.to_path_buf()).collect::<Vec<_>>())
}

/// Returns what was not read, without the directory, and why.
fn passed_over(survey: &Survey, directory: &Path) -> Vec<String> {
    let short = |text: &str| {
        let root = directory.to_string_lossy();
        text.strip_prefix(&*root).unwrap_or(text).trim_start_matches('/').to_owned()
    };
    let why = |reason: &Reason| match reason {
        Reason::Directory(first) => short(first),
        Reason::Names(message) => message.clone(),
        Reason::Tool(tool) => (*tool).to_owned(),
        Reason::Empty => "empty".to_owned(),
    };
    survey
        .passed_over
        .iter()
        .map(|it| format!("{}: {}", short(&it.path), why(&it.reason)))
        .collect()
}

#[test]
fn a_survey_has_the_objects_that_a_source_has() {
    let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, two] = roots.each_ref().map(tempfile::TempDir::path);
    write(one, "a.yaml", &format!("{}---\n{}", plain("a", 1), plain("b", 2)));
    write(one, "b.yml", &plain("b", 3));
    write(one, "c.json", r#"{"apiVersion": "v1", "kind": "List", "items": []}"#);
    write(one, "d.txt", &plain("d", 4));
    write(two, "a.yaml", &format!("{}---\n{}", plain("a", 5), plain("a", 6)));
    let found = survey(&[one, two]);
    let objects = found.manifests.iter().flat_map(|manifest| &manifest.objects);
    let used: std::collections::BTreeMap<_, Object> =
        objects.map(|object| (object.key(), object.clone())).collect();
    let paths: Vec<PathBuf> = vec![one.into(), two.into()];
    let read = read_all(&paths).unwrap().objects;
    assert_eq!(
        used.into_values().collect::<Vec<_>>(),
        read.into_iter().map(|it| it.object).collect::<Vec<_>>()
    );
    assert_eq!(found.manifests.len(), 4);
}

#[test]
fn each_object_has_its_place_also_in_lists() {
    let directory = tempfile::tempdir().unwrap();
    let item = |name: &str| {
        format!("  - metadata: {{name: {name}}}\n    spec: {{ports: [{{port: 80}}]}}\n")
    };
    let list = format!("apiVersion: v1\nkind: ServiceList\nitems:\n{}{}", item("a"), item("b"));
    write(directory.path(), "a.yaml", &format!("# first\n---\n{}---\n{list}", plain("c", 1)));
    let found = survey(&[directory.path()]);
    let places: Vec<(String, u64, Option<String>)> = found.manifests[0]
        .located()
        .map(|(object, node)| {
            let node = node.unwrap();
            let name = node.get("metadata").and_then(|it| it.get("name")).and_then(Node::text);
            (object.key().to_string(), node.place().line, name.map(Into::into))
        })
        .collect();
    let expected = [("c", 3), ("a", 15), ("b", 17)]
        .map(|(name, line)| (format!("Service default/{name}"), line, Some(name.to_owned())));
    assert_eq!(places, expected);
}

#[test]
fn every_flaw_is_found_and_other_files_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let many = "  - {port: 0, name: UPPER}\n".repeat(150);
    let text =
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  ports:\n{many}");
    write(directory.path(), "a.yaml", &text);
    write(directory.path(), "b.yaml", "a: [");
    write(directory.path(), "c.yaml", "");
    let found = survey(&[directory.path()]);
    let [a, b, c] = &found.manifests[..] else { panic!("{found:?}") };
    assert!(a.flaws.len() > 150 && a.is_whole, "{}", a.flaws.len());
    assert!(a.flaws.iter().all(|flaw| flaw.place.is_some()));
    assert!(!b.is_whole && !c.is_whole);
    assert_eq!(c.flaws[0].message, "is empty (0 bytes)");
}

/// A file in which there is nothing must not pass for one that was checked.
#[test]
fn a_file_without_documents_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let hollow = [
        ("a.yaml", "\n \n\t\n"),
        ("b.yaml", "# nothing here\n"),
        ("c.yaml", "---\n---\n"),
        ("d.yaml", "\u{feff}"),
        ("e.yaml", "\u{feff}# nothing\r\n---\r\n...\r\n"),
        ("f.yaml", "null\n"),
    ];
    let full = [("u.yaml", "# one\n---\n"), ("v.yaml", "---\n")];
    hollow.iter().for_each(|(name, text)| write(directory.path(), name, text));
    full.iter().for_each(|(name, head)| {
        write(directory.path(), name, &format!("{head}{}---\n", plain("a", 80)));
    });
    write(
        directory.path(),
        "w.json",
        "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": []}",
    );
    write(directory.path(), "x.json", "\n");
    let found = survey(&[directory.path()]);
    let said: Vec<(String, Vec<(Severity, &str)>)> = found
        .manifests
        .iter()
        .map(|manifest| {
            let name = manifest.path.rsplit('/').next().unwrap_or_default().to_owned();
            let flaws = manifest.flaws.iter().map(|flaw| (flaw.severity, &*flaw.message));
            (name, flaws.collect())
        })
        .collect();
    let nothing = "has no document: there is nothing in it but blank lines, comments or ---";
    for (name, flaws) in &said {
        let is_hollow = hollow.iter().any(|(hollow, _)| hollow == name);
        match &**name {
            "x.json" => assert_eq!(flaws.len(), 1, "{name}: {flaws:?}"),
            _ if is_hollow => assert_eq!(flaws[..], [(Severity::Warning, nothing)], "{name}"),
            _ => assert_eq!(flaws[..], [], "{name}"),
        }
    }
    assert_eq!(said.len(), 10);
}

#[test]
fn what_is_not_read_is_named() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for directory in ["manifests/deep/er", "manifests/none", "manifests/.git", "beside"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    let text = plain("a", 80);
    for file in ["a.yaml", "deep/er/x.yaml", "none/x.txt", ".git/x.yaml", "README.md", "b.yaml.bak"]
    {
        write(&root.join("manifests"), file, &text);
    }
    write(&root.join("manifests"), "kustomization.yaml", "resources: [a.yaml]\n");
    write(&root.join("manifests"), "Kustomization", "resources: [a.yaml]\n");
    write(&root.join("manifests"), "Chart.yaml", "name: a\n");
    write(&root.join("beside"), "x.yaml", &text);
    symlink(root.join("beside"), root.join("manifests/link")).unwrap();
    symlink(root.join("beside"), root.join("manifests/link.yaml")).unwrap();
    let found = survey(&[&root.join("manifests")]);
    assert_eq!(found.manifests.len(), 1);
    assert_eq!(
        passed_over(&found, &root.join("manifests")),
        [
            "Kustomization: kustomize build",
            "kustomization.yaml: kustomize build",
            "Chart.yaml: helm template",
            "deep: deep/er/x.yaml",
            "link: link/x.yaml",
            "link.yaml: link.yaml/x.yaml",
            ": not read, since their names do not end in .yaml, .yml or .json: README.md, b.yaml.bak",
        ]
    );
    assert!(found.unread.is_empty());
    let found = survey(&[&root.join("manifests/none")]);
    let names = "none: not read, since their names do not end in .yaml, .yml or .json: x.txt";
    assert_eq!(passed_over(&found, &root.join("manifests")), ["none: empty", names]);
    // What is asked for by itself is read, and speaks for what is in it.
    let deep = ["manifests", "manifests/deep/er", "manifests/link", "manifests/link.yaml"];
    let deep = deep.map(|path| root.join(path));
    let found = survey(&deep.each_ref().map(PathBuf::as_path));
    assert_eq!(found.manifests.len(), 4);
    let named = passed_over(&found, root);
    assert!(!named.iter().any(|it| it.contains("deep") || it.contains("link")), "{named:?}");
    let one = [root.to_owned(), root.join("beside/x.yaml"), root.join("manifests")];
    let found = survey(&one.each_ref().map(PathBuf::as_path));
    let named = passed_over(&found, root);
    assert!(
        !named.iter().any(|it| it.starts_with("beside") || it.starts_with("manifests: manifests/")),
        "{named:?}"
    );
    let found = survey(&[&root.join("manifests/kustomization.yaml")]);
    assert_eq!((found.manifests.len(), found.passed_over.len()), (0, 1));
}

#[test]
fn what_cannot_be_read_does_not_hide_the_rest() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "a.yaml", &plain("a", 80));
    write(root, "large.yaml", &"#".repeat((10 << 20) + 1));
    symlink("nowhere", root.join("dangling.yaml")).unwrap();
    nix::unistd::mkfifo(&root.join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let found = survey(&[root, &root.join("missing")]);
    let unread: Vec<(String, &str)> = found
        .unread
        .iter()
        .map(|it| (it.path.rsplit('/').next().unwrap().to_owned(), &*it.message))
        .collect();
    let expected = [
        ("dangling.yaml", "a dangling symbolic link"),
        ("large.yaml", "larger than 10 MiB"),
        ("pipe.yaml", "not a regular file; pipes, sockets and devices are not read"),
        ("missing", "there is no such file or directory"),
    ];
    assert_eq!(unread, expected.map(|(name, message)| (name.to_owned(), message)));
    assert_eq!(found.manifests.len(), 1);
}

#[test]
fn a_link_that_leads_nowhere_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "a.yaml", &plain("a", 80));
    symlink("nowhere", root.join("sub")).unwrap();
    symlink("me@host.1", root.join(".#a.yaml")).unwrap();
    std::fs::create_dir(root.join(".hidden")).unwrap();
    write(root, ".hidden/b.yaml", &plain("b", 80));
    let found = survey(&[root]);
    let [unread] = &found.unread[..] else { panic!("{:?}", found.unread) };
    assert_eq!(*unread.path, *root.join("sub").to_string_lossy());
    assert!(unread.message.starts_with("a link that cannot be followed: No such file"));
    assert_eq!(passed_over(&found, root), [".hidden: .hidden/b.yaml"]);
}
