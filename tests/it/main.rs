//! The integration tests of `rulec`: one binary.
