//! Random integer instructions on the interpreter and on the host CPU: registers, flags, memory and faults must agree.
//!
//! `XLAT86_CASES` sets how many, `XLAT86_SEED` where to start.

use std::collections::BTreeMap;
use xlat86_difftest::case::{Case, difference};
use xlat86_difftest::generate::{Generator, Rng};
use xlat86_difftest::native::Native;
use xlat86_difftest::reference::Reference;
use xlat86_difftest::state::Executor;
use xlat86_difftest::undefined::differs_by_maker;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().expect(name))
}

fn describe(case: &Case) -> String {
    format!("{} {:02x?} gpr {:x?} flags {:03x}", case.text(), case.bytes, case.regs.gpr, case.regs.eflags)
}

#[test]
fn interpreter_agrees_with_the_host_cpu() {
    let mut native = Native::new().expect("the host's low memory is free");
    let mut reference = Reference::new().expect("room for a guest window");
    let mut generator = Generator { rng: Rng(number("XLAT86_SEED", 1)) };
    let mut counts: BTreeMap<String, (u64, u64, String)> = BTreeMap::new();
    for _ in 0..number("XLAT86_CASES", 30_000) {
        let case = generator.next_case();
        if differs_by_maker(case.code) {
            continue;
        }
        let silicon = native.execute(&case.bytes, &case.regs, &case.data());
        let ours = reference.execute(&case.bytes, &case.regs, &case.data());
        let count = counts.entry(format!("{:?}", case.code)).or_default();
        count.0 += 1;
        if let Some(what) = difference(case.code, &silicon, &ours) {
            if count.1 == 0 {
                count.2 = format!("{}: {what}", describe(&case));
            }
            count.1 += 1;
        }
    }
    let bad: Vec<_> = counts.iter().filter(|(_, c)| c.1 != 0).collect();
    for (code, (n, differ, first)) in &bad {
        eprintln!("{code}: {differ} of {n} differ: {first}");
    }
    eprintln!("{} codes, {} differ", counts.len(), bad.len());
    assert!(bad.is_empty(), "{} codes differ from the host CPU", bad.len());
}
