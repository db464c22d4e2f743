//! Writes case files from what the host CPU does: `record DIRECTORY [CASES PER ENCODING]` random ones; `record FILE` prints the cases in
//! FILE with their outcomes replaced by the CPU's (write any `out` line).
//!
//! Only cases on which the interpreter agrees are written: a difference is for `silicon_integer` to report first.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use xlat86_difftest::campaign::family;
use xlat86_difftest::case::{Recorded, difference, parse};
use xlat86_difftest::generate::{Generator, Rng};
use xlat86_difftest::native::Native;
use xlat86_difftest::reference::Reference;
use xlat86_difftest::state::Executor;

fn main() {
    let mut args = std::env::args().skip(1);
    let directory = args.next().expect("usage: record DIRECTORY [CASES PER ENCODING]");
    if Path::new(&directory).is_file() {
        let mut native = Native::new().expect("the host's low memory is free");
        let text = std::fs::read_to_string(&directory).expect("a readable file");
        for Recorded { case, .. } in parse(&text).expect("cases") {
            let outcome = native.execute(&case.bytes, &case.regs, &case.data());
            print!("{}", Recorded { case, outcome });
        }
        return;
    }
    let most: usize = args.next().map_or(2, |n| n.parse().expect("a number of cases"));
    let mut native = Native::new().expect("the host's low memory is free");
    let mut reference = Reference::new().expect("room for a guest window");
    let mut generator = Generator { rng: Rng(2026) };
    let mut counts = HashMap::new();
    let mut files: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    for _ in 0..400_000 {
        let case = generator.next_case();
        let outcome = native.execute(&case.bytes, &case.regs, &case.data());
        let key = (case.code, core::mem::discriminant(&outcome.end));
        let count = counts.entry(key).or_insert(0);
        let ours = reference.execute(&case.bytes, &case.regs, &case.data());
        if *count == most || difference(case.code, &outcome, &ours).is_some() {
            continue;
        }
        *count += 1;
        let (file, code) = (family(case.code), format!("{:?}", case.code));
        let text = Recorded { case, outcome }.to_string();
        files.entry(file).or_default().entry(code).or_default().push_str(&text);
    }
    for (name, cases) in files {
        let text: String = cases.into_values().collect();
        std::fs::write(Path::new(&directory).join(format!("{name}.txt")), text).expect("the directory is writable");
    }
}
