//! Finds a short plan that breaks the same law.

use crate::laws::Breach;
use crate::plan::{Plan, Step, What};
use crate::world::run;

/// Leaves out steps as long as the same law is broken. The last step, which ends all faults, stays.
///
/// # Panics
///
/// If the plan breaks no law.
#[must_use]
pub fn shrink(plan: &Plan) -> (Plan, Breach) {
    let mut breach = run(plan).expect_err("only a plan that breaks a law is shortened");
    let mut plan = plan.clone();
    let mut size = plan.steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        let mut found = false;
        while at + size < plan.steps.len() {
            let mut steps = plan.steps.clone();
            let left: Vec<Step> = steps.drain(at..at + size).collect();
            // The time passes all the same.
            if let Some(next) = steps.get_mut(at) {
                next.after += left.iter().map(|step| step.after).sum::<std::time::Duration>();
            }
            let shorter = Plan { steps, ..plan.clone() };
            match run(&shorter) {
                Err(same) if same.law == breach.law => {
                    (plan, breach, found) = (shorter, same, true);
                }
                Ok(_) | Err(_) => at += size,
            }
        }
        // Something may have become superfluous.
        size = if found && size == 1 { 1 } else { size / 2 };
    }
    debug_assert!(plan.steps.last().is_some_and(|step| step.what == What::Calm));
    (plan, breach)
}
