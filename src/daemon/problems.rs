//! The problems of the sources: which exist, which are new, and what the log says about them.
//!
//! Pure: the time comes from the caller. The cost of a change is proportional to the change,
//! however many problems there are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use im::OrdSet;
use im::ordset::DiffItem;
use rulec_compiler::Origin;
use rulec_compiler::plural::counted;
use rulec_sources::{Problem, Severity};

use crate::limits::{Bucket, Limits, Rate, Said, more};

/// The rate of lines about one object, or about one file.
const OF_ONE: Rate = Rate { burst: 5, period: Duration::from_secs(60) };

/// How many subjects are tracked separately.
const MAX_SUBJECTS: usize = 4096;

/// The rate of lines about all of them.
const OF_ALL: Rate = Rate { burst: 100, period: Duration::from_secs(1) };

/// The maximum of lines for one update of a source. More cannot be read as they come.
const AT_ONCE: usize = 20;

/// The rate of lines that say how many others there were.
const REST: Rate = Rate { burst: 5, period: Duration::from_secs(60) };

/// See the module's documentation.
#[derive(Debug)]
pub struct Problems {
    held: BTreeMap<Origin, Held>,
    subjects: Limits<Subject, Line>,
    all: Bucket,
    rest: Bucket,
    unsaid: Unsaid,
    /// When the count of unlogged problems may be logged.
    rest_at: Option<Instant>,
}

/// The subject of a line: an object in a file, or else what is wrong with the file, or with a
/// resource of the API server.
type Subject = (Origin, Arc<str>, String);

/// The problems of a source.
#[derive(Debug, Default)]
struct Held {
    problems: OrdSet<Problem>,
    errors: usize,
    /// How many errors each file has. Invariant: none has 0.
    broken: BTreeMap<Arc<str>, usize>,
}

/// Counts of problems that were not logged one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unsaid {
    errors: u64,
    warnings: u64,
    over: u64,
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The severity of the problem; `None` if it is resolved.
    pub severity: Option<Severity>,
    /// The text of the line.
    pub text: String,
}

impl Problems {
    /// Starts without problems.
    pub fn new(now: Instant) -> Self {
        Self {
            held: BTreeMap::new(),
            subjects: Limits::new(OF_ONE, MAX_SUBJECTS),
            all: Bucket::new(OF_ALL, now),
            rest: Bucket::new(REST, now),
            unsaid: Unsaid::default(),
            rest_at: None,
        }
    }

    /// Replaces the current problems of a source, and returns the lines to log.
    pub fn replace(&mut self, origin: Origin, new: OrdSet<Problem>, now: Instant) -> Vec<Line> {
        let held = self.held.entry(origin).or_default();
        let old = std::mem::replace(&mut held.problems, new.clone());
        let (mut errors, mut warnings, mut over) = (Vec::new(), Vec::new(), Vec::new());
        for item in old.diff(&new) {
            match item {
                DiffItem::Add(problem) => {
                    held.count(problem, true);
                    match problem.severity {
                        Severity::Error => errors.push(problem),
                        Severity::Warning => warnings.push(problem),
                    }
                }
                DiffItem::Remove(problem) => {
                    held.count(problem, false);
                    over.push(problem);
                }
            }
        }
        let mut lines = Vec::new();
        // The most important lines come first, as long as there is room.
        let bad = errors.into_iter().chain(warnings).map(|problem| (problem, false));
        for (problem, is_over) in bad.chain(over.into_iter().map(|problem| (problem, true))) {
            self.say(origin, problem, is_over, &mut lines, now);
        }
        lines.extend(self.rest(now));
        lines
    }

    /// Returns lines that were held back and may be logged now.
    pub fn due(&mut self, now: Instant) -> Vec<Line> {
        let mut lines: Vec<Line> = self.subjects.due(now).into_iter().map(Line::said).collect();
        if self.rest_at.is_some_and(|at| at <= now) {
            lines.extend(self.rest(now));
        }
        lines
    }

    /// Returns when to call `due`.
    pub fn deadline(&self) -> Option<Instant> {
        self.subjects.deadline().into_iter().chain(self.rest_at).min()
    }

    /// Returns how many problems all sources have.
    pub fn len(&self) -> usize {
        self.held.values().map(|held| held.problems.len()).sum()
    }

    /// True if no source has a problem.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many problems of a severity a source has.
    pub fn count(&self, origin: Origin, severity: Severity) -> usize {
        let Some(held) = self.held.get(&origin) else { return 0 };
        match severity {
            Severity::Error => held.errors,
            Severity::Warning => held.problems.len() - held.errors,
        }
    }

    /// Returns how many manifests have an error.
    pub fn broken_files(&self) -> usize {
        self.held.get(&Origin::Manifests).map_or(0, |held| held.broken.len())
    }

    /// Returns the current problems of each source.
    pub(crate) fn held(&self) -> BTreeMap<Origin, OrdSet<Problem>> {
        self.held.iter().map(|(origin, held)| (*origin, held.problems.clone())).collect()
    }

    fn say(
        &mut self,
        origin: Origin,
        problem: &Problem,
        is_over: bool,
        lines: &mut Vec<Line>,
        now: Instant,
    ) {
        if lines.len() < AT_ONCE {
            let topic = || problem.message.split(": ").next().unwrap_or_default().to_owned();
            let topic = problem.object.clone().unwrap_or_else(topic);
            let subject = (origin, Arc::clone(&problem.path), topic);
            let Some(said) = self.subjects.say(subject, Line::of(problem, is_over), now) else {
                // The line waits with the others about the same subject.
                return;
            };
            if self.all.take(now) {
                lines.push(Line::said(said));
                return;
            }
        }
        let unsaid = match (is_over, problem.severity) {
            (true, _) => &mut self.unsaid.over,
            (false, Severity::Error) => &mut self.unsaid.errors,
            (false, Severity::Warning) => &mut self.unsaid.warnings,
        };
        *unsaid += 1;
    }

    /// Returns the line that counts unlogged problems, if it may be logged now.
    fn rest(&mut self, now: Instant) -> Option<Line> {
        if self.unsaid == Unsaid::default() {
            return None;
        }
        if !self.rest.take(now) {
            self.rest_at = Some(self.rest.next());
            return None;
        }
        self.rest_at = None;
        Some(std::mem::take(&mut self.unsaid).line())
    }
}

impl Held {
    fn count(&mut self, problem: &Problem, is_new: bool) {
        if problem.severity == Severity::Warning {
            return;
        }
        if is_new {
            self.errors += 1;
            *self.broken.entry(Arc::clone(&problem.path)).or_default() += 1;
            return;
        }
        self.errors = self.errors.saturating_sub(1);
        if let Some(errors) = self.broken.get_mut(&problem.path) {
            *errors -= 1;
            if *errors == 0 {
                self.broken.remove(&problem.path);
            }
        }
    }
}

impl Unsaid {
    fn line(self) -> Line {
        let Self { errors, warnings, over } = self;
        let severity = match (errors, warnings) {
            (0, 0) => None,
            (0, _) => Some(Severity::Warning),
            (_, _) => Some(Severity::Error),
        };
        let new = match errors + warnings {
            0 => None,
            some => Some(counted(some, "more problem")),
        };
        let over = (over > 0).then(|| format!("{over} resolved"));
        let what: Vec<String> = new.into_iter().chain(over).collect();
        let text = format!("and {}; see /metrics or `rulec diff`", what.join(", and "));
        Line { severity, text }
    }
}

impl Line {
    fn of(problem: &Problem, is_over: bool) -> Self {
        if is_over {
            Self { severity: None, text: format!("resolved: {problem}") }
        } else {
            Self { severity: Some(problem.severity), text: problem.to_string() }
        }
    }

    fn said(said: Said<Self>) -> Self {
        Self { text: said.line.text + &more(said.more), ..said.line }
    }

    /// Writes it into the log.
    pub fn log(&self) {
        match self.severity {
            Some(Severity::Error) => tracing::error!("{self}"),
            Some(Severity::Warning) => tracing::warn!("{self}"),
            None => tracing::info!("{self}"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn problem(path: &str, line: u64, severity: Severity) -> Problem {
        Problem {
            path: path.into(),
            line: Some(line),
            column: None,
            severity,
            object: Some("Service default/web".to_owned()),
            message: "is broken".to_owned(),
            skips: false,
        }
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn repeated_problems_of_one_service_are_limited_and_counted() {
        let start = Instant::now();
        let mut problems = Problems::new(start);
        let mut lines = Vec::new();
        for time in 0..2_000_u32 {
            let now = start + Duration::from_millis(50) * time;
            lines.extend(problems.due(now));
            // Broken in another line each time, and repaired in between.
            let broken = OrdSet::unit(problem("web.yaml", time.into(), Severity::Error));
            let new = if time % 2 == 0 { broken } else { OrdSet::new() };
            lines.extend(problems.replace(Origin::Manifests, new, now));
        }
        assert_eq!(
            texts(&lines[..2]),
            [
                "web.yaml:0: Service default/web: is broken",
                "resolved: web.yaml:0: Service default/web: is broken"
            ]
        );
        assert_eq!(lines.len(), 6, "{lines:#?}");
        assert!(lines[5].text.ends_with("; 1194 similar lines suppressed"), "{}", lines[5]);
        // The last state is logged, too.
        let at = problems.deadline().unwrap();
        let last = problems.due(at);
        let expected =
            "resolved: web.yaml:1998: Service default/web: is broken; 799 similar lines suppressed";
        assert_eq!(texts(&last), [expected]);
        assert_eq!((problems.deadline(), problems.len(), problems.broken_files()), (None, 0, 0));
    }

    #[test]
    fn twenty_thousand_problems_make_twenty_lines_and_a_count() {
        let now = Instant::now();
        let mut problems = Problems::new(now);
        let path = |file: u64| format!("{file:05}.yaml");
        let warning = problem("00000.yaml", 9, Severity::Warning);
        let all: OrdSet<Problem> = (0..20_000)
            .map(|file| problem(&path(file), 1, Severity::Error))
            .chain([warning.clone()])
            .collect();
        let lines = problems.replace(Origin::Manifests, all.clone(), now);
        assert_eq!(lines.len(), 21);
        // A warning does not displace an error.
        assert!(lines[..20].iter().all(|line| line.severity == Some(Severity::Error)));
        assert_eq!(lines[20].text, "and 19981 more problems; see /metrics or `rulec diff`");
        assert_eq!(lines[20].severity, Some(Severity::Error));
        let count = |problems: &Problems, severity| problems.count(Origin::Manifests, severity);
        assert_eq!(count(&problems, Severity::Error), 20_000);
        assert_eq!(count(&problems, Severity::Warning), 1);
        assert_eq!((problems.len(), problems.broken_files()), (20_001, 20_000));
        // The next broken file is named.
        let more = all.update(problem("zz.yaml", 1, Severity::Error));
        let lines = problems.replace(Origin::Manifests, more, now + SECOND);
        assert_eq!(texts(&lines), ["zz.yaml:1: Service default/web: is broken"]);
        // All files are repaired.
        let lines = problems.replace(Origin::Manifests, OrdSet::new(), now + 10 * SECOND);
        assert_eq!(lines.len(), 21);
        let expected = "and 19982 resolved; see /metrics or `rulec diff`";
        assert_eq!(lines[20], Line { severity: None, text: expected.to_owned() });
        assert_eq!((problems.len(), problems.broken_files()), (0, 0));
    }

    #[test]
    fn successive_problems_of_many_files_are_limited() {
        let start = Instant::now();
        let mut problems = Problems::new(start);
        let mut all = OrdSet::new();
        let mut lines = 0;
        for file in 0..10_000_u32 {
            let now = start + Duration::from_millis(10) * file;
            all.insert(problem(&format!("{file}.yaml"), 1, Severity::Error));
            lines += problems.due(now).len();
            lines += problems.replace(Origin::Manifests, all.clone(), now).len();
        }
        assert!((100..220).contains(&lines), "{lines} lines in 100 seconds");
        assert_eq!(problems.len(), 10_000);
        let at = problems.deadline().unwrap();
        let text = problems.due(at).remove(0).text;
        assert!(text.contains(" more problems"), "{text}");
    }
}
