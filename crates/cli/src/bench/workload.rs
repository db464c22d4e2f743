//! What is run: the embedded programs, or one of the user's.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A program built from testdata/user/bench.
pub(crate) struct Embedded {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) elf: &'static [u8],
}

macro_rules! embedded {
    ($($group:literal: $($name:literal)+;)+) => {
        &[$($(Embedded {
            group: $group,
            name: $name,
            elf: include_bytes!(concat!("../../../../testdata/user/bench/bin/", $name)),
        },)+)+]
    };
}

/// All of them. A group is what one geometric mean is taken over.
pub(crate) const EMBEDDED: &[Embedded] = embedded! {
    "integer": "sort" "hash" "sha1" "crc32" "intmatmul" "sieve" "scan" "translate" "lz" "chacha";
    "pointer": "chase" "list";
    "branchy": "collatz" "lexer";
    "calls": "fib" "ackermann" "mutual" "callgraph";
    "indirect": "vm-switch" "vm-goto" "virtual1" "virtual4";
    "strings": "movs" "scas";
    "x87": "nbody-x87" "linpack-x87";
    "sse2": "nbody-sse2" "matmul-sse2" "pixels";
    "memory": "stream";
    "syscalls": "getppid" "devnull";
    "signals": "sigusr1" "sigsegv";
    "threads": "workers" "atomics";
    "smc": "patch" "generate";
    "faults": "touch" "mprotect";
    "startup": "exit";
    "costs": "call" "indirect" "leave";
};

/// Starts and ends, whatever its scale.
pub(crate) const STARTUP: &str = "exit";
/// Has by far the most code.
pub(crate) const LARGEST: &str = "callgraph";
/// Group of the workloads whose only purpose is the table of costs.
pub(crate) const COSTS: &str = "costs";
/// What ablations are measured on unless all is asked for: something of everything that a technique is for.
pub(crate) const FEW: &[&str] = &["sort", "crc32", "chase", "lexer", "fib", "callgraph", "vm-switch", "nbody-sse2"];

/// One program and how it is given its work.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) group: String,
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) work: Work,
    /// Units below which translating it is most of what is measured.
    pub(crate) least: u32,
}

/// How much a workload does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// Its argument says how many units, each some 3 ms of native time.
    Units,
    /// Always the same.
    Fixed(Vec<OsString>),
}

impl Workload {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// The user's own program. By its whole path: engines differ in where they look for a bare name.
    pub(crate) fn of_user(program: &Path, args: &[OsString]) -> io::Result<Workload> {
        let program = std::path::absolute(program)?;
        std::fs::File::open(&program)?;
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Workload { group: "program".into(), name, program, work: Work::Fixed(args.to_vec()), least: 1 })
    }

    /// Puts an embedded program into `folder`, where the kernel and other emulators can execute it.
    pub(crate) fn unpack(e: &Embedded, folder: &Path) -> io::Result<Workload> {
        let program = folder.join(e.name);
        std::fs::write(&program, e.elf)?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        let work = if e.name == STARTUP { Work::Fixed(Vec::new()) } else { Work::Units };
        let least = if e.name == LARGEST { 20 } else { 1 };
        Ok(Workload { group: e.group.into(), name: e.name.into(), program, work, least })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_programs_are_i386() {
        let names: BTreeSet<_> = EMBEDDED.iter().map(|e| e.name).collect();
        assert_eq!(names.len(), EMBEDDED.len());
        for e in EMBEDDED {
            // ELF, 32 bits, little endian; e_machine is EM_386.
            assert_eq!((&e.elf[..6], e.elf[18]), (&b"\x7fELF\x01\x01"[..], 3), "{}", e.name);
        }
        assert!(FEW.iter().chain([&STARTUP]).all(|n| names.contains(n)));
    }

    #[test]
    fn every_built_program_is_embedded() {
        let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/user/bench/bin");
        let built: BTreeSet<String> = std::fs::read_dir(bin)
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .filter(|n| n != "COMPILER")
            .collect();
        assert_eq!(built, EMBEDDED.iter().map(|e| e.name.to_owned()).collect());
    }
}
