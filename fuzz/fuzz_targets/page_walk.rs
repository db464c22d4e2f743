//! The page walk against one written after the manual, on any tables.

#![no_main]

use std::sync::LazyLock;
use xlat86_difftest::fuzz;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    static MEMORY: LazyLock<std::sync::Arc<fuzz::PhysMemory>> = LazyLock::new(fuzz::physical);
    fuzz::page_walk(&MEMORY, input);
});
