//! The translator against the interpreter, on any code.

#![no_main]

use std::cell::RefCell;
use xlat86_difftest::fuzz;

thread_local! {
    static MACHINE: RefCell<fuzz::ExecDiff> = RefCell::new(fuzz::ExecDiff::new());
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| MACHINE.with_borrow_mut(|machine| machine.check(input)));
