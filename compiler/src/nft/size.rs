//! Sizes: how a random slot is drawn among any number of backends.
//!
//! A chain draws from a constant number of slots, so there is one for each size. Every number of
//! backends up to 8 has a size of its own. Of larger numbers, only some are sizes, each half as
//! large again as the one before, and the backends fill a part of the slots: more than those of the
//! next smaller size. A draw that hits an empty slot is repeated, and the last draw is among the
//! slots of the next smaller size, which are all filled. So the chains are the same whatever
//! Services there are, and a Service whose number of backends changes seldom changes its chain.

use serde::{Deserialize, Serialize};

/// The number of draws before the last one. At most a third of the slots is empty, so 1 packet in
/// 729 or fewer comes to the last draw, and no backend gets more than 0.3 % above its share.
pub const DRAWS: usize = 6;

/// The numbers of slots.
const SLOTS: [u32; 34] = [
    1, 2, 3, 4, 5, 6, 7, 8, 12, 18, 27, 40, 60, 90, 135, 202, 303, 454, 681, 1_021, 1_531, 2_296,
    3_444, 5_166, 7_749, 11_623, 17_434, 26_151, 39_226, 58_839, 88_258, 132_387, 198_580, 297_870,
];

/// The number of sizes up to which every number is a size.
const EXACT: usize = 8;

/// A size, by its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct Size(u8);

impl Size {
    /// The number of sizes.
    pub const COUNT: u32 = 34;

    /// The largest number of slots.
    pub const MAX_SLOTS: usize = 297_870;

    /// Returns all sizes, the smallest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).zip(SLOTS).map(|(place, _)| Self(place))
    }

    /// Returns the size for a number of backends; `None` for 0, and for more than `MAX_SLOTS`.
    pub fn of(backends: usize) -> Option<Self> {
        let backends = u32::try_from(backends).ok().filter(|n| *n > 0)?;
        Self::all().find(|size| backends <= size.slots())
    }

    /// Returns the number of slots that are drawn from.
    pub fn slots(self) -> u32 {
        SLOTS.get(usize::from(self.0)).copied().unwrap_or(u32::MAX)
    }

    /// Returns the number of slots that are always filled, if some may be empty.
    pub fn filled(self) -> Option<u32> {
        self.smaller().map(Self::slots)
    }

    /// Returns the next smaller size, if some slots of this one may be empty: there are more backends
    /// than that one has slots.
    pub fn smaller(self) -> Option<Self> {
        if usize::from(self.0) < EXACT { None } else { Some(Self(self.0 - 1)) }
    }

    /// Returns the place in the list, from 1.
    pub fn number(self) -> u32 {
        u32::from(self.0) + 1
    }

    /// Returns the size with this place in the list.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::all().find(|size| size.number() == number)
    }

    /// Returns the size with this number of slots.
    pub fn from_slots(slots: u32) -> Option<Self> {
        Self::all().find(|size| size.slots() == slots)
    }
}

impl From<Size> for u32 {
    fn from(size: Size) -> Self {
        size.slots()
    }
}

impl TryFrom<u32> for Size {
    type Error = String;

    fn try_from(slots: u32) -> Result<Self, Self::Error> {
        Self::from_slots(slots).ok_or_else(|| format!("{slots} is not a size"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_size_that_is_large_enough_is_used() {
        let slots = |backends| Size::of(backends).map(Size::slots);
        assert_eq!(slots(0), None);
        assert_eq!([1, 2, 8, 9, 12, 13].map(slots), [1, 2, 8, 12, 12, 18].map(Some));
        assert_eq!(slots(Size::MAX_SLOTS), Some(297_870));
        assert_eq!(slots(Size::MAX_SLOTS + 1), None);
    }

    /// Otherwise the last draw could find nothing.
    #[test]
    fn the_slots_of_the_last_draw_are_always_filled() {
        for backends in 1..10_000 {
            let size = Size::of(backends).unwrap();
            let filled = size.filled().unwrap_or(size.slots());
            assert!(usize::try_from(filled).unwrap() <= backends, "{backends}: {size:?}");
        }
    }

    #[test]
    fn no_backend_gets_much_more_than_its_share() {
        for backends in 1_u32..10_000 {
            let size = Size::of(usize::try_from(backends).unwrap()).unwrap();
            let Some(filled) = size.filled() else { continue };
            let empty = 1.0 - f64::from(backends) / f64::from(size.slots());
            let last = empty.powi(i32::try_from(DRAWS).unwrap());
            let share = (1.0 - last) / f64::from(backends) + last / f64::from(filled);
            let more = share * f64::from(backends) - 1.0;
            assert!(more < 0.003, "{backends}: {more}");
        }
    }

    #[test]
    fn sizes_grow_and_have_numbers() {
        let sizes: Vec<Size> = Size::all().collect();
        assert!(sizes.is_sorted_by_key(|size| size.slots()));
        assert_eq!(u32::try_from(sizes.len()), Ok(Size::COUNT));
        for size in sizes {
            assert_eq!(Size::from_number(size.number()), Some(size));
            assert_eq!(Size::from_slots(size.slots()), Some(size));
        }
        assert_eq!(Size::from_number(0), None);
    }
}
