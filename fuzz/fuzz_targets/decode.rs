//! The decoder's laws, and its agreement with Zydis, on any bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| xlat86_difftest::decode::check_input(input));
