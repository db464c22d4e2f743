//! The differential campaign: random cases of every family on the host CPU, the interpreter and the translator.
//!
//! The interpreter is in the middle: the CPU judges it, and it judges the translator. The CPU and translated code both need the host's low memory,
//! so cases are run in batches, first by one, then by the other.

use crate::engine::{Finish, Kicker, LowMemory, Program, Silicon, Stepper, configurations, difference};
use crate::generate::{self, Generator};
use crate::program::{LAYOUT, Programs};
use crate::undefined::{Undefined, undefined};
use crate::{case, fpu};
use core::ops::Range;
use iced_x86::{Code, EncodingKind, Mnemonic};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use xlat86_arch::{CpuModel, CpuState, eflags};
use xlat86_decoder::{Kind, Unit, kind_of, required_features, unit_of};
use xlat86_vcpu::{Engine, Exit};

/// Cases between two changes of the low memory's owner.
const BATCH: u64 = 2000;
/// Instructions that a case may take: string instructions and loops end, but not all programs do.
const LIMIT: u64 = 4000;
/// The name of the family of whole programs.
pub const PROGRAM: &str = "program";

/// The family that `code` is counted in.
#[must_use]
pub fn family(code: Code) -> &'static str {
    use Mnemonic::*;
    match unit_of(code) {
        Unit::X87 | Unit::Wait => return "x87",
        Unit::Mmx => return "mmx",
        Unit::Integer => {}
        _ => return "sse",
    }
    match code.mnemonic() {
        Add | Adc | Sub | Sbb | Cmp | Neg | Inc | Dec | Not | And | Or | Xor | Test | Xadd | Cmpxchg => "alu",
        Mul | Imul | Div | Idiv => "muldiv",
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd => "shift",
        Bt | Bts | Btr | Btc | Bsf | Bsr | Popcnt | Crc32 | Cmpxchg8b | Bound => "bits",
        Aaa | Aas | Aam | Aad | Daa | Das => "bcd",
        _ => match kind_of(code) {
            Kind::Stack | Kind::Sensitive => "stack",
            Kind::String => "string",
            Kind::Branch => "branch",
            _ => "move",
        },
    }
}

/// Every family.
pub const FAMILIES: [&str; 13] =
    ["alu", "bcd", "bits", "branch", "mmx", "move", "muldiv", PROGRAM, "shift", "sse", "stack", "string", "x87"];

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Cases in all.
    pub cases: u64,
    /// Only this family.
    pub family: Option<String>,
    /// Where the random sequence starts.
    pub seed: u64,
}

/// What one family came to.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    /// Cases run.
    pub cases: u64,
    /// Comparisons of the interpreter with the host CPU.
    pub silicon: u64,
    /// Comparisons of the translator with the interpreter.
    pub translator: u64,
    /// Cases that differ.
    pub differences: u64,
    /// Cases that differ by flags which were dead until a return or a write to code revived them (docs/bugs.md).
    pub stale: u64,
}

/// What a campaign came to.
#[derive(Default, Debug)]
pub struct Report {
    /// By family.
    pub tallies: BTreeMap<&'static str, Tally>,
    /// Silicon cases of each instruction.
    pub codes: BTreeMap<String, u64>,
    /// The first differences, with what reproduces them.
    pub reproducers: Vec<String>,
}

impl Report {
    /// Cases that differ, of all families.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.tallies.values().map(|t| t.differences).sum()
    }
}

/// One case: a program, and how to report it.
struct Drawn {
    program: Program,
    code: Option<Code>,
    text: String,
}

/// Does the host CPU, as we can ask it, know the answer? In 64-bit mode it has no place for the x87's pointers of 32-bit code.
pub(crate) fn silicon_judges(code: Code) -> bool {
    let m = code.mnemonic();
    !matches!(
        m,
        Mnemonic::Fnstenv
            | Mnemonic::Fnsave
            | Mnemonic::Fxsave
            | Mnemonic::Fxrstor
            | Mnemonic::Fldenv
            | Mnemonic::Frstor
    )
}

/// Runs `plan`, telling `progress` how many cases are done.
///
/// # Errors
/// The host has no room for guest memory.
pub fn run(plan: &Plan, mut progress: impl FnMut(u64)) -> io::Result<Report> {
    let wants = |f: &str| plan.family.as_deref().is_none_or(|w| w == f);
    let mut report = Report::default();
    let mut kinds: Vec<Draw> = Vec::new();
    if FAMILIES.iter().any(|f| wants(f) && !matches!(*f, "x87" | "mmx" | "sse" | PROGRAM)) {
        kinds.push(Draw::Integer);
    }
    if ["x87", "mmx", "sse"].iter().any(|f| wants(f)) {
        kinds.push(Draw::Float);
    }
    if wants(PROGRAM) {
        kinds.push(Draw::Program);
    }
    let mut source = Source {
        integer: Generator { rng: generate::Rng(plan.seed) },
        encodings: fpu::encodings(),
        programs: Programs::default(),
        number: plan.seed << 32,
        turn: 0,
    };
    // The fences' ModRM bytes all mean the same, and PAUSE is a NOP.
    source.encodings.extend((0xe8..=0xff).map(|m| vec![0x0f, 0xae, m]));
    source.encodings.push(vec![0xf3, 0x90]);
    source.encodings.retain(|e| wants(family(fpu::decode(e).code())));
    let (mut done, mut turn) = (0, 0);
    while done < plan.cases && !kinds.is_empty() {
        let kind = kinds[turn % kinds.len()];
        turn += 1;
        let n = BATCH.min(plan.cases - done);
        let batch: Vec<Drawn> = (0..n).map(|_| source.draw(kind, &wants)).collect();
        compare(kind.layout(), &batch, &mut report)?;
        done += n;
        progress(done);
    }
    Ok(report)
}

/// Which generator a case comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Draw {
    Integer,
    Float,
    Program,
}

impl Draw {
    fn layout(self) -> &'static [Range<u32>] {
        match self {
            Draw::Integer => &Program::CASE_LAYOUT,
            Draw::Float => &Program::FPU_LAYOUT,
            Draw::Program => &LAYOUT,
        }
    }
}

struct Source {
    integer: Generator,
    encodings: Vec<Vec<u8>>,
    programs: Programs,
    number: u64,
    /// The next encoding.
    turn: usize,
}

impl Source {
    fn draw(&mut self, kind: Draw, wants: &dyn Fn(&str) -> bool) -> Drawn {
        self.number += 1;
        let n = self.number;
        match kind {
            Draw::Integer => {
                let case = core::iter::repeat_with(|| self.integer.next_case())
                    .find(|c| wants(family(c.code)))
                    .expect("every family is drawn at some time");
                let text = format!("{}\n{}", case.text(), describe(&case));
                Drawn { program: Program::from_case(&case, CpuState::linux_user()), code: Some(case.code), text }
            }
            Draw::Float => {
                let encoding = &self.encodings[self.turn];
                self.turn = (self.turn + 1) % self.encodings.len();
                let case = fpu::Case::new(encoding, n);
                let text = format!("{:02x?}, number {n} of its encoding", case.code);
                Drawn { program: Program::from_fpu_case(&case), code: Some(fpu::decode(encoding).code()), text }
            }
            Draw::Program => Drawn {
                program: self.programs.program(n, 1 + n as u32 % 3),
                code: None,
                text: format!("program {n:x}: cargo run -p xlat86-difftest --example explain {n:x}"),
            },
        }
    }
}

/// A case in the notation of case files, without its outcome.
fn describe(case: &case::Case) -> String {
    let hex: String = case.bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("  bytes {hex}\n  registers {:x?} flags={:03x} data={:02x}", case.regs.gpr, case.regs.eflags, case.fill)
}

/// Runs `batch` on everything that can run it.
fn compare(layout: &[Range<u32>], batch: &[Drawn], report: &mut Report) -> io::Result<()> {
    let mut stepper = Stepper::new(layout)?;
    let middle: Vec<Option<Finish>> = batch.iter().map(|d| stepper.run(&d.program, LIMIT)).collect();
    let mut bad: Vec<Option<String>> = vec![None; batch.len()];
    let mut silicon = Silicon::new(layout)?;
    for ((d, want), bad) in batch.iter().zip(&middle).zip(&mut bad) {
        let (Some(code), Some(ours)) = (d.code.filter(|c| silicon_judges(*c)), want) else { continue };
        let theirs = silicon.run(&d.program);
        report.tallies.entry(family(code)).or_default().silicon += 1;
        *report.codes.entry(format!("{code:?}")).or_default() += 1;
        *bad = difference(&theirs, ours, &undefined(code.mnemonic()))
            .map(|w| format!("the CPU and the interpreter:\n{w}"));
    }
    drop(silicon);
    let low = LowMemory::new(layout)?;
    let configurations = configurations();
    let mut engines: Vec<_> = configurations.iter().map(|(name, c)| (*name, low.cpu(Engine::Dbt, *c))).collect();
    let exact_one = engines.iter().position(|e| e.0 == "flag-liveness=off").expect("a configuration");
    let _watchdog = Kicker::every(Duration::from_millis(200));
    for (n, ((d, want), bad)) in batch.iter().zip(&middle).zip(&mut bad).enumerate() {
        let tally = report.tallies.entry(d.code.map_or(PROGRAM, family)).or_default();
        tally.cases += 1;
        let Some(want) = want else { continue };
        let other = 1 + n % (engines.len() - 1);
        for i in [0, other] {
            let (name, engine) = &mut engines[i];
            let before = engine.revivals();
            let got = engine.run(&d.program);
            tally.translator += 1;
            // Where a program faults, flags that no instruction would have read may be stale, unless liveness is off.
            let exact = *name == "flag-liveness=off" || d.code.is_some() || !matches!(want.exit, Exit::Fault(_));
            let except = Undefined { flags: if exact { 0 } else { eflags::STATUS }, ..Undefined::default() };
            let Some(what) = difference(want, &got, &except) else { continue };
            let revived = engine.revivals() != before && *name != "flag-liveness=off";
            let name = *name;
            if revived && difference(want, &engines[exact_one].1.run(&d.program), &Undefined::default()).is_none() {
                tally.stale += 1;
            } else if bad.is_none() {
                *bad = Some(format!("the interpreter and the translator ({name}):\n{what}"));
            }
        }
    }
    for (d, what) in batch.iter().zip(bad) {
        if let Some(what) = what {
            report.tallies.entry(d.code.map_or(PROGRAM, family)).or_default().differences += 1;
            if report.reproducers.len() < 10 {
                report.reproducers.push(format!("{}\n{what}", d.text));
            }
        }
    }
    Ok(())
}

/// Instructions of `only` (or any family) that user code can execute and the host CPU wasn't asked about in `report`. Those that no case may contain
/// (privileged, or with an effect beyond registers and memory) and those [`silicon_judges`] excepts don't count.
#[must_use]
pub fn missing(report: &Report, only: Option<&str>) -> Vec<String> {
    Code::values()
        .filter(|&c| is_user_instruction(c) && silicon_judges(c))
        .filter(|&c| only.is_none_or(|f| f == family(c)))
        .map(|c| format!("{c:?}"))
        .filter(|name| !report.codes.contains_key(name))
        .collect()
}

/// Is `code` an instruction of the 32-bit CPU that a random case may contain?
fn is_user_instruction(code: Code) -> bool {
    let op = code.op_code();
    let kind = matches!(kind_of(code), Kind::Plain | Kind::Stack | Kind::String | Kind::Branch | Kind::Fpu);
    // Instructions with a WAIT in front are two; what iced calls prefetches and wide NOPs, the decoder calls reserved NOPs.
    let other = op.fwait()
        || matches!(
            code.mnemonic(),
            Mnemonic::Nop | Mnemonic::Prefetchnta | Mnemonic::Prefetcht0 | Mnemonic::Prefetcht1 | Mnemonic::Prefetcht2
        );
    let encodable = !other && op.is_instruction() && op.mode32() && op.encoding() == EncodingKind::Legacy;
    kind && encodable && CpuModel::MAX.features.contains(required_features(code))
}
