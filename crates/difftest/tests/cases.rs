//! The recorded cases under `testdata/insn`, on the interpreter and on the translator in every configuration: what silicon did, where no such
//! silicon is at hand.

use std::path::Path;
use xlat86_arch::{CpuState, Vector, eflags};
use xlat86_difftest::case::{Case, Recorded, difference, parse};
use xlat86_difftest::engine::{LowMemory, Program, Translated, configurations};
use xlat86_difftest::known::Known;
use xlat86_difftest::reference::Reference;
use xlat86_difftest::state::{AT, End, Executor, Outcome, Regs};
use xlat86_difftest::undefined::differs_by_maker;
use xlat86_vcpu::{Engine, Exit};

/// Every recorded case, with the file that it is in.
fn recorded() -> Vec<(String, Recorded)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/insn");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).expect("testdata/insn") {
        let path = entry.expect("testdata/insn").path();
        let text = std::fs::read_to_string(&path).expect("a case file");
        let cases = parse(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        all.extend(cases.into_iter().map(|c| (path.display().to_string(), c)));
    }
    all
}

/// What the translator makes of `case`; INT3 and missing memory elsewhere than at the instruction are its end.
fn translated(cpu: &mut Translated<'_>, case: &Case) -> Outcome {
    let finish = cpu.run(&Program::from_case(case, CpuState::linux_user()));
    let mut eip = finish.cpu.eip;
    let end = match finish.exit {
        Exit::SoftInt(3) => {
            eip = eip.wrapping_sub(1);
            End::Done
        }
        Exit::Fault(f) if f.vector == Vector::PF && f.addr.0 == eip && eip != AT => End::Done,
        Exit::Fault(f) => End::Fault { vector: f.vector, error: f.error.unwrap_or(0), addr: f.addr.0 },
        Exit::SoftInt(v) => End::Fault { vector: Vector(v), error: 0, addr: 0 },
        other => panic!("{other:?} for {:02x?}", case.bytes),
    };
    let flags = finish.cpu.eflags & (eflags::LIVE | eflags::AC | eflags::ID) | eflags::FIXED_1;
    let regs = Regs { gpr: finish.cpu.gpr, eip, eflags: flags, fx: finish.cpu.fx };
    Outcome { end, regs, data: finish.memory[1].clone() }
}

#[test]
fn translator_does_what_was_recorded() {
    let low = LowMemory::new(&Program::CASE_LAYOUT).expect("low memory");
    let cases = recorded();
    let (mut bad, mut known) = (Vec::new(), Known::of("insn"));
    for (name, config) in configurations() {
        let mut cpu = low.cpu(Engine::Dbt, config);
        for (file, r) in cases.iter().filter(|(_, r)| !differs_by_maker(r.case.code)) {
            let ours = translated(&mut cpu, &r.case);
            let hex: String = r.case.bytes.iter().map(|b| format!("{b:02x}")).collect();
            if let Some(what) = difference(r.case.code, &r.outcome, &ours)
                && !known.expects(&hex, "translator")
            {
                bad.push(format!("{file}, {name}: {what}\n{r}"));
            }
        }
    }
    bad.extend(known.mended());
    assert!(bad.is_empty(), "{} differ:\n{}", bad.len(), bad.join("\n"));
}

#[test]
fn interpreter_does_what_was_recorded() {
    let mut reference = Reference::new().expect("room for a guest window");
    let (mut count, mut bad) = (0, Vec::new());
    for (file, recorded) in recorded() {
        let case = &recorded.case;
        let ours = reference.execute(&case.bytes, &case.regs, &case.data());
        if let Some(what) = difference(case.code, &recorded.outcome, &ours) {
            bad.push(format!("{file}: {what}\n{recorded}"));
        }
        count += 1;
    }
    assert!(bad.is_empty(), "{} of {count} cases differ:\n{}", bad.len(), bad.join("\n"));
    assert!(count > 1000, "only {count} cases found");
}
