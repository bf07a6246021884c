//! Describes commits in the log: which Services changed, and how.
//!
//! The description is computed after the kernel's acknowledgement, from what was applied before and
//! after, without looking at what both have in common. On a busy node, most commits are only
//! counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Backend;
use rulec_compiler::plural::counted;
use rulec_compiler::{Frontend, Program};

use rulec_engine::Committed;

use crate::limits::{Bucket, Rate};

/// The rate of lines about commits.
const RATE: Rate = Rate { burst: 20, period: Duration::from_secs(10) };

/// How many Services are named.
const MAX_SERVICES: usize = 5;

/// How many frontends or backends of each Service are named.
const MAX_NAMES: usize = 3;

/// Describes commits, within the rate limit.
#[derive(Debug)]
pub struct Commits {
    bucket: Bucket,
    /// How many commits were not described.
    unsaid: u64,
}

impl Commits {
    /// Starts without commits.
    pub fn new(now: Instant) -> Self {
        Self { bucket: Bucket::new(RATE, now), unsaid: 0 }
    }

    /// Returns the line about a commit, if the rate limit allows one now.
    pub fn tell(&mut self, commit: &Committed, now: Instant) -> Option<String> {
        if !self.bucket.take(now) {
            self.unsaid += 1;
            return None;
        }
        let text = describe(commit);
        Some(match std::mem::take(&mut self.unsaid) {
            0 => text,
            unsaid => format!("{text}; {} before", counted(unsaid, "more commit")),
        })
    }

    /// Returns the line that counts undescribed commits, if the rate limit allows one now.
    pub fn due(&mut self, now: Instant) -> Option<String> {
        if self.unsaid == 0 || !self.bucket.take(now) {
            return None;
        }
        let unsaid = std::mem::take(&mut self.unsaid);
        let more = counted(unsaid, "more commit");
        Some(format!("{more}; --log-level debug shows each"))
    }

    /// Returns when to call `due`.
    pub fn deadline(&self) -> Option<Instant> {
        (self.unsaid > 0).then(|| self.bucket.next())
    }
}

/// Returns what changed, in one line.
fn describe(commit: &Committed) -> String {
    let Committed { before, after, operations } = commit;
    let Some(before) = before else {
        let operations = counted(*operations, "operation");
        return format!("reconciled the kernel with the sources: {operations}");
    };
    let mut services: BTreeMap<&NamespacedName, BTreeSet<Frontend>> = BTreeMap::new();
    for frontend in before.changed_frontends(after) {
        for program in [before, after] {
            if let Some(winner) = program.winner(frontend) {
                services.entry(&winner.owner.service).or_default().insert(frontend);
            }
        }
    }
    let named = services.iter().take(MAX_SERVICES);
    let mut parts: Vec<String> = named
        .map(|(service, frontends)| format!("{service}: {}", change(commit, service, frontends)))
        .collect();
    match services.len().saturating_sub(MAX_SERVICES) {
        0 => {}
        more => parts.push(format!("and {}", counted(more, "more Service"))),
    }
    if parts.is_empty() {
        return format!("no frontend changed: {}", counted(*operations, "operation"));
    }
    parts.join("; ")
}

/// Returns what changed for one Service.
fn change(commit: &Committed, service: &NamespacedName, frontends: &BTreeSet<Frontend>) -> String {
    let Some(before) = &commit.before else { return String::new() };
    let [old, new] = [before, &commit.after].map(|program| Seen::of(program, service, frontends));
    if new.frontends.is_empty() && commit.after.fragment(service).is_none() {
        return "gone".to_owned();
    }
    if before.fragment(service).is_none() {
        let frontends = counted(new.frontends.len(), "frontend");
        return format!("new, {frontends}, {}", counted(new.backends.len(), "backend"));
    }
    let mut parts = Vec::new();
    parts.extend(signed('+', "frontend", new.frontends.difference(&old.frontends)));
    parts.extend(signed('−', "frontend", old.frontends.difference(&new.frontends)));
    parts.extend(signed('+', "backend", new.backends.difference(&old.backends)));
    let removed = signed('−', "backend", old.backends.difference(&new.backends));
    let end = if removed.is_some() { "left" } else { "now" };
    parts.extend(removed);
    if parts.is_empty() {
        return "handled differently".to_owned();
    }
    if old.backends != new.backends {
        parts.push(format!("{} {end}", new.backends.len()));
    }
    parts.join(", ")
}

/// The frontends and backends of a Service, among given frontends.
#[derive(Default)]
struct Seen {
    frontends: BTreeSet<Frontend>,
    backends: BTreeSet<Backend>,
}

impl Seen {
    fn of(program: &Program, service: &NamespacedName, frontends: &BTreeSet<Frontend>) -> Self {
        let mut seen = Self::default();
        for frontend in frontends {
            let Some(winner) = program.winner(*frontend) else { continue };
            if winner.owner.service != *service {
                continue;
            }
            seen.frontends.insert(*frontend);
            let groups = std::iter::once(&winner.target.group).chain(winner.local());
            let slots = groups.flat_map(|group| group.slots.iter());
            seen.backends.extend(slots.map(|slot| slot.backend));
        }
        seen
    }
}

/// Returns text such as `−2 backends 10.88.0.6:8080, 10.88.0.7:8080`, unless there are no items.
fn signed<T: ToString>(sign: char, what: &str, items: impl Iterator<Item = T>) -> Option<String> {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    if items.is_empty() {
        return None;
    }
    let names = items.get(..MAX_NAMES).unwrap_or(&items).join(", ");
    let more = match items.len().saturating_sub(MAX_NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("{sign}{} {names}{more}", counted(items.len(), what)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use rulec_compiler::{Change, Model, Origin, Settings, State};

    use super::*;

    /// A Service `name` at an address, with endpoints.
    fn service(name: &str, address: &str, more: &str, endpoints: &[&str]) -> String {
        let mut text = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
             clusterIP: {address}\n  ports: [{{port: 80, targetPort: 8080}}]\n{more}"
        );
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  \
             namespace: default\n  labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\n\
             ports: [{{port: 8080, protocol: TCP}}]\nendpoints:\n"
        );
        for endpoint in endpoints {
            text += &format!("  - {{addresses: [{endpoint}], nodeName: nb}}\n");
        }
        text
    }

    fn compiled(yaml: &str) -> Program {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("all.yaml");
        fs::write(&path, format!("# Objects, if any.\n{yaml}")).unwrap();
        let reading = rulec_sources::read(&path).unwrap();
        assert!(reading.problems.is_empty(), "{:?}", reading.problems);
        let mut model = Model::default();
        model.apply(Origin::Manifests, Change::everything(reading.objects));
        let settings = Settings::new("na".into());
        Program::compile(&model, Arc::new(settings), &State::default())
    }

    fn described(before: &str, after: &str) -> String {
        let before = Some(compiled(before));
        describe(&Committed { before, after: compiled(after), operations: 3 })
    }

    #[test]
    fn a_line_names_the_service_and_its_changes() {
        let web = |endpoints: &[&str]| service("web", "10.96.0.10", "", endpoints);
        let (six, seven) = ("10.88.0.6", "10.88.0.7");
        let line = |before: &[&str], after: &[&str]| described(&web(before), &web(after));
        assert_eq!(line(&[six, seven], &[seven]), "default/web: −1 backend 10.88.0.6:8080, 1 left");
        assert_eq!(line(&[six], &[six, seven]), "default/web: +1 backend 10.88.0.7:8080, 2 now");
        assert_eq!(
            line(&[six], &[seven]),
            "default/web: +1 backend 10.88.0.7:8080, −1 backend 10.88.0.6:8080, 1 left"
        );
        assert_eq!(line(&[six], &[]), "default/web: −1 backend 10.88.0.6:8080, 0 left");
        let many = ["10.88.0.1", "10.88.0.2", "10.88.0.3", "10.88.0.4", "10.88.0.5"];
        assert_eq!(
            line(&many, &[]),
            "default/web: −5 backends 10.88.0.1:8080, 10.88.0.2:8080, 10.88.0.3:8080 and 2 more, 0 left"
        );
        assert_eq!(described("", &web(&[six])), "default/web: new, 1 frontend, 1 backend");
        assert_eq!(described(&web(&[six]), ""), "default/web: gone");
        let external = service("web", "10.96.0.10", "  externalIPs: [192.0.2.1]\n", &[six]);
        assert_eq!(
            described(&web(&[six]), &external),
            "default/web: +1 frontend 192.0.2.1:80/TCP, +1 backend 10.88.0.6:8080, 1 now"
        );
        let sticky = service("web", "10.96.0.10", "  sessionAffinity: ClientIP\n", &[six]);
        assert_eq!(described(&web(&[six]), &sticky), "default/web: handled differently");
        assert_eq!(line(&[six], &[six]), "no frontend changed: 3 operations");
        let after = compiled(&web(&[six]));
        let text = describe(&Committed { before: None, after, operations: 3 });
        assert_eq!(text, "reconciled the kernel with the sources: 3 operations");
    }

    #[test]
    fn a_few_services_are_named_and_the_others_counted() {
        let all = |number: u8, endpoint: &str| -> String {
            let one = |n| service(&format!("s{n}"), &format!("10.96.0.{n}"), "", &[endpoint]);
            (1..=number).map(one).collect()
        };
        let line = described(&all(7, "10.88.0.6"), &all(7, "10.88.0.7"));
        assert_eq!(line.matches("default/s").count(), 5, "{line}");
        assert!(line.ends_with("; and 2 more Services"), "{line}");
    }

    #[test]
    fn the_rate_of_commit_lines_is_limited() {
        let start = Instant::now();
        let mut commits = Commits::new(start);
        let after = compiled("");
        let commit = Committed { before: Some(after.clone()), after, operations: 1 };
        let mut said = 0;
        for time in 0..10_000_u32 {
            let now = start + Duration::from_millis(10) * time;
            said += usize::from(commits.due(now).is_some());
            said += usize::from(commits.tell(&commit, now).is_some());
        }
        assert!((20..=31).contains(&said), "{said} lines in 100 seconds");
        let at = commits.deadline().unwrap();
        let last = commits.due(at).unwrap();
        assert!(last.contains(" more commits"), "{last}");
        assert_eq!(commits.deadline(), None);
    }
}
