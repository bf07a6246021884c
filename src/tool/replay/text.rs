//! A recording as text, a line for each change.

use std::io::{self, Write};

use rulec_compiler::object::Kind;
use rulec_compiler::plural::counted;
use rulec_sources::recording::{Entry, Header, Recorded, RecordedChange, What, Whole, WholeReason};

/// The longest name of a source.
const SOURCE: usize = 10;

/// Writes what holds for all of it.
pub(super) fn head(out: &mut impl Write, header: &Header) -> io::Result<()> {
    let Header { program, masked, settings, sources, .. } = header;
    let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
    let masked = if *masked { "; names and addresses are pseudonyms" } else { "" };
    let node = &settings.node_name;
    writeln!(out, "node {node}, rulec {program}, sources: {}{masked}", sources.join(", "))
}

/// Writes an entry.
pub(super) fn entry(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    // A time that is copied to FILE@TIME is that of this entry, and not of the moment before.
    let mut line =
        |source: &str, what: &str| writeln!(out, "{:.9}  {source:SOURCE$}  {what}", entry.time);
    match &entry.what {
        What::Whole(Whole { reason, sources }) => {
            let objects = sources.iter().map(|held| held.objects.len()).sum::<usize>();
            let objects = counted(objects as u64, "object");
            let why = match reason {
                WholeReason::Start => "start of the daemon".to_owned(),
                WholeReason::Full => format!("whole state, at the begin of a file: {objects}"),
                WholeReason::Part => format!("whole state, at the begin of this part: {objects}"),
                WholeReason::Gap(lost) => {
                    let lost = counted(*lost, "update");
                    format!("whole state, in place of {lost} that were not recorded: {objects}")
                }
            };
            line("-", &why)
        }
        What::Update(recorded) => {
            let Recorded { origin, said, changes, .. } = recorded;
            let source = origin.to_string();
            let condition = match (said.unavailable, said.complete) {
                (true, _) => " (unavailable)",
                (false, false) => " (incomplete)",
                (false, true) => "",
            };
            if changes.is_empty() {
                return line(&source, &format!("no change{condition}"));
            }
            changes.iter().try_for_each(|it| line(&source, &format!("{}{condition}", change(it))))
        }
    }
}

fn change(change: &RecordedChange) -> String {
    match change {
        RecordedChange::Apply(sourced) => {
            format!("{} ({})", sourced.object.key(), sourced.provenance)
        }
        RecordedChange::Remove(key) => format!("{key} removed"),
        RecordedChange::Replace { kinds, objects } => {
            let objects = counted(objects.len() as u64, "object");
            format!("list of {}: {objects}", listed(kinds))
        }
    }
}

fn listed(kinds: &[Kind]) -> String {
    if Kind::ALL.iter().all(|kind| kinds.contains(kind)) {
        return "everything".to_owned();
    }
    let names: Vec<&str> = kinds.iter().map(|kind| name(*kind)).collect();
    names.join(", ")
}

/// Returns the name of a kind, in the plural.
fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "Services",
        Kind::EndpointSlice => "EndpointSlices",
        Kind::Pod => "Pods",
        Kind::Node => "Nodes",
        Kind::ServiceCidr => "ServiceCIDRs",
        Kind::InterfaceAddresses => "addresses of interfaces",
    }
}
