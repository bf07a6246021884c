//! Who is at the other end of a connection.

use std::fmt;

use rulec_compiler::name::NodeName;

#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// This node, by what it has shown.
    Node(NodeName, Proof),
    /// Somebody who has shown no certificate, and has to show a token with each call.
    Stranger,
    /// Whoever it says: nothing is asked for.
    Anybody,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    Certificate,
    Token,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
        })
    }
}
