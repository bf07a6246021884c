//! What counts.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocations of the parts that were measured.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// How often memory was requested, or more of it.
    pub(crate) allocations: usize,
    /// How much of it, freed meanwhile or not.
    pub(crate) bytes: usize,
}

impl Meter {
    /// Measures a part, and returns its result, which is freed by whoever has it.
    pub(crate) fn measure<T>(&mut self, part: impl FnOnce() -> T) -> T {
        let (mut part, mut result) = (Some(part), None);
        let region = Region::new(ALLOCATOR);
        measured_part(&mut || result = part.take().map(|part| part()));
        let change = region.change();
        self.allocations += change.allocations + change.reallocations;
        self.bytes += change.bytes_allocated;
        result.unwrap()
    }
}

/// Callgrind counts from where this begins to where it ends. It finds it by its name, which
/// `.ci/instructions` has, too.
#[inline(never)]
fn measured_part(part: &mut dyn FnMut()) {
    part();
    // A call in tail position would become a jump, and the function would end before the part.
    std::hint::black_box(part);
}
