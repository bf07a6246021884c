//! The target `links_and_routes` of `tests/fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rulec_fuzz::run("links_and_routes", bytes));
