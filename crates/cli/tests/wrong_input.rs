//! Wrong input is answered with one line that says what is wrong, and the exit status a shell would use.

mod common;

use common::{XLAT86, testdata};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("wrong-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn file(&self, name: &str, contents: &[u8], mode: u32) -> String {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs xlat86 and checks status and message: exactly one line on standard error that contains `says`.
fn refused(args: &[&str], status: i32, says: &str) {
    let o = Command::new(XLAT86).arg("run").args(args).output().unwrap();
    let err = String::from_utf8_lossy(&o.stderr);
    assert_eq!(o.status.code(), Some(status), "{args:?}: {err}");
    assert_eq!(err.lines().count(), 1, "{args:?}: {err}");
    assert!(err.starts_with("xlat86: ") && err.contains(says), "{args:?}: {err}");
}

/// A static program that works, to be damaged.
fn program() -> Vec<u8> {
    fs::read(testdata().join("user/stack")).unwrap()
}

#[test]
fn files_that_are_no_programs() {
    let d = Dir::new("files");
    refused(&["/no/such/program"], 127, "No such file");
    refused(&[d.0.to_str().unwrap()], 126, "Permission denied");
    refused(&[&d.file("empty", b"", 0o755)], 126, "not an ELF program");
    refused(&[&d.file("text", b"hello\n", 0o755)], 126, "not an ELF program");
    refused(&[&d.file("mode", &program(), 0o644)], 126, "Permission denied");
    refused(&["/proc/self/exe"], 126, "64-bit");
    refused(&[&d.file("script", b"#!/no/such/shell\n", 0o755)], 127, "/no/such/shell");
    refused(&[&d.file("loop", format!("#!{}/loop\n", d.0.display()).as_bytes(), 0o755)], 126, "symbolic links");
}

#[test]
fn damaged_programs() {
    let d = Dir::new("damaged");
    let whole = program();
    for len in [4, 16, 40, 51, 52, 60, 100] {
        refused(&[&d.file("cut", &whole[..len], 0o755)], 126, "damaged ELF file");
    }
    let patched = |at: usize, bytes: &[u8]| {
        let mut b = whole.clone();
        b[at..at + bytes.len()].copy_from_slice(bytes);
        d.file("patched", &b, 0o755)
    };
    refused(&[&patched(18, &[40, 0])], 126, "another machine");
    refused(&[&patched(16, &[1, 0])], 126, "not executable");
    refused(&[&patched(28, &[0xff; 4])], 126, "damaged");
    refused(&[&patched(44, &[0, 0])], 126, "damaged");
}

#[test]
fn missing_interpreter_names_the_option() {
    let d = Dir::new("interp");
    let path = b"/lib/no-such-loader.so\0";
    // One PT_INTERP after the file header, and a PT_LOAD.
    let mut b = program()[..52].to_vec();
    b[28..32].copy_from_slice(&52u32.to_le_bytes());
    b[44..46].copy_from_slice(&2u16.to_le_bytes());
    let at = 52 + 64;
    for word in [3, at, 0, 0, path.len() as u32, path.len() as u32, 4, 1] {
        b.extend(u32::to_le_bytes(word));
    }
    for word in [1, 0, 0x0804_8000, 0, 0x100, 0x100, 5, 0x1000] {
        b.extend(u32::to_le_bytes(word));
    }
    b.extend(path);
    refused(&[&d.file("dynamic", &b, 0o755)], 126, "-L DIR");
}

#[test]
fn no_memory_for_the_window() {
    let guest = testdata().join("user/stack");
    let o = Command::new("/bin/sh")
        .args(["-c", "ulimit -v 60000; exec \"$0\" run --engine interp \"$1\"", XLAT86, guest.to_str().unwrap()])
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&o.stderr);
    // Enough for this small program, or a clear refusal: never a panic or a signal.
    assert!(matches!(o.status.code(), Some(126 | 3 | 1)), "{:?}: {err}", o.status);
    assert!(!err.contains("internal error"), "{err}");
}

#[test]
fn every_truncation_and_many_corruptions_are_survived() {
    let d = Dir::new("fuzz");
    let whole = program();
    let mut x = 1u32;
    for round in 0..150u32 {
        let mut b = whole.clone();
        for _ in 0..3 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Only headers: what the program then does is its own business.
            b[(x >> 8) as usize % 180] = x as u8;
        }
        if round % 5 == 0 {
            b.truncate((x >> 4) as usize % whole.len());
        }
        let path = d.file("x", &b, 0o755);
        let o = Command::new("timeout")
            .args(["-s", "KILL", "20", XLAT86, "run", "--engine", "interp", &path])
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&o.stderr);
        assert!(o.status.code() != Some(70) && !err.contains("internal error"), "round {round}: {err}");
    }
}
