//! A step of one Service can be cut anywhere between its pieces: it stays valid, and packets do not
//! notice.

use rulec_compiler::delta::Pieces;

use super::steps::{Passage, check_neighbours};
use super::*;

/// Applies a delta Service by Service, each one piece by piece, and checks each pair of neighbours.
/// What packets meet is compared with the state before and after the whole Service.
fn check_pieces(old: &State, delta: &Delta, wanted: &Program) {
    let apply = |state: &State, ops: Vec<Op>| {
        applied(state, &Delta { shared: ops.into(), ..Delta::default() })
    };
    let mut before = old.clone();
    for step in delta.steps() {
        before = apply(&before, step.shared.to_vec());
        for (_, ops) in &step.groups {
            let after = apply(&before, ops.to_vec());
            let pieces = Pieces::of(&ops.iter().collect::<Vec<&Op>>());
            if pieces.iter().nth(1).is_none() {
                before = after;
                continue;
            }
            let frontends: BTreeSet<Frontend> =
                ops.iter().filter_map(|op| op.element()?.key.frontend()).collect();
            let passage = Passage::between([&before, &after], &frontends, wanted.mark());
            let mut now = before.clone();
            for piece in pieces.iter() {
                let next = apply(&now, piece.iter().copied().cloned().collect());
                check_neighbours(&now, &next);
                passage.check(&next);
                now = next;
            }
            assert_eq!(now, after, "the pieces are the step");
            before = after;
        }
    }
}

proptest! {
    #![proptest_config(cases(6, seeds!("pieces.txt")))]

    /// Between two pieces of a Service, no packet meets a miss, and every packet is treated as
    /// before or as after the whole Service.
    #[test]
    fn no_packet_meets_a_miss_between_two_pieces((list, batches) in history()) {
        let mut daemon = Daemon::start(&list);
        for batch in &batches {
            let before = daemon.program.clone();
            daemon.apply(batch);
            let delta = Delta::between(&before, &daemon.program);
            check_pieces(&before.state(), &delta, &daemon.program);
        }
    }
}
