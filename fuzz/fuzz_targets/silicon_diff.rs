//! Any instruction on the host CPU, the interpreter and the translator.

#![no_main]

use std::cell::RefCell;
use xlat86_difftest::fuzz;

thread_local! {
    static MACHINE: RefCell<xlat86_difftest::bulk::Trio<'static>> = RefCell::new(fuzz::trio());
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| MACHINE.with_borrow_mut(|machine| fuzz::silicon_diff(machine, input)));
