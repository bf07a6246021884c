//! The target `api_event` of `tests/fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rulec_fuzz::run("api_event", bytes));
