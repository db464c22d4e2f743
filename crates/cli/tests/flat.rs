//! The flat test image that needs a machine: when external interrupts are taken (testdata/flat/interrupts.S).

use std::path::Path;
use std::process::{Command, Stdio};

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(status.success(), "{program} failed");
}

#[test]
fn interrupts_are_taken_when_the_manual_says() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/flat");
    let file = |name: &str| here.join(name).to_str().unwrap().to_string();
    let out = |name: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).to_str().unwrap().to_string();
    let (object, image) = (out("interrupts.o"), out("interrupts.bin"));
    run("as", &["--32", "-I", &file(""), "-o", &object, &file("interrupts.S")]);
    let format = ["-m", "elf_i386", "--oformat", "binary", "-T", &file("link.ld"), "-o", &image, &object];
    run("ld", &format);
    let expected = std::fs::read_to_string(file("interrupts.expected")).unwrap();
    for how in [["--engine", "interp"], ["--mmu", "tlb"], ["--mmu", "shadow"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xlat86"));
        command.args(["boot", "--bios", &image]).args(how).stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim_end(), expected.trim_end(), "{how:?}: {}", String::from_utf8_lossy(&output.stderr));
        // The exit device's status is twice what was written, plus one.
        assert_eq!(output.status.code(), Some(0x10 << 1 | 1), "{how:?}");
    }
}
