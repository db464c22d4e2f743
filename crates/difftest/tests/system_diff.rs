//! The translator's checked accesses and its kernel mode, against the interpreter: the same programs behind page tables, at CPL 3 and 0.
//!
//! `XLAT86_CASES` sets how many, `XLAT86_SEED` where to start.

use xlat86_arch::eflags;
use xlat86_difftest::engine::{Finish, Program, configurations, difference, with_tls};
use xlat86_difftest::generate::{Generator, Rng};
use xlat86_difftest::paged::{Machine, frame, vector};
use xlat86_difftest::program::Programs;
use xlat86_difftest::undefined::{Undefined, differs_by_maker, silicon_is_followed, undefined};
use xlat86_vcpu::{Engine, TranslatorConfig};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().expect(name))
}

/// How `got` differs from `want` but for the flags `stale`.
fn compare(want: &Finish, got: &Finish, stale: u32) -> Option<String> {
    let show = |f| format!("vector {:x?} frame {:x?}", vector(f), frame(f));
    difference(want, got, &Undefined { flags: stale, ..Undefined::default() })
        .map(|d| format!("{}\n{}\n{d}", show(want), show(got)))
}

/// Both machines' answers to `program`, if it ends.
fn both(reference: &mut Machine, engine: &mut Machine, program: &Program, cpl: u8) -> Option<(Finish, Finish)> {
    let want = reference.run(program, cpl)?;
    let got =
        engine.run(program, cpl).unwrap_or_else(|| Finish { exit: xlat86_vcpu::Exit::Interrupted, ..want.clone() });
    Some((want, got))
}

/// Flags never stale: everything is comparable, pushed EFLAGS included.
fn exact() -> TranslatorConfig {
    let (_, c) = configurations().into_iter().find(|c| c.0 == "flag-liveness=off").expect("a configuration");
    c
}

#[test]
fn instructions_behind_page_tables_do_what_the_interpreter_does() {
    let mut reference = Machine::new(Engine::Interp, exact());
    let mut engine = Machine::new(Engine::Dbt, exact());
    let mut generator = Generator { rng: Rng(number("XLAT86_SEED", 1)) };
    let mut failures = 0;
    for n in 0..number("XLAT86_CASES", 4_000) {
        let case = generator.next_case();
        if differs_by_maker(case.code) {
            continue;
        }
        let program = Program::from_case(&case, with_tls());
        let cpl = if n % 2 == 0 { 3 } else { 0 };
        let Some((mut want, mut got)) = both(&mut reference, &mut engine, &program, cpl) else { continue };
        let undefined = undefined(case.code.mnemonic()).flags;
        mask_pushed(&mut want, &mut got, undefined);
        if let Some(what) = compare(&want, &got, undefined) {
            failures += 1;
            if failures < 10 {
                eprintln!("cpl {cpl} {} {:02x?} gpr {:x?}\n{what}", case.text(), case.bytes, case.regs.gpr);
            }
        }
    }
    assert_eq!(failures, 0);
    let s = engine.stats();
    assert!(s.leave_access > 1000 && s.cache.units > 1000, "{s}");
}

#[test]
fn programs_behind_page_tables_do_what_the_interpreter_does() {
    if !silicon_is_followed("programs_behind_page_tables_do_what_the_interpreter_does") {
        return;
    }
    let mut reference = Machine::new(Engine::Interp, exact());
    let mut engines: Vec<_> = configurations()
        .into_iter()
        .map(|(name, c)| (name, if c.flag_liveness { eflags::STATUS } else { 0 }, Machine::new(Engine::Dbt, c)))
        .collect();
    let seed = number("XLAT86_SEED", 1);
    let (mut programs, mut failures, mut ended) = (Programs::default(), 0, 0);
    for n in 0..number("XLAT86_CASES", 4_000) / 20 {
        let program = programs.program(seed << 32 | n, 20);
        for cpl in [3, 0] {
            let which = n as usize % engines.len();
            let (name, stale, engine) = &mut engines[which];
            let Some((mut want, mut got)) = both(&mut reference, engine, &program, cpl) else { continue };
            ended += 1;
            if *stale != 0 {
                // What an exception pushed has the stale flags in it too.
                let same = want.cpu.reg(xlat86_arch::Reg::Esp) == got.cpu.reg(xlat86_arch::Reg::Esp);
                if same && vector(&want).is_some() && vector(&want) == vector(&got) {
                    mask_pushed(&mut want, &mut got, eflags::STATUS);
                }
            }
            if let Some(what) = compare(&want, &got, *stale) {
                failures += 1;
                if failures < 10 {
                    eprintln!("program {:#x} cpl {cpl} {name}\n{what}", seed << 32 | n);
                    let eip = frame(&want).get(1).copied().unwrap_or(0);
                    for (at, bytes) in &program.memory {
                        if let Some(code) = bytes.get(eip.wrapping_sub(*at) as usize..) {
                            eprintln!("at {eip:x}: {:02x?}", &code[..code.len().min(15)]);
                        }
                    }
                }
            }
        }
    }
    assert_eq!(failures, 0);
    assert!(ended > 100, "only {ended} programs ended");
    for (name, _, engine) in &mut engines {
        let s = engine.stats();
        assert!(s.leave_access > 100 && s.interpreted < s.cache.insns * 1000, "{name}\n{s}");
    }
}

/// Clears `flags` in words that differ in nothing else.
fn mask_pushed(want: &mut Finish, got: &mut Finish, flags: u32) {
    for (a, b) in want.memory.iter_mut().zip(&mut got.memory) {
        for at in 0..=a.len() - 4 {
            let word = |m: &[u8]| u32::from_le_bytes(m[at..at + 4].try_into().unwrap());
            let (x, y) = (word(a), word(b));
            if x != y && (x ^ y) & !flags == 0 && x & eflags::FIXED_1 != 0 {
                a[at..at + 4].copy_from_slice(&(x & !flags).to_le_bytes());
                b[at..at + 4].copy_from_slice(&(y & !flags).to_le_bytes());
            }
        }
    }
}
