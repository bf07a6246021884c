//! The words for a change: what it is about, and what it means.

use rulec_compiler::name::NamespacedName;

use super::change::{Change, Kind, Sources};
use super::what::What;

/// Returns what a change is about.
pub(super) fn subject(Change { kind, frontends, .. }: &Change) -> String {
    let frontends = frontends.join(", ");
    match (kind.what, kind.backend) {
        (What::Repaired, _) => "its representation in the kernel only (--verbose)".to_owned(),
        (What::FieldChanged, _) => {
            kind.fields.iter().map(|it| it.field.as_str()).collect::<Vec<_>>().join(", ")
        }
        (What::ServiceAdded | What::ServiceRemoved, _) => {
            "the Service, without a frontend".to_owned()
        }
        (_, Some(backend)) => format!("backend {backend} at {frontends}"),
        (_, None) => format!("frontend {frontends}"),
    }
}

/// Returns what a change means for connections, unless its sign says so.
pub(super) fn effect(kind: &Kind, service: &NamespacedName) -> Option<String> {
    if let Some(moved) = &kind.moved {
        return Some(match moved.to == *service {
            true => format!("taken over from Service {}", moved.from),
            false => format!("taken over by Service {}", moved.to),
        });
    }
    if let Some(holder) = &kind.holder {
        return Some(match holder == service {
            true => "refused: another port of the Service has it".to_owned(),
            false => format!("refused: Service {holder} has it"),
        });
    }
    if let Some(sources) = &kind.sources {
        let how = if kind.what == What::FrontendOpened { "more" } else { "fewer" };
        return Some(format!("open to {how} clients: {}", clients(sources)));
    }
    let text = match kind.what {
        What::FrontendUnserved => "no endpoints yet, connections are rejected",
        What::FrontendUnservedHere => "no endpoints on this node, connections are dropped",
        What::FrontendServed => "has endpoints now",
        What::FrontendRejected => "no endpoints any more, connections are rejected",
        What::FrontendDropped => "no endpoints on this node any more, connections are dropped",
        What::FrontendAltered => "handled differently",
        What::FieldChanged => {
            let values = kind.fields.iter().map(|it| format!("{} instead of {}", it.to, it.from));
            return Some(values.collect::<Vec<_>>().join(", "));
        }
        What::FrontendAdded
        | What::FrontendRefused
        | What::FrontendRemoved
        | What::FrontendMoved
        | What::FrontendOpened
        | What::FrontendRestricted
        | What::BackendAdded
        | What::BackendRemoved
        | What::ServiceAdded
        | What::ServiceRemoved
        | What::Repaired => return None,
    };
    Some(text.to_owned())
}

/// Returns who may connect, and who could before.
fn clients(sources: &Sources) -> String {
    let [from, to] = sources.texts();
    format!("{to} instead of {from}")
}

/// Returns the sign of a change: something comes, goes, or changes otherwise.
pub(super) fn sign(kind: &Kind, service: &NamespacedName) -> char {
    match kind.what {
        What::FrontendAdded | What::BackendAdded | What::ServiceAdded => '+',
        What::FrontendRemoved | What::BackendRemoved | What::ServiceRemoved => '-',
        What::FrontendMoved => match &kind.moved {
            Some(moved) if moved.to == *service => '+',
            Some(_) | None => '-',
        },
        What::FrontendUnserved
        | What::FrontendUnservedHere
        | What::FrontendRefused
        | What::FrontendServed
        | What::FrontendRejected
        | What::FrontendDropped
        | What::FrontendOpened
        | What::FrontendRestricted
        | What::FrontendAltered
        | What::FieldChanged
        | What::Repaired => '~',
    }
}
