//! The translator on any bytes: no panic, and host code that keeps the rules of `difftest::confine`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| xlat86_difftest::confine::check_input(input));
