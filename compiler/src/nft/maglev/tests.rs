use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use super::*;

fn backend(number: u32) -> Backend {
    let [_, one, two, three] = number.to_be_bytes();
    Backend { address: IpAddr::from([10, one, two, three]), port: NonZeroU16::new(8_080).unwrap() }
}

fn backends(count: u32) -> Vec<(Backend, u32)> {
    (0..count).map(|number| (backend(number), 1)).collect()
}

fn shares(table: &[Backend]) -> BTreeMap<Backend, usize> {
    let mut shares = BTreeMap::new();
    for backend in table {
        *shares.entry(*backend).or_default() += 1;
    }
    shares
}

fn moved(one: &[Backend], other: &[Backend]) -> usize {
    one.iter().zip(other).filter(|(one, other)| one != other).count()
}

#[test]
fn every_backend_has_the_same_number_of_slots_but_for_one() {
    for size in TableSize::all() {
        for count in [1, 2, 3, 10, 100, 251] {
            let table = fill(size, &backends(count));
            assert_eq!(table.len(), size.slots() as usize);
            let shares = shares(&table);
            assert_eq!(shares.len(), count as usize);
            let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
            assert!(most - least <= 1, "{count} backends: {least} to {most}");
        }
    }
}

#[test]
fn the_order_of_the_backends_does_not_matter() {
    let mut list = backends(17);
    let table = fill(TableSize::default(), &list);
    list.reverse();
    assert_eq!(fill(TableSize::default(), &list), table);
}

/// The slots of the backend that goes must be written, and few others.
#[test]
fn a_backend_that_goes_moves_little_else() {
    let size = TableSize::default();
    let slots = f64::from(size.slots());
    for count in 2..=30_u32 {
        let all = backends(count);
        let before = fill(size, &all);
        for gone in 0..count as usize {
            let mut left = all.clone();
            left.remove(gone);
            let moved = moved(&before, &fill(size, &left)) as f64;
            let share = 1.0 / f64::from(count);
            assert!(moved / slots <= share + 0.02, "{count} backends: {moved} slots");
            assert!(moved <= 1.3 * slots * share, "{count} backends: {moved} slots");
        }
    }
}

#[test]
fn a_heavier_backend_has_more_slots_in_proportion() {
    let list = [(backend(1), 1), (backend(2), 3), (backend(3), 100)];
    let shares = shares(&fill(TableSize::default(), &list));
    for (backend, weight) in list {
        let expected = f64::from(weight) / 104.0 * f64::from(TableSize::default().slots());
        let found = shares[&backend] as f64;
        assert!((found - expected).abs() <= 2.0, "weight {weight}: {found}, not {expected}");
    }
}

#[test]
fn without_a_backend_there_is_no_slot() {
    assert_eq!(fill(TableSize::default(), &[]), []);
}

#[test]
fn sizes_are_known_by_their_slots() {
    for size in TableSize::all() {
        assert_eq!(TableSize::try_from(size.slots()), Ok(size));
    }
    let error = TableSize::try_from(1_000).unwrap_err();
    assert!(error.contains("251, 1021, 4093, 16381, 65521"), "{error}");
}
