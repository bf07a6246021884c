//! Names that the running daemon knows.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::line::Line;
use super::word::Word;
use crate::config::options::SocketArgs;
use crate::observe::names::Names;
use crate::observe::state::NAMES;
use crate::tool::daemon::ask_within;

/// How long the daemon has: people notice 200 ms, and the process itself takes some.
const PATIENCE: Duration = Duration::from_millis(150);

/// What the names are of.
pub(super) enum Known {
    Namespaces,
    Nodes,
    Services,
    Sources,
}

/// Returns the names that begin with what is typed; none if the daemon does not answer.
pub(super) fn of(known: &Known, typed: &str, line: &Line<'_>) -> Vec<Word> {
    let socket = line.values("socket").next_back().map(PathBuf::from);
    let of_variable = || std::env::var_os("RULEC_SOCKET").map(PathBuf::from);
    let socket = socket.or_else(of_variable).unwrap_or_else(|| SocketArgs::DEFAULT.into());
    let Ok(Names { services, nodes, sources, .. }) = ask_within(&socket, NAMES, PATIENCE) else {
        return Vec::new();
    };
    let namespace = line.values("namespace").next_back();
    let found: BTreeSet<String> = match known {
        Known::Nodes => nodes.into_iter().collect(),
        Known::Sources => sources.into_iter().collect(),
        Known::Namespaces => {
            let split = services.iter().filter_map(|name| name.split_once('/'));
            split.map(|(namespace, _)| namespace.to_owned()).collect()
        }
        Known::Services => of_services(&services, typed, namespace),
    };
    found.into_iter().map(Word::plain).collect()
}

/// Returns the names of Services: with their namespace, unless that is chosen by an option, or what
/// is typed only begins names alone.
fn of_services(all: &[String], typed: &str, namespace: Option<&str>) -> BTreeSet<String> {
    let split = all.iter().filter_map(|name| name.split_once('/'));
    let alone = split.filter(|(of, _)| namespace.is_none_or(|it| it == *of)).map(|(_, name)| name);
    let begins = |name: &&str| name.starts_with(typed);
    let whole: BTreeSet<String> =
        all.iter().filter(|name| begins(&name.as_str())).cloned().collect();
    if namespace.is_none() && (typed.is_empty() || !whole.is_empty()) {
        return whole;
    }
    alone.filter(begins).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(typed: &str, namespace: Option<&str>) -> Vec<String> {
        let all = ["default/web", "default/db", "shop/web", "weather/api"].map(str::to_owned);
        of_services(&all, typed, namespace).into_iter().collect()
    }

    #[test]
    fn services_are_found_with_and_without_their_namespace() {
        assert_eq!(found("", None), ["default/db", "default/web", "shop/web", "weather/api"]);
        assert_eq!(found("default/w", None), ["default/web"]);
        assert_eq!(found("db", None), ["db"], "its name alone means it, too");
        assert_eq!(found("we", None), ["weather/api"]);
        assert_eq!(found("", Some("default")), ["db", "web"]);
        assert_eq!(found("w", Some("shop")), ["web"]);
        assert_eq!(found("x", None), [""; 0]);
    }
}
