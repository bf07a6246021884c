//! The bench of many nodes that follow one relay, with few of them: what it asserts holds at any
//! size.

#[path = "../../benches/fleet/mod.rs"]
mod bench;

use std::time::Duration;

use bench::{Size, measure};
use rulec_testkit::{Namespace, require_root};

fn follow(is_secure: bool) {
    if !require_root() {
        return;
    }
    let moment = Duration::from_millis(200);
    let size =
        Size { nodes: 40, services: 20, endpoints: 6, changes: 10, away: moment, rest: moment };
    let report = Namespace::new("fleet").run(|| measure(size, is_secure));
    assert!(!report.rows().is_empty());
}

#[test]
fn a_small_fleet_loses_nothing() {
    follow(false);
}

#[test]
fn a_small_fleet_loses_nothing_with_tls() {
    follow(true);
}
