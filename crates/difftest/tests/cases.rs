//! The recorded cases under `testdata/insn`, on the interpreter: what silicon did, where no such silicon is at hand.

use std::path::Path;
use xlat86_difftest::case::{difference, parse};
use xlat86_difftest::reference::Reference;
use xlat86_difftest::state::Executor;

#[test]
fn interpreter_does_what_was_recorded() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/insn");
    let mut reference = Reference::new().expect("room for a guest window");
    let (mut count, mut bad) = (0, Vec::new());
    for entry in std::fs::read_dir(directory).expect("testdata/insn") {
        let path = entry.expect("testdata/insn").path();
        let text = std::fs::read_to_string(&path).expect("a case file");
        let cases = parse(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        for recorded in &cases {
            let case = &recorded.case;
            let ours = reference.execute(&case.bytes, &case.regs, &case.data());
            if let Some(what) = difference(case.code, &recorded.outcome, &ours) {
                bad.push(format!("{}: {what}\n{recorded}", path.display()));
            }
        }
        count += cases.len();
    }
    assert!(bad.is_empty(), "{} of {count} cases differ:\n{}", bad.len(), bad.join("\n"));
    assert!(count > 1000, "only {count} cases found");
}
