//! Random integer instructions on the interpreter and on the host CPU: registers, flags, memory and faults must agree.
//!
//! `XLAT86_CASES` sets how many, `XLAT86_SEED` where to start.

use iced_x86::Formatter;
use std::collections::BTreeMap;
use xlat86_difftest::generate::{Case, Generator, Rng};
use xlat86_difftest::native::Native;
use xlat86_difftest::reference::Reference;
use xlat86_difftest::state::{End, Executor, Outcome};
use xlat86_difftest::undefined::undefined;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().expect(name))
}

/// How the two outcomes differ, or nothing.
fn difference(case: &Case, silicon: &Outcome, ours: &Outcome) -> Option<String> {
    let mut out = Vec::new();
    let except = undefined(case.code.mnemonic());
    let both_fault = silicon.end != End::Done && ours.end != End::Done;
    if silicon.end != ours.end && !(both_fault && except.which_fault) {
        out.push(format!("end {:x?}, ours {:x?}", silicon.end, ours.end));
    }
    for (r, (a, b)) in silicon.regs.gpr.iter().zip(&ours.regs.gpr).enumerate() {
        let skip = silicon.end != End::Done && except.registers_on_fault >> r & 1 != 0;
        if a != b && !skip {
            out.push(format!("gpr{r} {a:08x}, ours {b:08x}"));
        }
    }
    if silicon.regs.eip != ours.regs.eip {
        out.push(format!("eip {:08x}, ours {:08x}", silicon.regs.eip, ours.regs.eip));
    }
    let flags = (silicon.regs.eflags ^ ours.regs.eflags) & !except.flags;
    if flags != 0 {
        out.push(format!("flags {:03x}, ours {:03x}, differ {flags:03x}", silicon.regs.eflags, ours.regs.eflags));
    }
    if let Some(i) = silicon.data.iter().zip(&ours.data).position(|(a, b)| a != b) {
        out.push(format!("memory +{i:03x} {:02x}, ours {:02x}", silicon.data[i], ours.data[i]));
    }
    (!out.is_empty()).then(|| out.join("; "))
}

fn describe(case: &Case) -> String {
    let mut text = String::new();
    let mut decoder = iced_x86::Decoder::with_ip(32, &case.bytes, 0x1000_0400, 0);
    iced_x86::IntelFormatter::new().format(&decoder.decode(), &mut text);
    format!("{text} {:02x?} gpr {:x?} flags {:03x}", case.bytes, case.regs.gpr, case.regs.eflags)
}

#[test]
fn interpreter_agrees_with_the_host_cpu() {
    let mut native = Native::new().expect("the host's low memory is free");
    let mut reference = Reference::new().expect("room for a guest window");
    let mut generator = Generator { rng: Rng(number("XLAT86_SEED", 1)) };
    let mut counts: BTreeMap<String, (u64, u64, String)> = BTreeMap::new();
    for _ in 0..number("XLAT86_CASES", 30_000) {
        let case = generator.next_case();
        let silicon = native.execute(&case.bytes, &case.regs, &case.data);
        let ours = reference.execute(&case.bytes, &case.regs, &case.data);
        let count = counts.entry(format!("{:?}", case.code)).or_default();
        count.0 += 1;
        if let Some(what) = difference(&case, &silicon, &ours) {
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
