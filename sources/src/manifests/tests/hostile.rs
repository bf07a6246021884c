//! Input that is malicious, or was never meant as input. Reading it must end soon, with a message.

use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

use super::{json, plain, problems, write, yaml};
use crate::decode::Decoded;
use crate::error::chain;
use crate::manifests::scan::Manifests;
use crate::read;

/// Far above the processor time that any of this takes, on a machine however busy. The tests are
/// about the result; the limit only tells what is linear from what is not.
const SOON: Duration = Duration::from_secs(60);

fn soon(decode: impl FnOnce() -> Decoded) -> Decoded {
    let start = processor_time();
    let decoded = decode();
    let taken = processor_time() - start;
    assert!(taken < SOON, "took {taken:?}");
    decoded
}

/// Returns the time that this thread has run.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn refused(decode: impl FnOnce() -> Decoded, message: &str) {
    let decoded = soon(decode);
    let all = problems(&decoded);
    assert!(decoded.unreadable && decoded.objects.is_empty(), "{all:?}");
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].contains(message), "{all:?}");
    assert!(all[0].len() < 500, "{}", all[0].len());
}

/// Returns the problems of a directory, after checking that a good file in it is read.
fn others_are_unaffected(directory: &Path) -> Vec<String> {
    write(directory, "good.yaml", &plain("good", 80));
    let reading = read(directory).unwrap();
    let keys: Vec<_> = reading.objects.iter().map(|one| one.object.key().to_string()).collect();
    assert_eq!(keys, ["Service default/good"]);
    reading.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn deep_nesting_is_refused() {
    let deep = 100_000;
    refused(|| yaml(&"[".repeat(deep)), "not YAML");
    refused(|| yaml(&"{a: ".repeat(deep)), "not YAML");
    refused(|| yaml(&"- ".repeat(deep)), "not YAML");
    refused(|| yaml(&format!("kind: Pod\nspec: {}", "[".repeat(deep))), "not YAML");
    refused(|| yaml(&format!("{}x", "? ".repeat(deep))), "not YAML");
    let indented: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    refused(|| yaml(&indented), "not YAML");
    refused(|| json(&"[".repeat(deep)), "not JSON");
    refused(|| json(&"{\"items\":[".repeat(deep)), "not JSON: recursion limit exceeded");
    refused(|| json(&format!("{{\"spec\":{}", "{\"a\":".repeat(deep))), "not JSON");
}

#[test]
fn deep_nesting_in_an_unused_field_is_refused() {
    let deep = 100_000;
    let text = format!("{{\"x\":{}1{}}}", "[".repeat(deep), "]".repeat(deep));
    let decoded = soon(|| json(&text));
    assert!(decoded.objects.is_empty());
    assert_eq!(decoded.problems.len(), 1);
}

#[test]
fn alias_bombs_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let alias = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", [&*alias; 9].join(", "));
    }
    refused(|| yaml(&bomb), "not YAML");
    refused(|| yaml(&format!("{bomb}kind: List\napiVersion: v1\nitems: *a29\n")), "not YAML");

    let long = "x".repeat(1 << 20);
    let many: String = (0..15_000).map(|n| format!("    l{n}: *big\n")).collect();
    let text = format!(
        "big: &big \"{long}\\n\"\nkind: Pod\napiVersion: v1\nmetadata:\n  name: a\n  labels:\n{many}"
    );
    let decoded = soon(|| yaml(&text));
    assert!(decoded.objects.is_empty());
    assert!((1..=101).contains(&decoded.problems.len()), "{}", decoded.problems.len());
}

#[test]
fn cyclic_aliases_are_refused() {
    refused(|| yaml("a: &a [*a]\nkind: Pod\n"), "not YAML");
    refused(|| yaml("kind: *nothing\n"), "not YAML");
}

#[test]
fn ordinary_aliases_are_resolved() {
    let mut text = "apiVersion: v1\nkind: List\nx: &labels {app: web}\nitems:\n".to_owned();
    for number in 0..1000 {
        text += &format!(
            "- {{apiVersion: v1, kind: Pod, metadata: {{name: p{number}, labels: *labels}}}}\n"
        );
    }
    let decoded = soon(|| yaml(&text));
    assert_eq!(problems(&decoded), [""; 0]);
    assert_eq!(decoded.objects.len(), 1000);
}

#[test]
fn invalid_utf8_and_nul_bytes_are_refused() {
    for (bytes, line) in [(&b"kind: a\nb: \xff\n"[..], 2), (b"\xfe\xff", 1), (b"a\n\n\xc3", 3)] {
        let directory = tempfile::tempdir().unwrap();
        for name in ["bad.yaml", "bad.json"] {
            std::fs::write(directory.path().join(name), bytes).unwrap();
        }
        let want = ["bad.json", "bad.yaml"]
            .map(|name| format!("{name}:{line}: the file is not valid UTF-8"));
        assert_eq!(others_are_unaffected(directory.path()), want);
    }
    refused(
        || yaml("kind: Pod\nmetadata: {name: \"a\0b\"}\n"),
        "web.yaml:2: the file contains a NUL byte",
    );
    refused(|| json("\0"), "web.json:1: the file contains a NUL byte");
    let control = yaml("apiVersion: v1\nkind: Pod\nmetadata: {name: \"a\\0b\"}\n");
    assert_eq!(problems(&control).len(), 1);
    assert!(control.objects.is_empty());
}

#[test]
fn lists_of_millions_of_empty_items_are_handled_quickly() {
    let size = 3_000_000;
    refused(|| json(&format!("{{\"items\":[{}1]}}", "{},".repeat(size))), "a list of more than");
    refused(|| yaml(&format!("items: [{}1]", "{},".repeat(size))), "not YAML");
    let lines = "- a\n".repeat(size);
    refused(|| yaml(&format!("endpoints:\n{lines}")), "not YAML");
    let decoded = soon(|| yaml(&"---\n".repeat(size)));
    assert!(decoded.blank && decoded.problems.is_empty());
    let decoded = soon(|| yaml(&"---\na\n".repeat(size / 3)));
    assert_eq!(decoded.problems.len(), 101);
}

#[test]
fn the_number_of_problems_is_limited() {
    let ports = "{port: 0},".repeat(20_000);
    let decoded = soon(|| {
        yaml(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{clusterIP: None, ports: [{ports}]}}\n"
        ))
    });
    assert_eq!(decoded.problems.len(), 101);
    assert!(problems(&decoded)[100].ends_with("more problems"), "{}", problems(&decoded)[100]);
}

#[test]
fn overlong_strings_and_keys_are_refused() {
    let long = "k".repeat(5 << 20);
    let decoded =
        soon(|| yaml(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {long}}}\n")));
    assert_eq!(
        problems(&decoded),
        ["web.yaml:1: metadata.name: expected a string, found a very long string"]
    );
    refused(
        || {
            json(&format!(
                "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"a\",\"labels\":{{\"{long}\":\"\"}}}}}}"
            ))
        },
        "a key of more than 1024 bytes",
    );
    let decoded = soon(|| yaml(&format!("# {long}\n{}", plain("a", 80))));
    assert_eq!(decoded.objects.len(), 1);
    assert!(soon(|| yaml(&long)).unreadable);
    assert!(soon(|| yaml(&format!("'{long}"))).unreadable);
    assert!(soon(|| yaml(&"&a ".repeat(1 << 20))).unreadable);
    assert!(soon(|| yaml(&"!!x ".repeat(1 << 20))).unreadable);
    assert!(soon(|| yaml(&"%".repeat(1 << 20))).unreadable);
    assert!(soon(|| yaml(&"a: ".repeat(1 << 20))).unreadable);
    assert!(soon(|| yaml(&"|\n".repeat(1 << 20))).unreadable);
}

#[test]
fn a_file_of_ten_mebibytes_is_read_and_a_larger_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut text = plain("good", 80);
    text += "#";
    text += &" ".repeat((10 << 20) - text.len());
    assert_eq!(text.len(), 10 << 20);
    write(directory.path(), "large.yaml", &text);
    let reading = read(directory.path()).unwrap();
    assert_eq!((reading.objects.len(), reading.problems.len()), (1, 0));
    text += " ";
    write(directory.path(), "large.yaml", &text);
    let all = others_are_unaffected(directory.path());
    assert_eq!(all, ["large.yaml: larger than 10 MiB"]);
}

#[test]
fn pipes_sockets_and_devices_do_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    nix::unistd::mkfifo(&path("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket.yaml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path("zero.yaml")).unwrap();
    std::os::unix::fs::symlink(path("pipe.yaml"), path("link.yaml")).unwrap();
    std::os::unix::fs::symlink("loop.yaml", path("loop.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("nowhere.yaml")).unwrap();
    std::os::unix::fs::symlink(".", path("self.yaml")).unwrap();
    let all = others_are_unaffected(directory.path());
    let special = "not a regular file; pipes, sockets and devices are not read";
    let mut want =
        ["link", "pipe", "socket", "zero"].map(|name| format!("{name}.yaml: {special}")).to_vec();
    want.insert(1, String::new());
    want.insert(2, "nowhere.yaml: a dangling symbolic link".to_owned());
    let whole = directory.path().display();
    want.insert(0, format!("{whole}: sub-directories are not read: self.yaml; name them, too"));
    want[2].clone_from(&all[2]);
    assert_eq!(all, want);
    assert!(all[2].starts_with("loop.yaml: cannot be read: "), "{all:?}");
}

#[test]
fn a_pipe_as_the_path_does_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = read(&path).unwrap_err();
    assert_eq!(
        chain(&error),
        format!("{}: cannot be read: it is neither a directory nor a regular file", path.display())
    );
    let mut manifests = Manifests::new(path.clone());
    assert!(manifests.rescan(SystemTime::now()).held);
    let all: Vec<_> = manifests.problems().iter().map(ToString::to_string).collect();
    let said = "neither a directory nor a regular file; no objects are added or removed until it \
                can be read";
    assert_eq!(all, [format!("{}: {said}", path.display())]);
}

/// A document of maps, nested as deeply as may be, with a field whose line is wanted.
fn deepest() -> String {
    let nested: String = (1..60).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    format!("apiVersion: v1\nkind: Service\nmetadata:\n  unknown: x\nx:\n{nested}")
}

#[test]
fn the_deepest_document_fits_the_stack_of_the_thread_that_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    // Several are decoded on threads of their own.
    for name in ["deep.yaml", "deep-2.yaml", "deep-3.yaml"] {
        write(directory.path(), name, &deepest());
    }
    let path = directory.path().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The thread of the source reads it, not that of the test. One that is too small ends both.
    let problems = runtime.block_on(async {
        let (out, mut updates) = tokio::sync::mpsc::channel(1);
        let source = crate::ManifestSource::new(path, crate::ManifestOptions::default());
        let task = tokio::spawn(source.run(out));
        let update = tokio::time::timeout(SOON, updates.recv()).await.unwrap().unwrap();
        task.abort();
        update.problems
    });
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert!(problems.iter().any(|it| it.starts_with("deep.yaml:4:")), "{problems:?}");
}

#[test]
fn faults_of_syntax_count_among_the_problems_of_a_file() {
    let broken = "---\n}\n".repeat(150);
    let all = problems(&yaml(&broken));
    assert_eq!(all.len(), 101, "{all:?}");
    assert!(all[100].contains("50 more problems"), "{}", all[100]);
    // Such as half of the one kind and half of the other.
    let wrong = "---\napiVersion: v1\nkind: Service\nmetadata: {name: A_}\n".repeat(150);
    let all = problems(&yaml(&format!("{}{wrong}", "---\n}\n".repeat(60))));
    assert_eq!(all.len(), 101, "{all:?}");
}
