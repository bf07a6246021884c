//! The target `kubelet_list` of `tests/fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rulec_fuzz::run("kubelet_list", bytes));
