//! What reading the files has found.

use std::sync::Arc;

use rulec_sources::{Flaw, FlawKind, PassedOver, Reason, Survey};

use super::finding::{Finding, Severity};
use crate::cli::Rule;

pub(super) fn findings(survey: &Survey) -> Vec<Finding> {
    let flaws = survey
        .manifests
        .iter()
        .flat_map(|manifest| manifest.flaws.iter().map(|flaw| of_flaw(&manifest.path, flaw)));
    let unread = survey.unread.iter().map(|unread| {
        Finding::of_path(&unread.path, Severity::Error, Rule::Unreadable, &*unread.message)
    });
    flaws.chain(unread).chain(survey.passed_over.iter().map(of_passed_over)).collect()
}

fn of_flaw(path: &Arc<str>, flaw: &Flaw) -> Finding {
    let rule = match flaw.kind {
        FlawKind::Syntax => Rule::Syntax,
        FlawKind::Kind => Rule::UnknownKind,
        FlawKind::UnknownField => Rule::UnknownField,
        FlawKind::SurplusField => Rule::SurplusField,
        FlawKind::MissingField => Rule::MissingField,
        FlawKind::Value => Rule::InvalidValue,
    };
    Finding {
        path: path.clone(),
        place: flaw.place,
        severity: flaw.severity.into(),
        rule,
        object: flaw.object.as_deref().map(Into::into),
        field: flaw.field.clone(),
        message: flaw.message.clone(),
    }
}

fn of_passed_over(PassedOver { path, reason }: &PassedOver) -> Finding {
    match reason {
        Reason::Directory(first) => {
            let message = format!(
                "not read: name each directory of manifests by itself (the first one here is \
                 {first})"
            );
            Finding::of_path(path, Severity::Warning, Rule::NotRead, message)
        }
        // A mistyped path must not pass for a clean one.
        Reason::Empty => {
            let message = "no manifests in it: nothing was checked";
            Finding::of_path(path, Severity::Warning, Rule::NotRead, message)
        }
        // Nearly every repository has a README beside its manifests.
        Reason::Names(message) => Finding::of_path(path, Severity::Note, Rule::NotRead, &**message),
        Reason::Tool(tool) => {
            let message = format!(
                "not read: check what `{tool}` makes of it, as in `{tool} ... | rulec check -`"
            );
            Finding::of_path(path, Severity::Warning, Rule::NotBuilt, message)
        }
    }
}
