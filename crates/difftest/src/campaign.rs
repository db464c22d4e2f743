//! The differential campaign: random cases of every family on the host CPU, the interpreter and the translator.
//!
//! The interpreter is in the middle: the CPU judges it, and it judges the translator. Single instructions run on all three ([`bulk`]),
//! programs on the interpreter and the translator.

use crate::bulk::{self, Batch, STATES, Trio};
use crate::engine::{Finish, Kicker, LowMemory, Program, Stepper, configurations, difference};
use crate::fpu;
use crate::generate::{self, Generator, Units};
use crate::program::{LAYOUT, Programs};
use crate::rng::Rng;
use crate::undefined::Undefined;
use iced_x86::{Code, EncodingKind, Mnemonic};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use xlat86_arch::{CpuModel, eflags};
use xlat86_decoder::{Insn, Kind, Unit, kind_of, required_features, unit_of};
use xlat86_vcpu::{Engine, Exit};

/// Cases between two changes of the low memory's owner.
const ROUND: u64 = 1 << 18;
/// One case in so many is a program: they take as many times longer.
const PROGRAMS: u64 = 256;
/// Programs run by one engine before the next has its turn.
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
    /// Silicon cases of each instruction, by its [`Code`].
    pub codes: BTreeMap<u32, u64>,
    /// The first differences, with what reproduces them.
    pub reproducers: Reproducers,
}

/// The first few differences.
#[derive(Default, Debug)]
pub struct Reproducers(Vec<String>);

impl Reproducers {
    fn add(&mut self, text: impl FnOnce() -> String) {
        if self.0.len() < 10 {
            self.0.push(text());
        }
    }
}

impl core::ops::Deref for Reproducers {
    type Target = [String];
    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl Report {
    /// Cases that differ, of all families.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.tallies.values().map(|t| t.differences).sum()
    }
}

/// Does the host CPU, as we can ask it, know the answer? In 64-bit mode it has no place for the x87's pointers of 32-bit code.
#[must_use]
pub fn silicon_judges(code: Code) -> bool {
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
    let only = |f: &str| plan.family.as_deref().is_none_or(|w| w == f);
    let mut source = Source::new(plan);
    let (mut report, mut done) = (Report::default(), 0);
    while done < plan.cases {
        let round = ROUND.min(plan.cases - done);
        let programs = match (only(PROGRAM), source.kinds.is_empty()) {
            (true, true) => round,
            (true, false) => round.div_ceil(PROGRAMS),
            (false, _) => 0,
        };
        if programs < round {
            let low = LowMemory::new(&bulk::LAYOUT)?;
            let mut trio = Trio::new(&low)?;
            let mut left = round - programs;
            while left != 0 {
                let (number, batch) = source.batch(left);
                left -= batch.states.len() as u64;
                try_batch(number, &batch, &mut trio, &mut report);
                progress(done + (round - programs) - left);
            }
        }
        for first in (0..programs).step_by(BATCH as usize) {
            let batch: Vec<_> = (first..programs.min(first + BATCH)).map(|_| source.program()).collect();
            try_programs(&batch, &mut report)?;
            progress(done + round - programs + first);
        }
        done += round;
    }
    Ok(report)
}

/// Which generator an instruction comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Draw {
    Random(Units),
    /// The next of [`generate::integer_forms`] or [`fpu::encodings`].
    Listed(Units),
}

/// What comes next: each case has a number, from which everything about it follows.
struct Source<'a> {
    wants: Box<dyn Fn(&Insn) -> bool + 'a>,
    kinds: Vec<Draw>,
    encodings: Vec<Vec<u8>>,
    forms: Vec<Vec<u8>>,
    /// States for each instruction.
    states: usize,
    batches: u64,
    programs: Programs,
    seed: u64,
    program: u64,
}

impl<'a> Source<'a> {
    fn new(plan: &'a Plan) -> Self {
        let only = plan.family.as_deref();
        let wants = move |i: &Insn| only.is_none_or(|w| w == family(i.code()));
        let floats = ["x87", "mmx", "sse"];
        let mut kinds = Vec::new();
        if FAMILIES.iter().any(|f| only.is_none_or(|w| w == *f) && *f != PROGRAM && !floats.contains(f)) {
            kinds.extend([Draw::Listed(Units::Integer), Draw::Random(Units::Integer)]);
        }
        if floats.iter().any(|f| only.is_none_or(|w| w == *f)) {
            kinds.extend([Draw::Listed(Units::Float), Draw::Random(Units::Float)]);
        }
        let mut encodings = fpu::encodings();
        // The fences' ModRM bytes all mean the same, and PAUSE is a NOP.
        encodings.extend((0xe8..=0xff).map(|m| vec![0x0f, 0xae, m]));
        encodings.push(vec![0xf3, 0x90]);
        encodings.retain(|e| wants(&fpu::decode(e)));
        let mut forms = generate::integer_forms();
        forms.retain(|f| wants(&fpu::decode(f)));
        // Each instruction's first before any other's second.
        let mut seen = BTreeMap::new();
        encodings.sort_by_cached_key(|e| {
            let n = seen.entry(fpu::decode(e).code() as u32).or_insert(0u32);
            *n += 1;
            *n
        });
        // Few cases are better spent on many instructions.
        let states = (plan.cases / 25_000).clamp(4, STATES as u64) as usize;
        Source {
            wants: Box::new(wants),
            kinds,
            encodings,
            forms,
            states,
            batches: 0,
            programs: Programs::default(),
            seed: plan.seed,
            program: plan.seed << 32,
        }
    }

    /// The next batch, of at most `most` states, and its number.
    fn batch(&mut self, most: u64) -> (u64, Batch) {
        let (turn, kinds) = (self.batches, self.kinds.len() as u64);
        self.batches += 1;
        let number = self.seed << 40 | turn;
        let mut generator = Generator { rng: generate::Rng(number) };
        let next = |list: &[Vec<u8>]| list[(turn / kinds) as usize % list.len()].clone();
        let code = match self.kinds[(turn % kinds) as usize] {
            Draw::Listed(Units::Float) => fpu::with_immediate(&next(&self.encodings), &mut Rng::new(number)).0,
            Draw::Listed(Units::Integer) => {
                let form = next(&self.forms);
                core::iter::repeat_with(|| generator.complete(form.clone(), Units::Integer))
                    .flatten()
                    .next()
                    .expect("endless")
                    .0
            }
            Draw::Random(units) => {
                let mut drawn = core::iter::repeat_with(|| generator.encoding(units)).flatten();
                drawn.find(|(_, i)| (self.wants)(i)).expect("every family is drawn at some time").0
            }
        };
        (number, Batch::new(number, code, self.states.min(most as usize)))
    }

    /// The next program, and its number.
    fn program(&mut self) -> (u64, Program) {
        self.program += 1;
        let n = self.program;
        (n, self.programs.program(n, 1 + n as u32 % 3))
    }
}

/// How to look at a case again.
fn explain(number: u64, more: &str) -> String {
    format!("cargo run --release -p xlat86-difftest --example explain {number:x}{more}")
}

fn try_batch(number: u64, batch: &Batch, trio: &mut Trio<'_>, report: &mut Report) {
    let (code, states) = (batch.insn.code(), batch.states.len() as u64);
    let silicon = silicon_judges(code);
    let (findings, compared) = trio.run(batch, silicon);
    let tally = report.tallies.entry(family(code)).or_default();
    tally.cases += states;
    tally.silicon += compared.silicon;
    tally.translator += compared.translator;
    if silicon {
        *report.codes.entry(code as u32).or_default() += states;
    }
    for f in findings {
        tally.differences += 1;
        let hex: String = batch.code.iter().map(|b| format!("{b:02x}")).collect();
        let how = explain(number, &format!(" {hex}"));
        report.reproducers.add(|| {
            format!(
                "{}
{}{how}",
                batch.text(f.state),
                f.what
            )
        });
    }
}

/// Runs `batch` on everything that can run it.
fn try_programs(batch: &[(u64, Program)], report: &mut Report) -> io::Result<()> {
    let mut stepper = Stepper::new(&LAYOUT)?;
    let middle: Vec<Option<Finish>> = batch.iter().map(|(_, p)| stepper.run(p, LIMIT)).collect();
    let low = LowMemory::new(&LAYOUT)?;
    let mut engines: Vec<_> = configurations().into_iter().map(|(name, c)| (name, low.cpu(Engine::Dbt, c))).collect();
    let exact_one = engines.iter().position(|e| e.0 == "flag-liveness=off").expect("a configuration");
    let _watchdog = Kicker::every(Duration::from_millis(200));
    let tally = report.tallies.entry(PROGRAM).or_default();
    for ((number, program), want) in batch.iter().zip(middle) {
        tally.cases += 1;
        let Some(want) = want else { continue };
        let other = 1 + *number as usize % (engines.len() - 1);
        for i in [0, other] {
            let (name, engine) = &mut engines[i];
            let before = engine.revivals();
            let got = engine.run(program);
            tally.translator += 1;
            // Where a program faults, flags that no instruction would have read may be stale, unless liveness is off.
            let exact = *name == "flag-liveness=off" || !matches!(want.exit, Exit::Fault(_));
            let except = Undefined { flags: if exact { 0 } else { eflags::STATUS }, ..Undefined::default() };
            let Some(what) = difference(&want, &got, &except) else { continue };
            let revived = engine.revivals() != before && *name != "flag-liveness=off";
            let name = *name;
            if revived && difference(&want, &engines[exact_one].1.run(program), &Undefined::default()).is_none() {
                tally.stale += 1;
                continue;
            }
            tally.differences += 1;
            let how = explain(*number, "");
            report.reproducers.add(|| {
                format!(
                    "program {number:x}: {how}
the interpreter and the translator ({name}):
{what}"
                )
            });
            break;
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
        .filter(|&c| !report.codes.contains_key(&(c as u32)))
        .map(|c| format!("{c:?}"))
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
