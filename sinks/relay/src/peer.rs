//! Who is at the other end of a connection.

use rulec_compiler::name::NodeName;

#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// This node, by its certificate.
    Node(NodeName),
    /// Whoever it says: nothing is asked for.
    Anybody,
}
