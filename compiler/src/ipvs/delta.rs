//! The operations on one virtual server.

use super::state::Server;
use super::{Op, RealServer, VirtualServer};
use crate::net::Backend;

/// Returns the operations that turn the held virtual server into the wanted one. Additions come
/// before deletions, so that there is always a real server.
pub fn between(server: VirtualServer, held: Option<&Server>, wanted: Option<&Server>) -> Vec<Op> {
    let Some(wanted) = wanted else {
        return held.map(|_| Op::DeleteServer(server)).into_iter().collect();
    };
    let Some(attributes) = wanted.attributes else { return Vec::new() };
    let mut ops = Vec::new();
    match held {
        None => ops.push(Op::AddServer(server, attributes)),
        Some(held) if held.attributes != wanted.attributes => {
            ops.push(Op::SetServer(server, attributes));
        }
        Some(_) => {}
    }
    let nobody = Server::default();
    let held = held.unwrap_or(&nobody);
    for (backend, real) in reals(wanted) {
        match held.reals.get(&backend) {
            None => ops.push(Op::AddReal(server, backend, real)),
            Some(held) if *held != Some(real) => ops.push(Op::SetReal(server, backend, real)),
            Some(_) => {}
        }
    }
    let gone = held.reals.keys().filter(|backend| !wanted.reals.contains_key(backend));
    ops.extend(gone.map(|backend| Op::DeleteReal(server, *backend)));
    ops
}

/// Returns the real servers that a program asks for.
fn reals(server: &Server) -> impl Iterator<Item = (Backend, RealServer)> {
    server.reals.iter().filter_map(|(backend, real)| Some((*backend, (*real)?)))
}
