//! The workflows for CI: they parse, have the steps that they need, and their shell code does what it
//! is for.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{list, named, path, read, string, yaml};
use crate::support::{RULEC, Ran, finish};

/// A repository with manifests, in which `sh` runs commands.
struct Repository(tempfile::TempDir);

impl Repository {
    /// Makes a repository with a first commit of these files.
    fn of(files: &[(&str, &str)]) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.write(files);
        let ran = this.sh(
            "git init -q . && git add . && git -c user.name=a -c user.email=a@example commit -qm a",
        );
        assert_eq!(ran.status, 0, "{ran:?}");
        this
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = self.root().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        // As GitHub and GitLab run a script.
        command.args(["-eo", "pipefail", "-c", script]).current_dir(self.root());
        command.env("RULEC", RULEC).env_remove("RULEC_LOG").env("HOME", self.root());
        command
    }

    fn sh(&self, script: &str) -> Ran {
        finish(self.command(script))
    }

    /// Writes the comment for these paths.
    fn comment(&self, args: &str) -> Ran {
        let script = path("deploy/ci/comment.sh");
        self.sh(&format!("{} {args}", script.display()))
    }
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: '', port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
";

#[test]
fn the_comment_says_what_changes_and_what_is_wrong() {
    let repository = Repository::of(&[("manifests/web.yaml", SERVICE), ("more/.keep", "")]);
    let comment = |args: &str, status: i32| {
        let ran = repository.comment(args);
        assert_eq!((ran.status, ran.stderr.as_str()), (status, ""), "{args}: {}", ran.stdout);
        assert!(ran.stdout.starts_with("<!-- rulec -->\n### rulec\n"), "{}", ran.stdout);
        ran.stdout
    };
    let text = comment("HEAD manifests", 0);
    assert!(text.contains("Nothing changes in the kernel."), "{text}");
    assert!(text.ends_with("\n1 file read, nothing found.\n"), "{text}");

    // A difference is nothing wrong.
    let changed = SERVICE.replace("[10.0.0.1]", "[10.0.0.2]");
    repository.write(&[("manifests/web.yaml", &changed)]);
    let text = comment("HEAD manifests", 0);
    assert!(text.contains("<summary>1 Service changed."), "{text}");
    assert!(text.contains("\n      + backend 10.0.0.2:8080 at 10.96.0.10:80/TCP\n"), "{text}");

    // Paths that the commit does not have, a warning, and something that looks like Markdown.
    let odd = SERVICE.replace("name: web", "name: odd").replace("0.10", "0.11");
    let odd = odd.replace("ports: [{port: 80}]", "ports: [{port: 80}], '```\\n# no': 1");
    repository.write(&[
        ("more/odd.yaml", &odd),
        ("one.yaml", &SERVICE.replace("10.96.0.10", "10.96.0.12").replace("web", "one")),
    ]);
    let text = comment("HEAD manifests more one.yaml", 1);
    assert!(text.contains("<summary>2 Services added, 1 changed."), "{text}");
    assert!(text.contains("There is something to mend:\n\n    more/odd.yaml:5:"), "{text}");
    let escapes = |line: &&str| line.starts_with("```") || line.starts_with("# no");
    assert_eq!(text.lines().find(escapes), None, "{text}");
    let temporary = std::env::temp_dir();
    assert!(!text.contains(temporary.to_str().unwrap()), "no path of this machine: {text}");

    let ran = repository.sh(&format!(
        "RULEC_CHECK='--ignore unknown-field' {} HEAD more",
        path("deploy/ci/comment.sh").display()
    ));
    assert!(ran.status == 0 && ran.stdout.contains("nothing found"), "{ran:?}");

    repository.write(&[("manifests/broken.yaml", "a: [")]);
    let text = comment("HEAD manifests", 2);
    assert!(text.contains("could"), "{text}");
    assert!(text.contains("    manifests/broken.yaml:1:4: error\n"), "{text}");
}

#[test]
fn a_comment_that_cannot_be_written_is_an_error() {
    let repository = Repository::of(&[("manifests/web.yaml", SERVICE)]);
    let cases = [
        ("HEAD", "usage"),
        ("nothing manifests", "nothing is not a commit"),
        ("HEAD missing", "be compared:"),
    ];
    for (args, word) in cases {
        let ran = repository.comment(args);
        assert_eq!(ran.status, 2, "{args}: {ran:?}");
        assert!(ran.stderr.contains(word) || ran.stdout.contains(word), "{args}: {ran:?}");
    }
    let script = path("deploy/ci/comment.sh");
    let ran = repository.sh(&format!("cd manifests && {} HEAD .", script.display()));
    assert!(ran.status == 2 && ran.stderr.contains("the root of the repository"), "{ran:?}");
    let ran = repository.sh(&format!("RULEC=/missing {} HEAD manifests", script.display()));
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stdout.contains("The manifests could not be compared:"), "{ran:?}");
}

/// Each exit status of both commands has its meaning.
#[test]
fn the_status_says_whether_a_person_must_act() {
    let repository = Repository::of(&[("manifests/web.yaml", SERVICE)]);
    let program = "#!/bin/sh\necho \"$1 says\"; echo \"$1 warns\" >&2\n\
                   case $1 in diff) exit $DIFF ;; check) exit $CHECK ;; esac\n";
    repository.write(&[("bin/rulec", program)]);
    let script = path("deploy/ci/comment.sh");
    let comment = |diff: &str, check: &str| {
        let script = format!("chmod +x bin/rulec; {} HEAD manifests", script.display());
        let mut command = repository.command(&script);
        command.env("RULEC", "bin/rulec").env("DIFF", diff).env("CHECK", check);
        let Ran { status, stdout, .. } = finish(command);
        (status, stdout)
    };
    let cases = [
        ("0", "0", 0, "Nothing changes in the kernel."),
        ("1", "0", 0, "<summary>diff says</summary>"),
        ("2", "0", 2, "Not everything could be compared:\n\n    diff warns"),
        ("3", "0", 2, "The manifests could not be compared:\n\n    diff warns"),
        ("127", "0", 2, "The manifests could not be compared:"),
        ("1", "1", 1, "There is something to mend:\n\n    check says"),
        ("0", "2", 2, "Not everything could be checked:\n\n    check says"),
        ("3", "1", 2, "There is something to mend:"),
    ];
    for (diff, check, status, text) in cases {
        let (found, said) = comment(diff, check);
        assert_eq!(found, status, "{diff} {check}: {said}");
        assert!(said.contains(text), "{diff} {check}: {said}");
        let shows = said.contains("<details>");
        assert_eq!(shows, ["1", "2"].contains(&diff), "{diff} {check}: {said}");
    }
}

/// A comment has a limited length.
#[test]
fn a_long_output_is_cut() {
    let many: String = (0..2000).map(|number| format!("kind: Service{number}\n---\n")).collect();
    let repository = Repository::of(&[("manifests/web.yaml", SERVICE)]);
    let many = many.replace("kind: Service", "a: ");
    repository.write(&[("manifests/many.yaml", &many)]);
    let ran = repository.comment("HEAD manifests");
    // A file in which nothing is read could not be compared.
    assert!(ran.status == 2 && ran.stdout.len() < 60_000, "{} bytes", ran.stdout.len());
    assert!(ran.stdout.contains("... and more"));
}

#[test]
fn the_workflow_for_github_has_what_it_needs() {
    let [workflow] = &yaml("deploy/ci/github.yaml")[..] else { panic!("one document") };
    let permissions = &workflow["permissions"];
    assert_eq!(permissions["contents"], "read");
    assert_eq!(permissions["pull-requests"], "write");
    assert_eq!(permissions["security-events"], "write");
    assert!(workflow["on"].get("pull_request").is_some(), "the head's code gets no secrets");
    let job = &workflow["jobs"]["manifests"];
    let steps = list(job, "/steps");
    let uses = |action: &str| {
        let is_it = |step: &&Value| step["uses"].as_str().is_some_and(|it| it.starts_with(action));
        steps.iter().find(is_it).unwrap_or_else(|| panic!("no step uses {action}"))
    };
    assert_eq!(uses("actions/checkout@")["with"]["fetch-depth"], 2, "the base is there");
    let sarif = string(uses("github/codeql-action/upload-sarif@"), "/with/sarif_file");
    let run = |name: &str| string(named(job, "/steps", name), "/run").to_owned();
    let compare = run("Compare and check");
    assert!(
        compare.contains(&format!("rulec check $RULEC_CHECK -o sarif $MANIFESTS >{sarif}")),
        "{compare}"
    );
    assert!(compare.contains("comment.sh 'HEAD^1' $MANIFESTS >comment.md"), "{compare}");
    assert!(run("Install").contains("$RULEC_DEB") && workflow["env"].get("RULEC_DEB").is_some());
    // Expressions are put in before the shell reads the script.
    assert!(run("Result").contains("steps.rulec.outputs.status"));
    assert_eq!(named(job, "/steps", "Compare and check")["id"], "rulec");
}

/// The comment is made once, and changed afterwards.
#[test]
fn github_gets_one_comment() {
    let [workflow] = &yaml("deploy/ci/github.yaml")[..] else { panic!("one document") };
    let step = named(&workflow["jobs"]["manifests"], "/steps", "Comment");
    let script = string(step, "/run");
    let repository = Repository::of(&[("comment.md", "<!-- rulec -->\n")]);
    repository.write(&[(
        "bin/gh",
        "#!/bin/sh\necho \"$*\" >>asked\n[ \"$3\" != x ] || exit 1\n\
        case \"$*\" in *--jq*) [ -z \"$KNOWN\" ] || printf '%s\\n' $KNOWN ;; esac\n",
    )]);
    let ask = |known: &str| {
        let mut command =
            repository.command(&format!("chmod +x bin/gh; PATH=$PWD/bin:$PATH\n{script}"));
        command.env("GITHUB_REPOSITORY", "o/r").env("PULL_REQUEST", "7").env("KNOWN", known);
        let ran = finish(command);
        assert_eq!(ran.status, 0, "{ran:?}");
        let asked = fs::read_to_string(repository.root().join("asked")).unwrap();
        fs::remove_file(repository.root().join("asked")).unwrap();
        asked.lines().last().unwrap().to_owned()
    };
    let body = "-F body=@comment.md";
    assert_eq!(ask(""), format!("api --method POST repos/o/r/issues/7/comments {body}"));
    assert_eq!(ask("41 42"), format!("api --method PATCH repos/o/r/issues/comments/41 {body}"));
}

#[test]
fn the_job_for_gitlab_has_what_it_needs() {
    let [document] = &yaml("deploy/ci/gitlab.yaml")[..] else { panic!("one document") };
    let job = &document["rulec"];
    assert_eq!(string(job, "/rules/0/if"), "$CI_PIPELINE_SOURCE == \"merge_request_event\"");
    assert_eq!(string(job, "/variables/GIT_DEPTH"), "0", "the base is there");
    assert_eq!(string(job, "/artifacts/when"), "always");
    let lines = list(job, "/before_script").iter().chain(list(job, "/script"));
    let script: Vec<&str> = lines.map(|line| line.as_str().unwrap()).collect();
    let has = |part: &str| assert!(script.iter().any(|line| line.contains(part)), "no {part}");
    has("comment.sh \"$CI_MERGE_REQUEST_DIFF_BASE_SHA\" $MANIFESTS >comment.md || status=$?");
    has("rulec check $RULEC_CHECK -o sarif $MANIFESTS >rulec.sarif");
    assert_eq!(script.last(), Some(&"exit \"$status\""));
    for line in script {
        let ran = finish({
            let mut command = Command::new("bash");
            command.args(["-n", "-c", line]);
            command
        });
        assert_eq!(ran.status, 0, "{line}: {ran:?}");
    }
}

/// The comment is made once, and changed afterwards; without a token, not at all.
#[test]
fn gitlab_gets_one_comment() {
    let [document] = &yaml("deploy/ci/gitlab.yaml")[..] else { panic!("one document") };
    let script = list(&document["rulec"], "/script").iter().filter_map(Value::as_str);
    let script = { script }.find(|line| line.contains("RULEC_TOKEN")).unwrap();
    let repository = Repository::of(&[("comment.md", "<!-- rulec -->\n")]);
    repository.write(&[(
        "bin/curl",
        "#!/bin/sh\necho \"$*\" >>asked\n\
        case \"$*\" in *per_page*) printf '%s' \"$NOTES\" ;; esac\n",
    )]);
    let ask = |token: &str, notes: &str| {
        let mut command =
            repository.command(&format!("chmod +x bin/curl; PATH=$PWD/bin:$PATH\n{script}"));
        for (name, value) in [
            ("CI_API_V4_URL", "https://api"),
            ("CI_PROJECT_ID", "5"),
            ("CI_MERGE_REQUEST_IID", "7"),
            ("RULEC_TOKEN", token),
            ("NOTES", notes),
        ] {
            command.env(name, value);
        }
        let ran = finish(command);
        assert_eq!(ran.status, 0, "{ran:?}");
        let asked = fs::read_to_string(repository.root().join("asked")).unwrap_or_default();
        let _ = fs::remove_file(repository.root().join("asked"));
        asked.lines().last().unwrap_or_default().to_owned()
    };
    let notes = "https://api/projects/5/merge_requests/7/notes";
    let made = ask("secret", "[]");
    assert!(made.contains(&format!("--request POST {notes} ")), "{made}");
    assert!(made.contains("PRIVATE-TOKEN: secret") && made.ends_with("body@comment.md"), "{made}");
    let known = r#"[{"id": 1, "body": "hello"}, {"id": 42, "body": "<!-- rulec -->\n"}]"#;
    let changed = ask("secret", known);
    assert!(changed.contains(&format!("--request PUT {notes}/42 ")), "{changed}");
    assert_eq!(ask("", "[]"), "");
}

/// The documents say where the files go.
#[test]
fn the_readme_names_the_files() {
    let page = read("deploy/ci/README.md");
    for entry in fs::read_dir(path("deploy/ci")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || page.contains(&format!("`{name}`")), "{name}");
    }
}
