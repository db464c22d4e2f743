//! The interpreter's floating-point and vector instructions against the CPU.
//!
//! `recorded_outcomes` checks digests of what an AMD Zen 4 did (`testdata/fpu/zen4.txt`); it runs everywhere.
//! `interpreter_agrees_with_the_cpu` asks the CPU here (`silicon/fpu.c`) and says in what a case differs; it needs a
//! host that runs i386 code, and `gcc -m32`. `record` rewrites the file. Nothing of an outcome is masked, except that
//! results which are the silicon's own choice (transcendentals, reciprocal approximations) aren't recorded.
//!
//! `cargo test --release -p xlat86-difftest --test silicon_fpu -- --ignored interpreter`, with `ROUNDS` cases of each
//! encoding (default 100), starting at number `FIRST` (default 0).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use xlat86_difftest::fpu::{Case, Outcome, Subject, decode, digest, encodings, is_approximate};

/// Recorded cases of each encoding.
const RECORDED: u64 = 24;
/// Size of the oracle's reply.
const REPLY: usize = 20 + 28 + 512 + 512;

fn recording() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fpu/zen4.txt")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// The CPU here.
struct Native(PathBuf);

impl Native {
    fn build() -> Native {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("silicon/fpu.c");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fpu");
        let flags = ["-m32", "-O1", "-fno-pie", "-no-pie", "-o"];
        let built = Command::new("gcc").args(flags).arg(&program).arg(source).status();
        assert!(built.expect("gcc").success());
        Native(program)
    }

    fn run(&self, cases: &[Case]) -> Vec<Outcome> {
        let mut child =
            Command::new(&self.0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("i386 code runs here");
        let mut stdin = child.stdin.take().unwrap();
        let requests: Vec<u8> = cases.iter().flat_map(request).collect();
        let writer = std::thread::spawn(move || stdin.write_all(&requests));
        let mut replies = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut replies).unwrap();
        writer.join().unwrap().unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(replies.len(), cases.len() * REPLY);
        replies.chunks_exact(REPLY).map(outcome).collect()
    }
}

fn request(c: &Case) -> Vec<u8> {
    let mut code = c.code.clone();
    code.resize(16, 0);
    let mut r = (c.code.len() as u32).to_le_bytes().to_vec();
    r.extend(code);
    for v in [c.gpr[0], c.gpr[1], c.gpr[2], c.pointer, c.eflags] {
        r.extend(v.to_le_bytes());
    }
    r.extend(c.image());
    r.extend(c.memory);
    r
}

fn outcome(r: &[u8]) -> Outcome {
    let word = |at: usize| u32::from_le_bytes(r[at..at + 4].try_into().unwrap());
    let fx = &r[48..560];
    let half = |at: usize| u32::from(u16::from_le_bytes([fx[at], fx[at + 1]]));
    let vector = u8::try_from(word(0)).ok();
    Outcome {
        vector,
        gpr: [word(4), word(8), word(12)],
        flags: word(16) & xlat86_arch::eflags::STATUS,
        control: [half(0), half(2), fx[4].into(), word(48 + 24)],
        pointers: vector.is_none().then(|| [word(32), word(36), word(40), word(44) & 0xffff]),
        st: core::array::from_fn(|i| fx[32 + 16 * i..42 + 16 * i].try_into().unwrap()),
        xmm: core::array::from_fn(|i| u128::from_le_bytes(fx[160 + 16 * i..176 + 16 * i].try_into().unwrap())),
        memory: r[560..].try_into().unwrap(),
    }
}

/// The fields in which `got` isn't `want`.
fn differences(got: &Outcome, want: &Outcome) -> String {
    let mut text = String::new();
    macro_rules! field {
        ($($f:ident),*) => {$(
            if got.$f != want.$f {
                let _ = write!(text, "\n    {}: {:x?}, the CPU: {:x?}", stringify!($f), got.$f, want.$f);
            }
        )*};
    }
    field!(vector, gpr, flags, control, pointers, st, xmm, memory);
    text
}

/// Runs `cases` on the CPU and compares. A difference has to persist: where another program runs in between, AMD CPUs
/// forget the x87 pointers.
fn compare(native: &Native, cases: &[Case]) -> Vec<(Case, String)> {
    let mut subject = Subject::new();
    let ours: Vec<Outcome> = cases.iter().map(|c| subject.run(c)).collect();
    let theirs = native.run(cases);
    let mut found = Vec::new();
    for ((case, got), want) in cases.iter().zip(ours).zip(theirs) {
        let agrees = got == want || (0..3).any(|_| native.run(std::slice::from_ref(case))[0] == got);
        if !agrees {
            found.push((case.clone(), differences(&got, &want)));
        }
    }
    found
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().expect("a number"))
}

#[test]
#[ignore = "asks this machine's CPU; needs gcc -m32"]
fn interpreter_agrees_with_the_cpu() {
    let (native, all) = (Native::build(), encodings());
    let (first, rounds) = (number("FIRST", 0), number("ROUNDS", 100));
    let mut found: BTreeMap<String, Vec<(Case, String)>> = BTreeMap::new();
    for n in first..first + rounds {
        let cases: Vec<Case> = all.iter().map(|e| Case::new(e, n)).collect();
        for (case, text) in compare(&native, &cases) {
            found.entry(format!("{:?}", decode(&case.code).code())).or_default().push((case, text));
        }
    }
    for (code, cases) in &found {
        let (case, text) = &cases[0];
        let c = case;
        println!(
            "{code}: {} cases, the first is {} with gpr {:x?}, pointer {:x}",
            cases.len(),
            hex(&c.code),
            c.gpr,
            c.pointer
        );
        println!("{:?}    memory {}...{text}", c.fx, hex(&c.memory[..32]));
    }
    println!("{} cases of {} encodings", all.len() as u64 * rounds, all.len());
    assert!(found.is_empty(), "{} instructions differ from this CPU's", found.len());
}

fn recorded_cases(encoding: &[u8]) -> Vec<Case> {
    (0..RECORDED).map(|n| Case::new(encoding, n)).collect()
}

#[test]
#[ignore = "rewrites testdata/fpu/zen4.txt with what this machine's CPU does"]
fn record() {
    let native = Native::build();
    let mut text = String::new();
    for encoding in encodings().iter().filter(|e| !is_approximate(&decode(e))) {
        let cases = recorded_cases(encoding);
        // Twice alike: a task switch in between loses the x87 pointers.
        let outcomes = loop {
            let (a, b) = (native.run(&cases), native.run(&cases));
            if a == b {
                break a;
            }
        };
        let _ = writeln!(text, "{:<14}{:016x} {:?}", hex(encoding), digest(outcomes.iter()), decode(encoding).code());
    }
    std::fs::create_dir_all(recording().parent().unwrap()).unwrap();
    std::fs::write(recording(), text).unwrap();
}

#[test]
fn recorded_outcomes() {
    let text = std::fs::read_to_string(recording()).expect("testdata/fpu/zen4.txt");
    let mut recorded: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        recorded.insert(words.next().expect("encoding"), words.next().expect("digest"));
    }
    let mut subject = Subject::new();
    let mut wrong = Vec::new();
    for encoding in encodings().iter().filter(|e| !is_approximate(&decode(e))) {
        let want = recorded.remove(hex(encoding).as_str()).expect("every encoding is recorded");
        let outcomes: Vec<Outcome> = recorded_cases(encoding).iter().map(|c| subject.run(c)).collect();
        if format!("{:016x}", digest(outcomes.iter())) != want {
            wrong.push(format!("{} ({:?})", hex(encoding), decode(encoding).code()));
        }
    }
    assert!(recorded.is_empty(), "recorded but not generated: {recorded:?}");
    assert!(wrong.is_empty(), "other outcomes than recorded: {wrong:#?}");
}
