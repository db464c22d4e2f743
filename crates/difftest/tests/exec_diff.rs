//! The translator, in every configuration, against the interpreter: single instructions first.
//!
//! `XLAT86_CASES` sets how many of each kind, `XLAT86_SEED` where to start.

use std::collections::BTreeMap;
use std::time::Duration;
use xlat86_arch::eflags;
use xlat86_difftest::engine::{Kicker, LowMemory, Program, Stepper, configurations, difference, is_boundary, with_tls};
use xlat86_difftest::fpu;
use xlat86_difftest::generate::{Generator, Rng};
use xlat86_difftest::program::{self, Programs};
use xlat86_difftest::undefined::{Undefined, differs_by_maker, silicon_is_followed, undefined};
use xlat86_vcpu::Engine;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().expect(name))
}

/// The first difference of each kind of instruction.
#[derive(Default)]
struct Findings(BTreeMap<String, (u64, String)>);

impl Findings {
    fn add(&mut self, code: String, text: impl FnOnce() -> String) {
        let entry = self.0.entry(code).or_insert_with(|| (0, text()));
        entry.0 += 1;
    }

    fn check(&self) {
        for (code, (n, first)) in &self.0 {
            eprintln!("{code}: {n} differ, the first:\n{first}");
        }
        assert!(self.0.is_empty(), "{} kinds of instruction differ", self.0.len());
    }
}

#[test]
fn integer_instructions_do_what_the_interpreter_does() {
    let low = LowMemory::new(&Program::CASE_LAYOUT).expect("low memory");
    let mut reference = Stepper::new(&Program::CASE_LAYOUT).expect("a window");
    let mut engines: Vec<_> =
        configurations().into_iter().map(|(name, config)| (name, low.cpu(Engine::Dbt, config))).collect();
    let mut generator = Generator { rng: Rng(number("XLAT86_SEED", 1)) };
    let mut findings = Findings::default();
    for n in 0..number("XLAT86_CASES", 20_000) {
        let case = generator.next_case();
        if differs_by_maker(case.code) {
            continue;
        }
        let program = Program::from_case(&case, with_tls());
        let Some(want) = reference.run(&program, 64) else { continue };
        let except = Undefined { flags: undefined(case.code.mnemonic()).flags, ..Undefined::default() };
        // Each in the default configuration and in one other.
        let other = 1 + n as usize % (engines.len() - 1);
        for i in [0, other] {
            let (name, engine) = &mut engines[i];
            let got = engine.run(&program);
            if let Some(what) = difference(&want, &got, &except) {
                findings.add(format!("{:?}", case.code), || {
                    format!(
                        "{} {:02x?} gpr {:x?} flags {:x} ({name})\n{what}",
                        case.text(),
                        case.bytes,
                        case.regs.gpr,
                        case.regs.eflags
                    )
                });
            }
        }
    }
    findings.check();
}

#[test]
fn floating_point_instructions_do_what_the_interpreter_does() {
    if !silicon_is_followed("floating_point_instructions_do_what_the_interpreter_does") {
        return;
    }
    let low = LowMemory::new(&Program::FPU_LAYOUT).expect("low memory");
    let mut reference = Stepper::new(&Program::FPU_LAYOUT).expect("a window");
    let mut engine = low.cpu(Engine::Dbt, configurations()[0].1);
    let mut findings = Findings::default();
    let first = number("XLAT86_SEED", 0);
    for encoding in fpu::encodings() {
        for n in first..first + number("XLAT86_CASES", 20_000) / 2000 {
            let case = fpu::Case::new(&encoding, n);
            let program = Program::from_fpu_case(&case);
            let Some(want) = reference.run(&program, 64) else { continue };
            let got = engine.run(&program);
            if let Some(what) = difference(&want, &got, &Undefined::default()) {
                findings.add(format!("{:?}", fpu::decode(&case.code).code()), || {
                    format!("{:02x?} number {n}\n{what}", case.code)
                });
            }
        }
    }
    findings.check();
}

/// Wherever it is interrupted, the state is one the interpreter passes through, and going on leads to the same end.
#[test]
fn interruption_shows_a_state_between_two_instructions() {
    if !silicon_is_followed("interruption_shows_a_state_between_two_instructions") {
        return;
    }
    let low = LowMemory::new(&program::LAYOUT).expect("low memory");
    let mut reference = Stepper::new(&program::LAYOUT).expect("a window");
    let off = |name| configurations().into_iter().find(|c| c.0 == name).expect("a configuration").1;
    let exact = eflags::STATUS | eflags::DF;
    let mut engines = [
        (low.cpu(Engine::Dbt, off("default")), eflags::DF),
        (low.cpu(Engine::Dbt, off("flag-liveness=off")), exact),
        (low.cpu(Engine::Dbt, off("lazy-esp=off")), eflags::DF),
    ];
    let _kicker = Kicker::every(Duration::from_micros(100));
    let (mut programs, mut findings, mut kicks) = (Programs::default(), Findings::default(), 0u64);
    let seed = number("XLAT86_SEED", 1);
    for n in 0..number("XLAT86_CASES", 20_000) / 100 {
        let program = programs.program(seed << 32 | n, 400);
        for (engine, flags) in &mut engines {
            let Some((want, seen)) = reference.boundaries(&program, 40_000, *flags) else { continue };
            let mut strange = None;
            let before = engine.revivals();
            let got = engine.run_interrupted(&program, |cpu, window| {
                kicks += 1;
                if !is_boundary(&seen, cpu, window, *flags) && strange.is_none() {
                    strange = Some(format!("{:08x}: {:08x?} {:x}", cpu.eip, cpu.gpr, cpu.eflags));
                }
                true
            });
            if engine.revivals() != before && *flags != exact {
                continue;
            }
            let what = strange.or_else(|| {
                let flags = if *flags == exact { 0 } else { eflags::STATUS };
                difference(&want, &got, &Undefined { flags, ..Undefined::default() })
            });
            if let Some(what) = what {
                findings.add(format!("flags {flags:x}"), || format!("program {:#x}\n{what}", seed << 32 | n));
            }
        }
    }
    println!("{kicks} interruptions");
    findings.check();
    assert!(kicks > 100, "only {kicks} interruptions");
}

/// ENTER that pushes over itself, with its new stack top in another page of translated code: all of its writes or none.
#[test]
fn an_instruction_may_write_over_itself() {
    let [code, data] = &program::LAYOUT;
    let (page, at) = (code.start + 0x1000, code.start + 0x400);
    let mut bytes = vec![0xcc; code.len()];
    let mut put = |at: u32, insns: &[u8]| bytes[(at - code.start) as usize..][..insns.len()].copy_from_slice(insns);
    put(at, &[0xe9]);
    put(at + 1, &(page + 4 - (at + 5)).to_le_bytes());
    put(page + 4, &[0xc8, 0x1c, 0, 0]);
    let mut cpu = with_tls();
    (cpu.eip, cpu.gpr[4], cpu.gpr[5]) = (at, page + 8, 0x1234_5678);
    let program = Program { cpu, memory: vec![(code.start, bytes), (data.start, vec![0; data.len()])] };
    let want = Stepper::new(&program::LAYOUT).expect("a window").run(&program, 100).expect("an end");
    let low = LowMemory::new(&program::LAYOUT).expect("low memory");
    for (name, config) in configurations() {
        let got = low.cpu(Engine::Dbt, config).run(&program);
        assert_eq!(difference(&want, &got, &Undefined::default()), None, "{name}");
    }
}
