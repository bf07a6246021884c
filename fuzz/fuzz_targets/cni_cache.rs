//! The target `cni_cache` of `tests/fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rulec_fuzz::run("cni_cache", bytes));
