//! What an option or argument can be, by its type: a name of the daemon, a word of a list, a path.

use std::any::TypeId;
use std::path::PathBuf;

use clap::{Arg, ValueEnum};
use rulec_compiler::ipvs::{Scheduler, SchedulerFlags};
use rulec_compiler::load_balancing::LoadBalancing;
use rulec_compiler::nft::maglev::TableSize;

use super::line::Line;
use super::names::{self, Known};
use super::word::{Paths, Word};
use crate::cli::name::Asked;
use crate::cli::show::{Name, Subject};
use crate::cli::{DetectLocalMode, LogFormat, ProxyMode};

/// Returns the values of an option or argument that begin with what is typed.
pub(super) fn of(arg: &Arg, typed: &str, line: &Line<'_>) -> (Paths, Vec<Word>) {
    // Each element of a list is completed for itself.
    let is_list = arg.get_value_delimiter().is_some();
    let (before, last) = match typed.rfind(',').filter(|_| is_list) {
        Some(comma) => typed.split_at(comma + 1),
        None => ("", typed),
    };
    let (paths, mut words) = all(arg, last, line);
    words.retain(|word| word.text.starts_with(last));
    for word in &mut words {
        word.text.insert_str(0, before);
    }
    (paths, words)
}

/// Returns all values. Those of the daemon can depend on what is typed.
fn all(arg: &Arg, typed: &str, line: &Line<'_>) -> (Paths, Vec<Word>) {
    let listed: Vec<Word> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| Word::new(value.get_name().to_owned(), value.get_help()))
        .collect();
    if !listed.is_empty() {
        return (Paths::None, listed);
    }
    let kind = arg.get_value_parser().type_id();
    let is = |it: TypeId| kind == it;
    let name =
        arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    if is(TypeId::of::<Asked>()) {
        return (Paths::None, names::of(&Known::Services, typed, line));
    }
    if is(TypeId::of::<Name>()) {
        return (Paths::None, names::of(&shown(line), typed, line));
    }
    if is(TypeId::of::<PathBuf>()) {
        let is_directory = name == "DIRECTORY";
        return (if is_directory { Paths::Directories } else { Paths::Files }, Vec::new());
    }
    if let Some(words) = of_type(is) {
        return (Paths::None, words);
    }
    match (name, arg.get_long()) {
        ("STATE", _) => (Paths::Files, ["api", "kernel"].map(Word::plain).into()),
        ("NAMESPACE", _) => (Paths::None, names::of(&Known::Namespaces, typed, line)),
        ("BOOL", _) => (Paths::None, vec![Word::plain("true"), Word::plain("false")]),
        // Options of kube-proxy are text until they are checked.
        (_, Some("kubeconfig")) => (Paths::Files, Vec::new()),
        (_, Some("proxy-mode")) => (Paths::None, of_enum::<ProxyMode>()),
        (_, Some("detect-local-mode")) => (Paths::None, of_enum::<DetectLocalMode>()),
        (_, Some("logging-format")) => (Paths::None, of_enum::<LogFormat>()),
        (_, Some("ipvs-scheduler")) => (Paths::None, schedulers()),
        _ => (Paths::None, Vec::new()),
    }
}

/// Returns the values of a type that clap does not list: its errors are the type's own.
fn of_type(is: impl Fn(TypeId) -> bool) -> Option<Vec<Word>> {
    if is(TypeId::of::<LoadBalancing>()) {
        return Some(LoadBalancing::ALL.into_iter().map(Word::plain).collect());
    }
    if is(TypeId::of::<TableSize>()) {
        return Some(TableSize::all().map(|size| Word::plain(size.slots())).collect());
    }
    if is(TypeId::of::<Scheduler>()) {
        return Some(schedulers());
    }
    if is(TypeId::of::<SchedulerFlags>()) {
        return Some(SCHEDULER_FLAGS.into_iter().map(Word::plain).collect());
    }
    None
}

/// The names of flags that say what they are for.
pub(super) const SCHEDULER_FLAGS: [&str; 4] = ["sh-fallback", "sh-port", "mh-fallback", "mh-port"];

fn schedulers() -> Vec<Word> {
    Scheduler::ALL.into_iter().map(Word::plain).collect()
}

fn of_enum<T: ValueEnum>() -> Vec<Word> {
    let all = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    all.map(|value| Word::new(value.get_name().to_owned(), value.get_help())).collect()
}

/// Returns what `show` is asked about.
fn shown(line: &Line<'_>) -> Known {
    let what = line.values("what").next().and_then(|what| Subject::from_str(what, false).ok());
    match what {
        Some(Subject::Node) => Known::Nodes,
        Some(Subject::Sources) => Known::Sources,
        Some(Subject::Services | Subject::Endpoints) | None => Known::Services,
    }
}
