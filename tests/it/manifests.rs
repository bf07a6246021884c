//! Malformed, hostile and frequently changing manifests, read by the real daemon.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rulec_testkit::{
    Family, Namespace, Protocol, Server, World, WorldSpec, ask_many, require_root,
};

use crate::daemon::{Daemon, Manifests};
use crate::support::{SETTINGS, diff, file, get, service, slice};

/// The address of the daemon's health server.
const HEALTH: &str = "127.0.0.1:10256";

fn good() -> String {
    file(&[service("good", "10.96.0.10", ""), slice("good", &["10.50.1.5", "10.50.2.5"])])
}

fn good_with(endpoints: &[&str]) -> String {
    file(&[service("good", "10.96.0.10", ""), slice("good", endpoints)])
}

/// Returns whether the kernel holds exactly the content of a manifest.
fn holds(namespace: &Namespace, manifest: &str) -> bool {
    let only = Manifests::of(&format!("# All there is.\n{manifest}"));
    let ran = diff(namespace, "kernel", only.path().to_str().unwrap(), &[]);
    assert!(ran.status <= 1, "{ran:?}");
    ran.status == 0
}

/// Returns a Service with one error as YAML.
fn bad_service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec:\n{spec}")
}

#[test]
fn a_bad_file_is_reported_and_does_not_affect_others() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("bad-files");
    let manifests = Manifests::of(&good());
    let path = manifests.path();
    let mut daemon = Daemon::start(&namespace, &path, &SETTINGS);
    let port = "  ports: [{port: 80}]\n";
    let large = |size: usize| format!("# {}\n", "x".repeat(size - 3));
    // The content of a file, and words of the log line about it.
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (large((10 << 20) + 1).into(), &["bad.yaml", "larger than 10 MiB"]),
        ("[".repeat(100_000).into(), &["bad.yaml:1", "not YAML"]),
        ("a:\n".repeat(3).into(), &["bad.yaml"]),
        (nested(100_000).into(), &["bad.yaml", "not YAML"]),
        (
            bad_service(&format!("  clusterIP: 10.96.0.300\n{port}")).into(),
            &["bad.yaml:6", "Service default/bad", "spec.clusterIP", "10.96.0.300"],
        ),
        (
            bad_service("  clusterIP: 10.96.0.11\n  ports: [{port: 70000}]\n").into(),
            &["bad.yaml:7", "Service default/bad", "spec.ports[0].port", "70000"],
        ),
        (
            bad_service(
                "  clusterIP: 10.96.0.11\n  ports: [{name: a, port: 80}, {name: b, port: 80}]\n",
            )
            .into(),
            &["bad.yaml", "Service default/bad", "spec.ports[1]"],
        ),
        (
            bad_service(
                "  clusterIP: 10.96.0.11\n  ports: [{name: a, port: 80}, {name: a, port: 81}]\n",
            )
            .into(),
            &["bad.yaml", "Service default/bad", "spec.ports[1].name"],
        ),
        (
            slice("bad", &["10.50.1.500"]).into(),
            &["bad.yaml", "EndpointSlice default/bad-v4", "endpoints[0]", "10.50.1.500"],
        ),
        (good().as_bytes()[..good().len() - 60].to_vec(), &["all.yaml"]),
        (
            b"apiVersion: v1\nkind: Service\nmetadata: {name: bad".to_vec(),
            &["bad.yaml:3", "not YAML"],
        ),
        (vec![0, 159, 146, 150, 255, 254, 0, 1, 2, 3], &["bad.yaml"]),
        (b"\xff\xfea\0p\0i\0".to_vec(), &["bad.yaml"]),
        (b"just words".to_vec(), &["bad.yaml:1"]),
        (b"&a [*a, *a]\n".to_vec(), &["bad.yaml:1"]),
    ];
    for (number, (bytes, words)) in cases.into_iter().enumerate() {
        // A second definition of the good Service; by the order of names, `all.yaml` takes
        // precedence.
        let is_copy = words == ["all.yaml"];
        // A new name each time, because the log limits the lines per file and minute.
        let bad = format!("bad-{number}.yaml");
        let words: Vec<String> = words.iter().map(|word| word.replace("bad.yaml", &bad)).collect();
        let name = if is_copy { "again.yaml" } else { bad.as_str() };
        let before = daemon.log().len();
        fs::write(path.join(".draft"), &bytes).unwrap();
        fs::rename(path.join(".draft"), path.join(name)).unwrap();
        let complaint = |daemon: &Daemon| {
            let log = daemon.log()[before..].to_owned();
            log.lines().any(|line| words.iter().all(|word| line.contains(word.as_str())))
        };
        let said = daemon.wait_until(complaint);
        assert!(said, "{words:?}: {}", &daemon.log()[before..]);
        if !is_copy {
            assert!(holds(&namespace, &good()), "{words:?}");
        }
        // Its removal is awaited before the next file, which may have the same error.
        let before = daemon.count("resolved: ");
        fs::remove_file(path.join(name)).unwrap();
        daemon.wait_for_count("resolved: ", before + 1);
    }
    daemon.settle(&namespace, &path, &SETTINGS);
    assert!(holds(&namespace, &good()));
}

/// Returns a document nested to a depth.
fn nested(depth: usize) -> String {
    format!("{}1{}", "{a: ".repeat(depth), "}".repeat(depth))
}

#[test]
fn irregular_files_are_reported_and_ignored() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("no-files");
    let manifests = Manifests::of(&good());
    let path = manifests.path();
    mkfifo(&path.join("pipe.yaml"), Mode::S_IRWXU).unwrap();
    fs::create_dir(path.join("directory.yaml")).unwrap();
    fs::write(path.join("directory.yaml/inner.yaml"), "broken: [").unwrap();
    symlink("nowhere", path.join("link.yaml")).unwrap();
    symlink("loop.yaml", path.join("loop.yaml")).unwrap();
    symlink("/dev/zero", path.join("device.yaml")).unwrap();
    // Files with other names are not manifests.
    fs::write(path.join("notes.txt"), "broken: [").unwrap();
    fs::write(path.join(".hidden.yaml"), "broken: [").unwrap();
    // The irregular files exist at the start; another is made while the daemon runs.
    let mut daemon = Daemon::start(&namespace, &path, &SETTINGS);
    daemon.wait_for("pipe.yaml: not a regular file");
    daemon.wait_for("device.yaml: not a regular file");
    daemon.wait_for("link.yaml: a dangling symbolic link");
    daemon.wait_for("loop.yaml: ");
    mkfifo(&path.join("later.yaml"), Mode::S_IRWXU).unwrap();
    daemon.wait_for("later.yaml: not a regular file");
    manifests.write("all.yaml", &good_with(&["10.50.1.6"]));
    // `rulec diff` of the directory itself would report these errors.
    assert!(daemon.wait_until(|_| holds(&namespace, &good_with(&["10.50.1.6"]))));
    let log = daemon.log();
    let whole = path.display();
    let left_out = format!(
        "{whole}: not read, since their names do not end in .yaml, .yml or .json: notes.txt"
    );
    assert!(log.contains(&left_out), "{log}");
    let unread = format!("{whole}: sub-directories are not read: directory.yaml");
    assert!(log.contains(&unread), "{log}");
    for name in ["inner.yaml", "hidden.yaml"] {
        assert!(!log.contains(name), "{name} is not a manifest: {log}");
    }
    assert_eq!(daemon.count("pipe.yaml: not a regular file"), 1, "said once: {log}");
}

/// The warning about a sub-directory ends where its advice was followed.
#[test]
fn a_directory_in_a_directory_can_be_a_path_of_its_own() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("nested-paths");
    let manifests = Manifests::of(&good());
    let nest = manifests.path();
    for name in ["named", "other"] {
        fs::create_dir(nest.join(name)).unwrap();
    }
    let named = nest.join("named");
    let paths = [nest.to_str().unwrap(), "--manifests", named.to_str().unwrap()];
    let args = [&["--manifests"], &paths[..], &SETTINGS].concat();
    let mut daemon = Daemon::spawn_with(&namespace, &args);
    daemon.wait_for(crate::daemon::SETTLED);
    daemon.wait_for("sub-directories are not read: other; name them, too");
}

/// A file just below the size limit is read.
#[test]
fn a_file_of_ten_mebibytes_is_read() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("large-file");
    let manifests = Manifests::new();
    let text = good() + "---\n";
    let padding = format!("# {}\n", "x".repeat(97));
    let mut large = text.clone();
    while large.len() + padding.len() <= 10 << 20 {
        large += &padding;
    }
    large += &"#".repeat((10 << 20) - large.len());
    assert_eq!(large.len(), 10 << 20);
    manifests.write("all.yaml", &large);
    let daemon = Daemon::start(&namespace, &manifests.path(), &SETTINGS);
    assert!(holds(&namespace, &good()), "{}", daemon.log());
}

#[test]
fn a_broken_edit_keeps_the_last_good_content_until_repaired() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 2, remote_pods: 1 });
    let _servers = [(world.pod(0), "e1"), (world.remote_pod(0), "e2")]
        .map(|(pod, name)| Server::start(&pod.namespace, name, &[(Protocol::Tcp, 8080)]));
    let at = "10.96.0.10:80".parse().unwrap();
    let answers = |expected: &[&str]| {
        let counts = ask_many(&world.client, Protocol::Tcp, at, 24);
        let names: Vec<&str> = counts.keys().map(String::as_str).collect();
        assert_eq!(names, expected);
    };
    let pods = [world.pod(0), world.remote_pod(0)].map(|pod| pod.ip(Family::V4).to_string());
    let both = good_with(&[&pods[0], &pods[1]]);
    let manifests = Manifests::of(&both);
    let path = manifests.path();
    let mut daemon = Daemon::start(&world.node, &path, &SETTINGS);
    answers(&["e1", "e2"]);
    let commits = daemon.committed();
    // An error in the syntax of the file, in the Service, and in the slice.
    let breaks = [
        (format!("{both}spec: ["), "all.yaml"),
        (
            both.replace("clusterIP: \"10.96.0.10\"", "clusterIP: \"10.96.0.1000\""),
            "spec.clusterIP",
        ),
        (both.replace("port: 80\n", "port: eighty\n"), "spec.ports[0].port"),
        (
            both.replace("    port: 8080\n", "    port: -1\n")
                .replace("  port: 8080", "  port: 99999"),
            "ports[0].port",
        ),
    ];
    for (text, word) in breaks {
        let before = daemon.log().len();
        manifests.write("all.yaml", &text);
        let said = daemon.wait_until(|daemon| {
            daemon.log()[before..]
                .lines()
                .any(|line| line.contains(" ERROR ") && line.contains(word))
        });
        assert!(said, "{word}: {}", &daemon.log()[before..]);
        answers(&["e1", "e2"]);
    }
    assert_eq!(daemon.committed(), commits, "{}", daemon.log());
    // The file is repaired and changed at the same time.
    daemon.after(|| manifests.write("all.yaml", &good_with(&[&pods[1]])));
    answers(&["e2"]);
    daemon.wait_for("resolved: all.yaml");
}

#[test]
fn services_are_kept_while_their_directory_is_missing() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("directory");
    let manifests = Manifests::of(&good());
    let path = manifests.path();
    let aside = path.with_file_name("aside");
    let mut daemon = Daemon::start(&namespace, &path, &SETTINGS);
    let whole = path.display().to_string();
    for round in 1..=2 {
        fs::rename(&path, &aside).unwrap();
        let said = format!(
            "{whole}: there is no such file or directory; its last good content stays: 1 Service,"
        );
        daemon.wait_for_count(&said, round);
        assert!(holds(&namespace, &good()));
        fs::rename(&aside, &path).unwrap();
        daemon.wait_for_count(&format!("resolved: {said}"), round);
        assert!(holds(&namespace, &good()));
        // The daemon watches the new directory.
        let other = good_with(&["10.50.1.7"]);
        daemon.after(|| manifests.write("all.yaml", &other));
        assert!(holds(&namespace, &other));
        daemon.after(|| manifests.write("all.yaml", &good()));
    }
    // A directory that is away only for a moment causes no removals and additions.
    let before = daemon.count(" committed ");
    fs::rename(&path, &aside).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    fs::rename(&aside, &path).unwrap();
    let other = good_with(&["10.50.1.7"]);
    daemon.after(|| manifests.write("all.yaml", &other));
    assert!(holds(&namespace, &other));
    assert_eq!(daemon.count(" committed "), before + 1, "{}", daemon.log());
}

/// A file system that is mounted at a path; unmounted on drop.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf) -> Self {
        let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&path).status();
        assert!(status.unwrap().success());
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, because the daemon may have files in it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The empty directory left after an unmount can be read, but does not count as empty content.
#[test]
fn services_are_kept_when_their_file_system_is_unmounted() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("mounted");
    let manifests = Manifests::new();
    let path = manifests.path();
    let mounted = Mounted::at(path.clone());
    fs::write(path.join("all.yaml"), good()).unwrap();
    let mut daemon = Daemon::start(&namespace, &path, &SETTINGS);
    drop(mounted);
    daemon.wait_for("its last good content stays: 1 Service,");
    assert!(holds(&namespace, &good()));
    // Another file system with other content is mounted.
    let other = good_with(&["10.50.1.7"]);
    let mounted = Mounted::at(path.clone());
    daemon.after(|| fs::write(path.join("all.yaml"), &other).unwrap());
    assert!(holds(&namespace, &other));
    daemon.stop();
    drop(mounted);
}

/// A directory that does not exist is no information: nothing is removed, and the node is not
/// ready. A directory that exists and is empty means that there are no objects.
#[test]
fn a_missing_path_removes_nothing_and_an_empty_one_everything() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("leftovers");
    let manifests = Manifests::of(&good());
    let path = manifests.path();
    Daemon::start(&namespace, &path, &SETTINGS).stop();
    assert!(holds(&namespace, &good()));

    let typo = path.with_file_name("tpyo");
    let mut daemon = Daemon::spawn(&namespace, &typo, &SETTINGS);
    daemon.wait_for(&format!(
        "{}: there is no such file or directory; no objects are added or removed until it can be \
         read",
        typo.display()
    ));
    assert!(holds(&namespace, &good()));
    assert_eq!(get(&namespace, HEALTH, "/readyz").code, 503);
    // The directory is created, and its content is used from then on.
    fs::create_dir(&typo).unwrap();
    fs::copy(path.join("all.yaml"), typo.join("all.yaml")).unwrap();
    daemon.wait_for("in sync with all sources");
    assert!(holds(&namespace, &good()));
    daemon.stop();

    manifests.remove("all.yaml");
    let mut daemon = Daemon::start(&namespace, &path, &SETTINGS);
    assert!(holds(&namespace, ""));
    assert!(!crate::support::listing(&namespace).contains("10.96.0.10"));
    daemon.after(|| manifests.write("all.yaml", &good()));
    assert!(holds(&namespace, &good()));
}

/// With a state directory, a start continues from the last good content after a crash and a reboot,
/// even if a file is broken by then, or the directory does not exist yet.
#[test]
fn the_last_good_content_survives_a_crash_and_a_reboot() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("state");
    let manifests = Manifests::of(&good());
    let path = manifests.path();
    let state = tempfile::tempdir().unwrap();
    let kept = state.path().join("manifests.state");
    let mut args = SETTINGS.to_vec();
    args.extend(["--state-dir", state.path().to_str().unwrap()]);
    let mut daemon = Daemon::start(&namespace, &path, &args);
    assert!(daemon.wait_until(|_| kept.exists()), "{}", daemon.log());
    daemon.kill9();
    let reboot = || {
        let ran = crate::support::rulec(&namespace, &["cleanup"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        assert!(!holds(&namespace, &good()));
    };

    reboot();
    manifests.write("all.yaml", "kind: [");
    let mut daemon = Daemon::start(&namespace, &path, &args);
    daemon.wait_for("all.yaml:1:");
    assert!(holds(&namespace, &good()), "{}", daemon.log());
    daemon.kill9();

    reboot();
    let aside = path.with_file_name("aside");
    fs::rename(&path, &aside).unwrap();
    let mut daemon = Daemon::start(&namespace, &path, &args);
    assert!(holds(&namespace, &good()), "{}", daemon.log());
    let ready = get(&namespace, HEALTH, "/readyz");
    assert_eq!(ready.code, 200);
    assert!(ready.body.contains("stale"), "{}", ready.body);
    fs::rename(&aside, &path).unwrap();
    let other = good_with(&["10.50.1.7"]);
    daemon.after(|| manifests.write("all.yaml", &other));
    assert!(holds(&namespace, &other));
    assert_eq!(get(&namespace, HEALTH, "/readyz").body, "ok");
    daemon.stop();
}

/// A file that is broken at a start may be the one that defines what the kernel serves.
#[test]
fn services_of_a_broken_file_are_kept_across_a_restart() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("unread");
    let manifests = Manifests::of(&good());
    let path = manifests.path();
    let other = file(&[service("other", "10.96.0.11", ""), slice("other", &["10.50.1.6"])]);
    manifests.write("other.yaml", &other);
    Daemon::start(&namespace, &path, &SETTINGS).stop();
    let both = format!("{}---\n{other}", good());
    assert!(holds(&namespace, &both));
    for broken in ["kind: [", ""] {
        manifests.write("all.yaml", broken);
        let mut daemon = Daemon::start(&namespace, &path, &SETTINGS);
        assert!(holds(&namespace, &both), "of {broken:?}: {}", daemon.log());
        daemon.wait_for("keeping Services in the kernel that no source names");
        // Other Services can change meanwhile; once the file is valid, nothing is kept any more.
        let new = other.replace("10.50.1.6", "10.50.1.7");
        daemon.after(|| manifests.write("other.yaml", &new));
        assert!(holds(&namespace, &both.replace("10.50.1.6", "10.50.1.7")), "{}", daemon.log());
        manifests.write("all.yaml", &good());
        daemon.wait_for("resolved: all.yaml");
        daemon.after(|| manifests.write("other.yaml", &other));
        assert!(holds(&namespace, &both), "{}", daemon.log());
        daemon.stop();
    }
    // The Services are removed if the repaired file does not define them.
    manifests.write("all.yaml", "kind: [");
    let mut daemon = Daemon::start(&namespace, &path, &SETTINGS);
    assert!(holds(&namespace, &both), "{}", daemon.log());
    daemon.after(|| manifests.write("all.yaml", "# Nothing any more.\n"));
    assert!(holds(&namespace, &other), "{}", daemon.log());
}

/// As the kubelet mounts a ConfigMap: the files are links into `..data`, which is replaced.
#[test]
fn a_swapped_configmap_is_one_change() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("configmap");
    let manifests = Manifests::new();
    let path = manifests.path();
    let version = |name: &str, endpoints: &[&str]| {
        let directory = path.join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("service.yaml"), service("good", "10.96.0.10", "")).unwrap();
        fs::write(directory.join("slice.yaml"), slice("good", endpoints)).unwrap();
        symlink(name, path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    };
    version("..1", &["10.50.1.5"]);
    for name in ["service.yaml", "slice.yaml"] {
        symlink(Path::new("..data").join(name), path.join(name)).unwrap();
    }
    let mut daemon = Daemon::start(&namespace, &path, &SETTINGS);
    assert!(holds(&namespace, &good_with(&["10.50.1.5"])));
    for number in 2..6 {
        let endpoint = format!("10.50.1.{number}");
        let commits = daemon.committed();
        daemon.after(|| version(&format!("..{number}"), &[&endpoint, "10.50.2.9"]));
        fs::remove_dir_all(path.join(format!("..{}", number - 1))).unwrap();
        daemon.settle(&namespace, &path, &SETTINGS);
        assert!(holds(&namespace, &good_with(&[&endpoint, "10.50.2.9"])));
        assert_eq!(daemon.committed(), commits + 1, "a swap is one change: {}", daemon.log());
    }
}

#[test]
fn edits_without_effect_commit_nothing() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("no-ops");
    let manifests = Manifests::of(&good());
    let path = manifests.path();
    let more = [&SETTINGS[..], &["--log-level", "debug"]].concat();
    let mut daemon = Daemon::start(&namespace, &path, &more);
    let commits = daemon.committed();
    let file = path.join("all.yaml");
    for round in 0..1_000 {
        match round % 4 {
            // Like touch(1).
            0 => {
                let now = std::time::SystemTime::now();
                File::options().append(true).open(&file).unwrap().set_modified(now).unwrap();
            }
            1 => {
                let mut file = File::options().append(true).open(&file).unwrap();
                writeln!(file, "# Edit {round}.").unwrap();
            }
            2 => manifests.write(
                "all.yaml",
                &good().replace(
                    "metadata:\n",
                    &format!("metadata:\n  resourceVersion: \"{round}\"\n"),
                ),
            ),
            _ => fs::write(&file, format!("# {round}\n{}", good())).unwrap(),
        }
    }
    daemon.wait_for("read again, meaning unchanged");
    // The daemon sees this change after all the others.
    let other = good_with(&["10.50.1.7"]);
    daemon.after(|| manifests.write("all.yaml", &other));
    assert!(holds(&namespace, &other));
    assert_eq!(daemon.committed(), commits + 1, "{}", daemon.log());
}
