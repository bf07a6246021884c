//! The target `relay` of `tests/fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rulec_fuzz::run("relay", bytes));
