//! How much memory a change keeps that would be free without it: the versions of objects and the
//! groups of backends that it has replaced, and the nodes of the persistent maps that lead to them.
//! All else is shared with the states beside it. And how much its document takes.

use std::collections::BTreeSet;
use std::io;

use rulec_compiler::Program;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Backend;
use rulec_compiler::nft::Key;
use rulec_compiler::nft::group::Group;
use rulec_compiler::nft::slots::Slot;
use rulec_compiler::object::{Endpoint, Object};

use super::change::Change;
use super::entry::{Around, Entry};

/// What an entry takes in any case: itself, and the copied paths in the maps of the
/// model and the program.
pub(super) const ENTRY: usize = 16 << 10;

/// What an operation leaves in the maps of the program.
const OPERATION: usize = 256;

/// How many times as much as the lists of endpoints alone a process grows by them, as measured: the
/// allocator leaves holes between large ones.
const HOLES: usize = 2;

/// What an object takes beside its endpoints, with the paths to it.
const OBJECT: usize = 2 << 10;

/// How many times as much as its text a change as a document takes: each string, list and map has its
/// own allocation.
const DOCUMENT: usize = 6;

/// Returns an estimate of the memory of a document whose text has this length.
pub(super) fn of_document(length: usize) -> usize {
    DOCUMENT * length
}

/// Returns an estimate of the memory of a change as a document.
pub(super) fn of_change(change: &Change) -> usize {
    let mut length = Length(0);
    match serde_json::to_writer(&mut length, change) {
        Ok(()) => of_document(length.0),
        // It was made here, and can be written.
        Err(_) => ENTRY,
    }
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns an estimate of the states, in proportion to the change.
pub(super) fn of(entry: &Entry) -> usize {
    let Some(Around { before: Some(before), after, .. }) = &entry.around else { return ENTRY };
    let objects: usize = before
        .model
        .differing(&after.model)
        .iter()
        .map(|it| {
            let old = it.old.as_ref().map(|(_, sourced)| &sourced.object);
            OBJECT + old.map_or(0, endpoints)
        })
        .sum();
    let services = before.program.differing_services(&after.program);
    let groups: usize =
        services.iter().map(|service| replaced(&before.program, &after.program, service)).sum();
    ENTRY + OPERATION * entry.cost.operations + HOLES * (objects + groups)
}

fn endpoints(object: &Object) -> usize {
    match object {
        Object::EndpointSlice(slice) => slice.endpoints.len() * size_of::<Endpoint>(),
        Object::Service(_)
        | Object::Pod(_)
        | Object::Node(_)
        | Object::ServiceCidr(_)
        | Object::InterfaceAddresses(_) => 0,
    }
}

/// Returns the size of the lists of backends of a Service that only the first program has.
fn replaced(before: &Program, after: &Program, service: &NamespacedName) -> usize {
    let groups = |program: &'_ Program| -> Vec<Group> {
        let ports = program.fragment(service).into_iter().flat_map(|fragment| fragment.iter());
        ports.flat_map(|port| port.groups().cloned()).collect()
    };
    let kept: BTreeSet<*const Slot> = groups(after).iter().map(|it| it.slots.as_ptr()).collect();
    let gone = groups(before).into_iter().filter(|it| !kept.contains(&it.slots.as_ptr()));
    let size = |group: Group| {
        let filled = group.filled_with.as_ref().map_or(0, |with| with.len());
        group.slots.len() * size_of::<Slot>() + filled * size_of::<(Backend, u32)>()
    };
    let ports = before.fragment(service).into_iter().flat_map(|fragment| fragment.iter());
    let lists = ports.map(|port| {
        let targets = [&port.internal, &port.external].into_iter();
        let serving = targets.filter_map(|target| Some(target.serving.as_ref()?.len()));
        port.members.len() * size_of::<Key>() + serving.sum::<usize>() * size_of::<Backend>()
    });
    lists.sum::<usize>() + gone.map(size).sum::<usize>()
}
