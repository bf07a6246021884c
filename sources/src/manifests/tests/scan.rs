use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind};
use rulec_compiler::Change;
use rulec_compiler::object::Object;
use tempfile::TempDir;

use super::{plain, write};
use crate::manifests::writers::{MAX_WRITE_TIME, Writers};
use crate::{Manifests, Scan, SourceError, read};

/// A directory, its manifests, and a clock.
struct Fixture {
    directory: TempDir,
    manifests: Manifests,
    writers: Arc<Writers>,
    now: SystemTime,
}

impl Fixture {
    /// Creates a directory with these files, and looks at it once.
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            write(directory.path(), name, text);
        }
        let writers = Arc::<Writers>::default();
        let manifests = Manifests::beside(directory.path().to_owned(), writers.clone());
        let mut world = Self { directory, manifests, writers, now: later() };
        let first = world.rescan();
        assert!(matches!(&first.changes[..], [Change::Replace { .. }]), "{first:?}");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file with an old date.
    fn write(&self, name: &str, text: &str) {
        write(self.directory.path(), name, text);
    }

    /// Writes a file with the current date.
    fn write_now(&self, name: &str, text: &str) {
        self.write(name, text);
        date(&self.path(name), self.now);
    }

    fn rescan(&mut self) -> Scan {
        self.manifests.rescan(self.now)
    }

    fn touch(&mut self, names: &[&str]) -> Scan {
        let names: BTreeSet<_> = names.iter().map(Into::into).collect();
        self.manifests.refresh(&names, false, self.now)
    }

    fn list(&mut self) -> Scan {
        self.manifests.refresh(&BTreeSet::new(), true, self.now)
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn problems(&self) -> Vec<String> {
        self.manifests.problems().iter().map(ToString::to_string).collect()
    }

    /// Returns the known objects, as `name:port@file`.
    fn known(&self) -> Vec<String> {
        self.manifests
            .objects()
            .map(|sourced| format!("{}@{}", brief(&sourced.object), sourced.provenance))
            .collect()
    }
}

/// Reports a close, as inotify does.
fn close(world: &Fixture, name: &str) {
    let kind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    let event = Event::new(kind).add_path(world.path(name));
    world.writers.learn(world.directory.path(), &event, Instant::now());
}

fn date(path: &Path, time: SystemTime) {
    std::fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

fn brief(object: &Object) -> String {
    match object {
        Object::Service(service) => format!("{}:{}", service.key.name, service.ports[0].port),
        Object::EndpointSlice(_)
        | Object::Pod(_)
        | Object::Node(_)
        | Object::ServiceCidr(_)
        | Object::InterfaceAddresses(_) => object.key().to_string(),
    }
}

/// Prints the changes as `+name:port@file`, `-name`, or `=[...]` for a whole list.
fn told(scan: &Scan) -> Vec<String> {
    let tell = |change: &Change| match change {
        Change::Apply(sourced) => format!("+{}@{}", brief(&sourced.object), sourced.provenance),
        Change::Remove(key) => format!("-{key}"),
        Change::Replace { objects: all, .. } => {
            let all: Vec<_> = all.iter().map(|sourced| brief(&sourced.object)).collect();
            format!("={all:?}")
        }
    };
    scan.changes.iter().map(tell).collect()
}

const NOTHING: [&str; 0] = [];

/// Returns a time at which all files of a test are old.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

#[test]
fn the_first_scan_reports_everything_and_later_ones_changes() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "b.yaml", &plain("b", 2));
    write(directory.path(), "a.yml", &plain("a", 1));
    let mut manifests = Manifests::new(directory.path().to_owned());
    let now = later();
    assert_eq!(told(&manifests.rescan(now)), ["=[\"a:1\", \"b:2\"]"]);
    assert_eq!(told(&manifests.rescan(now)), NOTHING);
    write(directory.path(), "c.JSON.yaml", &plain("c", 3));
    write(directory.path(), "a.yml", &plain("a", 9));
    std::fs::remove_file(directory.path().join("b.yaml")).unwrap();
    assert_eq!(
        told(&manifests.rescan(now)),
        ["-Service default/b", "+a:9@a.yml", "+c:3@c.JSON.yaml"]
    );
}

#[test]
fn an_empty_directory_is_a_list_but_a_missing_one_is_not() {
    let world = Fixture::new(&[]);
    assert_eq!(world.known(), NOTHING);
    assert_eq!(world.problems(), NOTHING);
    for name in ["missing/deep", "link"] {
        let path = world.path(name);
        symlink("nowhere", world.path("link")).ok();
        let mut missing = Manifests::new(path.clone());
        let scan = missing.rescan(world.now);
        assert_eq!((told(&scan).len(), scan.held, scan.problems_changed), (0, true, true));
        let problems: Vec<_> = missing.problems().iter().map(ToString::to_string).collect();
        let said = format!(
            "{}: there is no such file or directory; no objects are added or removed until it can \
             be read",
            path.display()
        );
        assert_eq!(problems, [said]);
    }
    let path = world.path("missing");
    let mut missing = Manifests::new(path.clone());
    assert_eq!(told(&missing.rescan(world.now)), NOTHING);
    std::fs::create_dir(&path).unwrap();
    assert_eq!(told(&missing.refresh(&BTreeSet::new(), true, world.now)), ["=[]"]);
}

#[test]
fn hidden_files_leftovers_and_sub_directories_are_not_read() {
    let text = plain("x", 1);
    let names = [".x.yaml", "x.yaml~", "x.swp", "x.tmp", "x.yaml.bak"];
    let mut world = Fixture::new(&names.map(|name| (name, &*text)));
    std::fs::create_dir(world.path("sub.yaml")).unwrap();
    write(&world.path("sub.yaml"), "y.yaml", &plain("y", 1));
    assert_eq!(told(&world.rescan()), NOTHING);
    assert_eq!(told(&world.touch(&names)), NOTHING);
    assert_eq!(told(&world.touch(&["sub.yaml"])), NOTHING);
    world.write("x.YML", &text);
    world.write("broken.yaml", "a: [");
    assert_eq!(told(&world.rescan()), ["+x:1@x.YML"]);
    assert_eq!(world.problems().len(), 3);
    let message = "sub-directories are not read: sub.yaml; name them, too";
    assert!(world.problems().iter().any(|it| it.ends_with(message)), "{:?}", world.problems());
}

#[test]
fn only_manifest_extensions_are_read_and_others_are_reported_once() {
    let old = plain("web", 1);
    let mut world = Fixture::new(&[("web.yaml", &plain("web", 2))]);
    let copies = [
        "web.yaml.orig",
        "web.yaml.old",
        "web.yaml.save",
        "web.yaml.rpmsave",
        "web.yaml.dpkg-old",
        "web.yaml.disabled",
        "web.yaml.20261128",
        "web",
        "web (copy)",
    ];
    for name in copies {
        world.write(name, &old);
    }
    assert_eq!(told(&world.rescan()), NOTHING);
    assert_eq!(world.known(), ["web:2@web.yaml"]);
    let said = format!(
        "{}: not read, since their names do not end in .yaml, .yml or .json: web, web (copy), \
         web.yaml.20261128, web.yaml.disabled, web.yaml.dpkg-old and 4 more",
        world.directory.path().display()
    );
    assert_eq!(world.problems(), [said]);
    assert!(!world.rescan().problems_changed, "reported once");
    for name in copies {
        std::fs::remove_file(world.path(name)).unwrap();
    }
    world.rescan();
    assert_eq!(world.problems(), NOTHING);
    // A file can also be disabled by renaming it.
    std::fs::rename(world.path("web.yaml"), world.path("web.yaml.disabled")).unwrap();
    assert_eq!(told(&world.touch(&["web.yaml"])), ["-Service default/web"]);
}

#[test]
fn files_unread_in_the_first_list_are_counted_until_readable() {
    let half = format!("{}---\n{}", plain("p", 1), plain("q", 0));
    let mut world = Fixture::new(&[
        ("broken.yaml", "kind: ["),
        ("empty.yaml", ""),
        ("half.yaml", &half),
        ("nameless.yaml", &plain("7", 1)),
        ("comment.yaml", "# no objects\n"),
        ("good.yaml", &plain("good", 1)),
    ]);
    symlink("nowhere", world.path("link.yaml")).unwrap();
    let first = |world: &Fixture| {
        let mut manifests = Manifests::new(world.directory.path().to_owned());
        manifests.rescan(world.now).unread
    };
    assert_eq!(first(&world), 5);
    assert_eq!(world.rescan().unread, 4, "the link was not in the first list");
    world.write("broken.yaml", &plain("a", 1));
    assert_eq!(world.rescan().unread, 3);
    std::fs::remove_file(world.path("empty.yaml")).unwrap();
    assert_eq!(world.rescan().unread, 2);
    world.write("half.yaml", &half.replace("port: 0", "port: 1"));
    world.write("nameless.yaml", "# none\n");
    assert_eq!(world.rescan().unread, 0);
    // A file that was good once keeps its last good content.
    world.write("good.yaml", "kind: [");
    assert_eq!(world.rescan().unread, 0);
}

#[test]
fn a_constantly_rewritten_file_is_accepted_after_a_while() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
    let mut looks = 0;
    while world.known() == ["a:1@a.yaml"] {
        looks += 1;
        assert!(looks < 100);
        world.wait(3);
        world.write_now("a.yaml", &plain("a", 2 + looks));
        world.touch(&["a.yaml"]);
    }
    assert!((60..80).contains(&looks), "{looks}");
}

#[test]
fn a_broken_file_keeps_its_last_good_content_and_is_reported() {
    for broken in ["kind: [", "\u{0}", "word", "kind: Service\nkind: Service\n"] {
        let mut world = Fixture::new(&[("a.yaml", &plain("a", 1)), ("b.yaml", &plain("b", 2))]);
        world.write("a.yaml", broken);
        world.write("b.yaml", &plain("b", 3));
        let scan = world.rescan();
        assert_eq!(told(&scan), ["+b:3@b.yaml"], "of {broken:?}");
        assert!(scan.problems_changed);
        assert_eq!(world.problems().len(), 1);
        assert!(world.problems()[0].starts_with("a.yaml:"), "{:?}", world.problems());
        assert_eq!(world.known(), ["a:1@a.yaml", "b:3@b.yaml"]);

        let again = world.rescan();
        assert_eq!((told(&again).len(), again.problems_changed), (0, false));
        world.write("a.yaml", &plain("a", 7));
        assert_eq!(told(&world.touch(&["a.yaml"])), ["+a:7@a.yaml"]);
        assert_eq!(world.problems(), NOTHING);
    }
}

#[test]
fn a_half_written_file_keeps_its_last_good_content() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
    let new = plain("a", 2);
    let half = new.rfind("port:").unwrap() + 3;
    world.write("a.yaml", &new[..half]);
    world.touch(&["a.yaml"]);
    assert_eq!(world.known(), ["a:1@a.yaml"]);
    world.write("a.yaml", &new);
    assert_eq!(told(&world.touch(&["a.yaml"])), ["+a:2@a.yaml"]);
}

#[test]
fn a_broken_object_keeps_its_last_good_version_while_others_apply() {
    let two = |a, b| format!("{}---\n{}", plain("a", a), plain("b", b));
    let mut world = Fixture::new(&[("x.yaml", &two(1, 1))]);
    world.write("x.yaml", &two(0, 2));
    assert_eq!(told(&world.touch(&["x.yaml"])), ["+b:2@x.yaml"]);
    assert_eq!(world.known(), ["a:1@x.yaml", "b:2@x.yaml"]);
    assert_eq!(
        world.problems(),
        ["x.yaml:8:11: Service default/a: spec.ports[0].port: 0 is not in 1..65535"]
    );
    world.write("x.yaml", &plain("b", 3));
    assert_eq!(told(&world.touch(&["x.yaml"])), ["-Service default/a", "+b:3@x.yaml"]);
    assert_eq!(world.problems(), NOTHING);
}

#[test]
fn a_nameless_object_keeps_the_objects_of_its_file() {
    let mut world =
        Fixture::new(&[("x.yaml", &format!("{}---\n{}", plain("a", 1), plain("b", 1)))]);
    world.write("x.yaml", &format!("{}---\n{}", plain("7", 1), plain("b", 2)));
    assert_eq!(told(&world.touch(&["x.yaml"])), ["+b:2@x.yaml"]);
    assert_eq!(world.known(), ["a:1@x.yaml", "b:2@x.yaml"]);
    assert_eq!(world.problems().len(), 1);
}

/// Clients that could not connect before must not be able to now.
#[test]
fn an_invalid_source_range_keeps_the_last_good_service() {
    let balancer = |ranges: &str| {
        plain("lb", 1).replace(
            "spec:\n",
            &format!("spec:\n  type: LoadBalancer\n  loadBalancerSourceRanges: {ranges}\n"),
        )
    };
    let mut world = Fixture::new(&[("lb.yaml", &balancer("[203.0.113.0/25]"))]);
    for ranges in ["[203.0.113.7]", "[203.0.113.0/33]", "['']", "[10.0.0.0/8, bogus]", "10.0.0.0/8"]
    {
        world.write("lb.yaml", &balancer(ranges));
        assert_eq!(told(&world.touch(&["lb.yaml"])), [""; 0], "of {ranges}");
        assert_eq!(world.problems().len(), 1, "of {ranges}");
    }
    let world = Fixture::new(&[("lb.yaml", &balancer("[203.0.113.7]"))]);
    assert_eq!(world.known(), [""; 0], "there is no good content");
}

#[test]
fn a_never_valid_object_is_left_out() {
    let world = Fixture::new(&[("a.yaml", &plain("a", 0)), ("b.yaml", &plain("b", 1))]);
    assert_eq!(world.known(), ["b:1@b.yaml"]);
    assert_eq!(world.problems().len(), 1);
}

#[test]
fn the_last_file_with_an_object_takes_precedence() {
    let mut world = Fixture::new(&[("a.yaml", &plain("x", 1)), ("c.yaml", &plain("x", 3))]);
    assert_eq!(world.known(), ["x:3@c.yaml"]);
    let both = "c.yaml: Service default/x: also defined in a.yaml; c.yaml takes precedence";
    assert_eq!(world.problems(), [both]);
    let problem = world.manifests.problems().iter().next().unwrap();
    assert_eq!(problem.severity, crate::Severity::Error);

    world.write("a.yaml", &plain("x", 9));
    let scan = world.touch(&["a.yaml"]);
    assert_eq!((told(&scan).len(), scan.problems_changed), (0, false));

    world.write("b.yaml", &plain("x", 2));
    let scan = world.touch(&["b.yaml"]);
    assert_eq!((told(&scan).len(), scan.problems_changed), (0, true));
    assert!(world.problems()[0].contains("also defined in a.yaml, b.yaml;"));

    std::fs::remove_file(world.path("c.yaml")).unwrap();
    assert_eq!(told(&world.touch(&["c.yaml"])), ["+x:2@b.yaml"]);
    std::fs::remove_file(world.path("a.yaml")).unwrap();
    assert_eq!(told(&world.touch(&["a.yaml"])), NOTHING);
    assert_eq!(world.problems(), NOTHING);
}

#[test]
fn the_last_definition_in_a_file_takes_precedence() {
    let world = Fixture::new(&[("a.yaml", &format!("{}---\n{}", plain("x", 1), plain("x", 2)))]);
    assert_eq!(world.known(), ["x:2@a.yaml"]);
    let message =
        "a.yaml: Service default/x: defined more than once in this file; the last one is used";
    assert_eq!(world.problems(), [message]);
}

#[test]
fn a_renamed_file_changes_only_the_provenance() {
    for names in [&["a.yaml", "b.yaml"][..], &["a.yaml"], &["b.yaml", "a.yaml"]] {
        let mut world = Fixture::new(&[("a.yaml", &plain("x", 1))]);
        std::fs::rename(world.path("a.yaml"), world.path("b.yaml")).unwrap();
        let scan = world.touch(names);
        assert_eq!(told(&scan), ["+x:1@b.yaml"], "of {names:?}");
        assert_eq!(scan.suppressed, 0);
        assert_eq!(told(&world.touch(&["b.yaml"])), NOTHING);
    }
}

#[test]
fn an_edit_in_place_is_not_a_removal() {
    let mut world = Fixture::new(&[("a.yaml", &plain("x", 1))]);
    world.write("a.yaml", &plain("x", 2));
    assert_eq!(told(&world.touch(&["a.yaml"])), ["+x:2@a.yaml"]);
    world.write("a.yaml", &plain("y", 2));
    assert_eq!(told(&world.touch(&["a.yaml"])), ["-Service default/x", "+y:2@a.yaml"]);
}

#[test]
fn edits_without_effect_are_suppressed_and_counted() {
    let text = format!("{}---\n{}", plain("a", 1), plain("b", 2));
    let mut world = Fixture::new(&[("x.yaml", &text)]);
    let other = [
        format!("# a comment\n{text}"),
        format!("{}---\n{}", plain("b", 2), plain("a", 1)),
        text.replace(
            "  clusterIP: 10.90.0.10\n",
            "  clusterIP: '10.90.000.010'\n  type: ClusterIP\n",
        ),
        text.replace("metadata:\n", "metadata:\n  resourceVersion: '7'\n  annotations: {a: b}\n"),
    ];
    for text in other {
        world.write("x.yaml", &text);
        let scan = world.touch(&["x.yaml"]);
        assert_eq!(
            (told(&scan).len(), scan.suppressed, scan.problems_changed),
            (0, 2, false),
            "{text}"
        );
    }
    // Some annotations have a meaning.
    let annotated = text.replacen(
        "metadata:\n",
        "metadata:\n  annotations: {a: b, rulec.io/ipvs-scheduler: lc}\n",
        1,
    );
    for (text, news, suppressed) in
        [(annotated.clone(), 1, 1), (annotated.replace("a: b", "a: c"), 0, 2)]
    {
        world.write("x.yaml", &text);
        let scan = world.touch(&["x.yaml"]);
        assert_eq!((told(&scan).len(), scan.suppressed), (news, suppressed), "{text}");
    }
    let before = world.rescan();
    assert_eq!((told(&before).len(), before.suppressed), (0, 0));
    date(&world.path("x.yaml"), world.now);
    let touched = world.touch(&["x.yaml"]);
    assert_eq!((told(&touched).len(), touched.suppressed), (0, 0));
}

#[test]
fn a_mounted_config_map_is_followed_through_its_links() {
    let mut world = Fixture::new(&[]);
    let version = |world: &Fixture, name: &str, port| {
        std::fs::create_dir(world.path(name)).unwrap();
        write(&world.path(name), "web.yaml", &plain("web", port));
    };
    version(&world, "..2024_1", 1);
    symlink("..2024_1", world.path("..data")).unwrap();
    symlink("..data/web.yaml", world.path("web.yaml")).unwrap();
    assert_eq!(told(&world.touch(&["..2024_1", "..data", "web.yaml"])), ["+web:1@web.yaml"]);

    version(&world, "..2024_2", 2);
    symlink("..2024_2", world.path("..data_tmp")).unwrap();
    std::fs::rename(world.path("..data_tmp"), world.path("..data")).unwrap();
    std::fs::remove_dir_all(world.path("..2024_1")).unwrap();
    let scan = world.touch(&["..2024_2", "..data_tmp", "..data", "..2024_1"]);
    assert_eq!(told(&scan), ["+web:2@web.yaml"]);
    assert_eq!(world.problems(), NOTHING);
}

#[test]
fn objects_are_kept_while_their_directory_is_missing() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
    let aside = world.directory.path().with_extension("aside");
    std::fs::rename(world.directory.path(), &aside).unwrap();
    for scan in [world.touch(&["a.yaml"]), world.list(), world.rescan()] {
        assert_eq!((told(&scan).len(), scan.held), (0, true));
    }
    let said = format!(
        "{}: there is no such file or directory; its last good content stays: 1 Service, 1 \
         object in all",
        world.directory.path().display()
    );
    assert_eq!(world.problems(), [said]);
    std::fs::rename(&aside, world.directory.path()).unwrap();
    assert_eq!(told(&world.list()), NOTHING);
    assert_eq!((world.problems().len(), world.known()), (0, vec!["a:1@a.yaml".to_owned()]));
    // An empty directory has no objects, also if it is a new one.
    std::fs::rename(world.directory.path(), &aside).unwrap();
    std::fs::create_dir(world.directory.path()).unwrap();
    assert_eq!(told(&world.list()), ["-Service default/a"]);
    std::fs::remove_dir_all(&aside).unwrap();
}

#[test]
fn a_removed_file_removes_its_objects() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1)), ("b.yaml", &plain("b", 1))]);
    std::fs::remove_file(world.path("a.yaml")).unwrap();
    assert_eq!(told(&world.touch(&["a.yaml"])), ["-Service default/a"]);
    std::fs::remove_file(world.path("b.yaml")).unwrap();
    assert_eq!(told(&world.list()), ["-Service default/b"]);
}

#[test]
fn an_emptied_file_is_accepted_only_after_a_delay() {
    for blank in ["\n", "# later\n", "---\n"] {
        let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
        world.write_now("a.yaml", blank);
        let scan = world.touch(&["a.yaml"]);
        assert_eq!((told(&scan).len(), scan.unsettled), (0, true), "of {blank:?}");
        world.wait(60);
        let scan = world.rescan();
        assert_eq!((told(&scan).len(), scan.unsettled), (0, true), "of {blank:?}");
        world.wait(60);
        let scan = world.touch(&[]);
        assert_eq!(
            (&*told(&scan), scan.unsettled),
            (&["-Service default/a".to_owned()][..], false)
        );
    }
}

/// Its writer may not be known yet.
#[test]
fn a_file_that_breaks_off_is_reported_only_after_a_delay() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
    for (name, problems) in [("a.yaml", 1), ("new.yaml", 2)] {
        world.write_now(name, "kind: Service\nspec: {ports: [");
        let scan = world.touch(&[name]);
        assert_eq!((told(&scan).len(), scan.unsettled), (0, true), "{name}");
        assert_eq!(world.problems().len(), problems - 1, "{name}");
        world.wait(120);
        let scan = world.touch(&[]);
        assert_eq!((told(&scan).len(), scan.unsettled), (0, false), "{name}");
        assert_eq!(world.problems().len(), problems, "{name}: {:?}", world.problems());
    }
}

#[test]
fn an_empty_file_or_dangling_link_keeps_its_last_good_content() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
    world.write("a.yaml", "");
    let scan = world.rescan();
    assert_eq!((told(&scan).len(), scan.unsettled), (0, false));
    assert_eq!(world.problems(), ["a.yaml: is empty (0 bytes); its last good content stays"]);
    assert!(!world.rescan().problems_changed);
    std::fs::remove_file(world.path("a.yaml")).unwrap();
    symlink("nowhere", world.path("a.yaml")).unwrap();
    assert_eq!(told(&world.list()), NOTHING);
    assert_eq!(world.problems(), ["a.yaml: a dangling symbolic link; its last good content stays"]);
    std::fs::remove_file(world.path("a.yaml")).unwrap();
    assert_eq!(told(&world.list()), ["-Service default/a"]);
}

#[test]
fn a_briefly_empty_file_is_not_a_change() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
    world.write_now("a.yaml", "");
    assert!(world.touch(&["a.yaml"]).unsettled);
    world.write("a.yaml", &plain("a", 1));
    world.wait(200);
    let scan = world.touch(&[]);
    assert_eq!((told(&scan).len(), scan.unsettled, scan.suppressed), (0, false, 0));
    world.write_now("a.yaml", "");
    assert!(world.touch(&["a.yaml"]).unsettled);
    world.write("a.yaml", &plain("a", 2));
    assert_eq!(told(&world.touch(&["a.yaml"])), ["+a:2@a.yaml"]);
}

#[test]
fn a_service_given_to_another_proxy_is_removed_at_once() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
    let label = "metadata:\n  labels: {service.kubernetes.io/service-proxy-name: x}\n";
    world.write("a.yaml", &plain("a", 1).replace("metadata:\n", label));
    let scan = world.touch(&["a.yaml"]);
    assert_eq!((&*told(&scan), scan.unsettled), (&["-Service default/a".to_owned()][..], false));
    world.write("a.yaml", &plain("a", 1));
    assert_eq!(told(&world.touch(&["a.yaml"])), ["+a:1@a.yaml"]);
}

#[test]
fn an_unreadable_entry_keeps_its_last_good_content() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
    std::fs::remove_file(world.path("a.yaml")).unwrap();
    symlink("a.yaml", world.path("a.yaml")).unwrap();
    assert_eq!(told(&world.touch(&["a.yaml"])), NOTHING);
    assert!(world.problems()[0].starts_with("a.yaml: cannot be read: "), "{:?}", world.problems());
    assert_eq!(world.known(), ["a:1@a.yaml"]);
    std::fs::remove_file(world.path("a.yaml")).unwrap();
    world.write("a.yaml", &plain("a", 1));
    assert_eq!(told(&world.touch(&["a.yaml"])), NOTHING);
    assert_eq!(world.problems(), NOTHING);
}

#[test]
fn an_inaccessible_path_keeps_its_last_good_content() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
    let aside = world.directory.path().with_extension("aside");
    std::fs::rename(world.directory.path(), &aside).unwrap();
    symlink(world.directory.path(), world.directory.path()).unwrap();
    assert_eq!(told(&world.rescan()), NOTHING);
    let said = format!("{}: cannot be accessed: ", world.directory.path().display());
    assert!(world.problems()[0].starts_with(&said), "{:?}", world.problems());
    let mut fresh = Manifests::new(world.directory.path().to_owned());
    assert_eq!(told(&fresh.rescan(world.now)), NOTHING);
    std::fs::remove_file(world.directory.path()).unwrap();
    std::fs::rename(&aside, world.directory.path()).unwrap();
    assert_eq!(told(&fresh.refresh(&BTreeSet::new(), false, world.now)), ["=[\"a:1\"]"]);
    assert_eq!(told(&world.rescan()), NOTHING);
    assert_eq!(world.problems(), NOTHING);
}

#[test]
fn a_directory_without_permission_keeps_its_last_good_content() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(world.directory.path(), mode(0o000)).unwrap();
    let denied = std::fs::read_dir(world.directory.path()).is_err();
    let scan = world.rescan();
    std::fs::set_permissions(world.directory.path(), mode(0o755)).unwrap();
    assert_eq!(told(&scan), NOTHING);
    assert_eq!(world.known(), ["a:1@a.yaml"]);
    // Root can read the directory anyway; then there is no problem.
    assert_eq!(!world.problems().is_empty(), denied);
}

#[test]
fn a_single_file_is_read_whatever_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(".web.yaml.bak");
    write(directory.path(), ".web.yaml.bak", &plain("a", 1));
    write(directory.path(), "other.yaml", &plain("b", 1));
    let mut manifests = Manifests::new(path.clone());
    let now = later();
    assert_eq!(told(&manifests.rescan(now)), ["=[\"a:1\"]"]);
    let new = directory.path().join("new");
    std::fs::write(&new, plain("a", 2)).unwrap();
    std::fs::rename(&new, &path).unwrap();
    let scan = manifests.refresh(&BTreeSet::new(), true, now);
    assert_eq!(told(&scan), ["+a:2@.web.yaml.bak"]);
    std::fs::write(&path, "a: [").unwrap();
    assert_eq!(told(&manifests.rescan(now)), NOTHING);
    std::fs::write(&path, "").unwrap();
    date(&path, now);
    assert!(manifests.rescan(now).unsettled);
    assert_eq!(told(&manifests.rescan(now + Duration::from_secs(1))), NOTHING);
    std::fs::remove_file(&path).unwrap();
    let scan = manifests.rescan(now);
    assert_eq!((told(&scan).len(), scan.held), (0, true), "a missing file is not an empty list");
    std::fs::write(&path, "# no objects\n").unwrap();
    assert_eq!(told(&manifests.rescan(now)), ["-Service default/a"]);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    write(
        &path,
        "x.json",
        "{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"na\"}}",
    );
    assert_eq!(told(&manifests.rescan(now)), ["+Node na@x.json"]);
}

#[test]
fn a_hint_reads_only_the_named_files() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1)), ("b.yaml", &plain("b", 1))]);
    world.write("a.yaml", &plain("a", 2));
    world.write("b.yaml", &plain("b", 2));
    assert_eq!(told(&world.touch(&["b.yaml"])), ["+b:2@b.yaml"]);
    assert_eq!(told(&world.touch(&[".hidden"])), NOTHING);
    assert_eq!(told(&world.rescan()), ["+a:2@a.yaml"]);
}

#[test]
fn a_listing_finds_files_with_a_changed_stamp() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1)), ("b.yaml", &plain("b", 1))]);
    world.write("a.yaml", &plain("a", 10));
    std::fs::remove_file(world.path("b.yaml")).unwrap();
    world.write("c.yaml", &plain("c", 1));
    let scan = world.list();
    assert_eq!(told(&scan), ["-Service default/b", "+a:10@a.yaml", "+c:1@c.yaml"]);
}

#[test]
fn a_rescan_finds_edits_with_an_unchanged_stamp() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
    let path = world.path("a.yaml");
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    world.write("a.yaml", &plain("a", 2));
    date(&path, before);
    assert_eq!(told(&world.rescan()), ["+a:2@a.yaml"]);
}

#[test]
fn a_one_shot_read_returns_all_objects_or_an_error() {
    let world = Fixture::new(&[("a.yaml", &plain("a", 1)), ("b.yaml", "a: [")]);
    let reading = read(world.directory.path()).unwrap();
    assert_eq!((reading.objects.len(), reading.problems.len()), (1, 1));
    assert_eq!(read(&world.path("a.yaml")).unwrap().objects, reading.objects);
    let missing = world.path("missing");
    let error = read(&missing).unwrap_err();
    assert!(matches!(&error, SourceError::Unreadable { path, .. } if *path == missing));
    assert_eq!(error.to_string(), format!("{}: cannot be read", missing.display()));
}

#[test]
fn non_unicode_file_names_are_distinguished() {
    use std::os::unix::ffi::OsStrExt;
    let directory = tempfile::tempdir().unwrap();
    for (bytes, name) in [(&b"\xff.yaml"[..], "a"), (b"\xfe.yaml", "b")] {
        let path = directory.path().join(Path::new(std::ffi::OsStr::from_bytes(bytes)));
        std::fs::write(path, plain(name, 1)).unwrap();
    }
    let reading = read(directory.path()).unwrap();
    assert_eq!((reading.objects.len(), reading.problems.len()), (2, 0));
}

#[test]
fn endpoints_share_repeated_names() {
    let mut text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {name: a, labels: {kubernetes.io/service-name: a}}\nendpoints:\n".to_owned();
    for number in 0..200 {
        text += &format!("- {{addresses: [10.0.0.{number}], nodeName: node-with-a-long-name}}\n");
    }
    let named = |name: &str| text.replace("name: a,", &format!("name: {name},"));
    const FILES: usize = 20;
    let files: Vec<(String, String)> =
        (0..FILES).map(|number| (format!("{number}.yaml"), named(&format!("s{number}")))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    let mut world = Fixture::new(&files);
    let nodes = |world: &Fixture| {
        let mut nodes = BTreeSet::new();
        for sourced in world.manifests.objects() {
            let Object::EndpointSlice(slice) = &sourced.object else { panic!("{sourced:?}") };
            assert_eq!(slice.endpoints.len(), 200);
            let names = slice.endpoints.iter().map(|one| one.node.as_ref().unwrap().as_str());
            let own: BTreeSet<*const u8> = names.map(str::as_ptr).collect();
            assert_eq!(own.len(), 1, "a file has one copy");
            nodes.extend(own);
        }
        nodes
    };
    // The files of a first look are decoded by several threads, each with its own copy.
    let first = nodes(&world);
    assert!(first.len() <= 8, "{} copies of {FILES}", first.len());
    world.write("c.yaml", &named("c"));
    world.rescan();
    assert_eq!(nodes(&world), first, "later files share what is there");
}

#[test]
fn a_file_is_read_only_after_its_writer_is_done() {
    let both = format!("{}---\n{}", plain("a", 1), plain("b", 1));
    let mut world = Fixture::new(&[("x.yaml", &both)]);
    world.writers.begin("x.yaml".as_ref(), Instant::now());
    // An empty file, a broken object, fewer objects, and another object.
    for part in ["", "a: [", &both[..40], &plain("a", 1), &plain("a", 2), &plain("c", 1)] {
        world.write("x.yaml", part);
        for scan in [world.touch(&["x.yaml"]), world.rescan(), world.list()] {
            let waits = (told(&scan).len(), scan.problems_changed, scan.unsettled);
            assert_eq!(waits, (0, false, false), "of {part:?}");
        }
    }
    // Other files are not delayed.
    world.write("y.yaml", &plain("y", 1));
    assert_eq!(told(&world.list()), ["+y:1@y.yaml"]);
    close(&world, "x.yaml");
    assert_eq!(told(&world.list()), ["-Service default/a", "-Service default/b", "+c:1@x.yaml"]);
}

#[test]
fn a_new_file_is_ignored_until_its_writer_is_done() {
    let mut world = Fixture::new(&[]);
    world.writers.begin("x.yaml".as_ref(), Instant::now());
    world.write("x.yaml", "kind: [");
    let scan = world.touch(&["x.yaml"]);
    assert_eq!((told(&scan).len(), scan.problems_changed), (0, false));
    world.write("x.yaml", &plain("x", 1));
    close(&world, "x.yaml");
    assert_eq!(told(&world.touch(&["x.yaml"])), ["+x:1@x.yaml"]);
}

#[test]
fn the_first_list_waits_for_writers() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "x.yaml", "");
    write(directory.path(), "y.yaml", &plain("y", 1));
    let writers = Arc::<Writers>::default();
    writers.begin("x.yaml".as_ref(), Instant::now());
    let mut manifests = Manifests::beside(directory.path().to_owned(), writers.clone());
    assert_eq!(told(&manifests.rescan(later())), NOTHING);
    write(directory.path(), "x.yaml", &plain("x", 1));
    assert_eq!(writers.give_up(Instant::now() + MAX_WRITE_TIME), ["x.yaml"]);
    let names = BTreeSet::from(["x.yaml".into()]);
    assert_eq!(told(&manifests.refresh(&names, false, later())), ["=[\"x:1\", \"y:1\"]"]);
}

/// The moment between a write and its event.
#[test]
fn a_just_written_file_is_accepted_after_a_delay() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1))]);
    world.write_now("a.yaml", &plain("b", 1));
    let scan = world.rescan();
    assert_eq!((told(&scan).len(), scan.unsettled), (0, true));
    world.wait(9);
    assert!(world.touch(&[]).unsettled);
    world.wait(1);
    let scan = world.touch(&[]);
    assert_eq!(told(&scan), ["-Service default/a", "+b:1@a.yaml"]);
    assert!(!scan.unsettled);
    // A file may have any date.
    for date_of in [SystemTime::UNIX_EPOCH, world.now + Duration::from_secs(86_400)] {
        world.write("a.yaml", &plain("c", 1));
        date(&world.path("a.yaml"), date_of);
        assert!(!world.touch(&["a.yaml"]).unsettled);
        assert_eq!(world.known(), ["c:1@a.yaml"]);
    }
}

/// The cost of an edit depends on the edit: the problems of thousands of other files are shared
/// with the receiver, and are neither built nor compared again.
#[test]
fn an_edit_reports_only_its_own_problems() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..5_000 {
        write(directory.path(), &format!("b{number}.yaml"), "kind: [\n");
    }
    write(directory.path(), "web.yaml", "kind: [\n");
    let mut manifests = Manifests::new(directory.path().to_owned());
    manifests.rescan(later());
    let before = manifests.problems().clone();
    assert_eq!(before.len(), 5_001);
    write(directory.path(), "web.yaml", "kind: ]\n");
    let scan = manifests.refresh(&BTreeSet::from(["web.yaml".into()]), false, later());
    assert!(scan.problems_changed);
    let now = manifests.problems().clone();
    let changed = before.diff(&now).map(|item| match item {
        im::ordset::DiffItem::Add(problem) | im::ordset::DiffItem::Remove(problem) => {
            &*problem.path
        }
    });
    assert_eq!(changed.collect::<Vec<_>>(), ["web.yaml", "web.yaml"]);
}

/// Reads a directory as the next process does, with the state that this one has saved.
fn next_run(world: &mut Fixture, path: &Path) -> (Manifests, Scan) {
    let (left, _) = world.manifests.saved();
    let mut manifests = Manifests::new(path.to_owned());
    manifests.take_over(left.clone());
    let scan = manifests.rescan(world.now);
    (manifests, scan)
}

#[test]
fn the_last_good_content_of_a_file_survives_a_restart() {
    let half = format!("{}---\n{}", plain("p", 1), plain("q", 1));
    let mut world = Fixture::new(&[
        ("broken.yaml", &plain("a", 1)),
        ("empty.yaml", &plain("b", 1)),
        ("gone.yaml", &plain("c", 1)),
        ("half.yaml", &half),
        ("whole.yaml", &plain("d", 1)),
    ]);
    assert!(world.manifests.saved().1, "it has changed");
    world.rescan();
    assert!(!world.manifests.saved().1);
    world.write("broken.yaml", "kind: [");
    world.write("empty.yaml", "");
    world.write("half.yaml", &half.replacen("port: 1", "port: 0", 1));
    world.write("whole.yaml", &plain("d", 2));
    std::fs::remove_file(world.path("gone.yaml")).unwrap();
    let path = world.directory.path().to_owned();
    let (manifests, scan) = next_run(&mut world, &path);
    assert_eq!(told(&scan), ["=[\"a:1\", \"b:1\", \"d:2\", \"p:1\", \"q:1\"]"]);
    assert_eq!((scan.unread, scan.held), (0, false));
    let problems: Vec<String> = manifests.problems().iter().map(ToString::to_string).collect();
    assert!(problems[1].starts_with("empty.yaml: is empty (0 bytes); its last good content stays"));
    // The state that this run saves is the same again, except for the file that is gone.
    world.manifests = manifests;
    let (_, scan) = next_run(&mut world, &path);
    assert_eq!(told(&scan), ["=[\"a:1\", \"b:1\", \"d:2\", \"p:1\", \"q:1\"]"]);
}

#[test]
fn the_saved_content_replaces_a_missing_directory() {
    let mut world = Fixture::new(&[("a.yaml", &plain("a", 1)), ("b.yaml", &plain("b", 1))]);
    let (path, aside) = (world.directory.path().to_owned(), world.path("").with_extension("aside"));
    std::fs::rename(&path, &aside).unwrap();
    let (mut manifests, scan) = next_run(&mut world, &path);
    assert_eq!((told(&scan), scan.held), (vec!["=[\"a:1\", \"b:1\"]".to_owned()], true));
    let said = manifests.problems().iter().next().unwrap().to_string();
    assert!(said.ends_with("its last good content stays: 2 Services, 2 objects in all"), "{said}");
    std::fs::remove_file(aside.join("a.yaml")).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    let scan = manifests.refresh(&BTreeSet::new(), true, world.now);
    assert_eq!((told(&scan), scan.held), (vec!["-Service default/a".to_owned()], false));
    // An empty directory leaves nothing that could stand in for it.
    let mut nothing = Fixture::new(&[]);
    std::fs::rename(&path, &aside).unwrap();
    assert_eq!(told(&next_run(&mut nothing, &path).1), NOTHING);
    std::fs::rename(&aside, &path).unwrap();
}

#[test]
fn a_never_readable_file_is_counted_by_each_run() {
    let half = format!("{}---\n{}", plain("a", 1), plain("7", 1));
    let mut world = Fixture::new(&[("half.yaml", &half), ("whole.yaml", &plain("b", 1))]);
    let path = world.directory.path().to_owned();
    for run in 1..=3 {
        let (manifests, scan) = next_run(&mut world, &path);
        assert_eq!(
            (scan.unread, told(&scan)),
            (1, vec!["=[\"a:1\", \"b:1\"]".to_owned()]),
            "{run}"
        );
        world.manifests = manifests;
    }
    // Once the file was complete, it has a last good content when it is broken.
    world.write("half.yaml", &half.replace("name: 7", "name: c"));
    assert_eq!(told(&world.rescan()), ["+c:1@half.yaml"]);
    world.write("half.yaml", &half);
    let (_, scan) = next_run(&mut world, &path);
    assert_eq!((scan.unread, told(&scan)), (0, vec!["=[\"a:1\", \"b:1\", \"c:1\"]".to_owned()]));
}
