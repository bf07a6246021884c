use crate::decode::intern::Interner;

#[test]
fn strings_are_shared_and_dropped_when_unused() {
    let mut interner = Interner::default();
    let kept = interner.get("kept");
    assert!(std::sync::Arc::ptr_eq(&kept, &interner.get("kept")));
    for number in 0..5000 {
        interner.get(&number.to_string());
    }
    interner.tidy();
    assert_eq!(interner.len(), 1);
    assert_eq!(&*interner.get("kept"), "kept");
}
