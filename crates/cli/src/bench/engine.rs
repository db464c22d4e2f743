//! What executes: each engine is a command line put in front of the program's.

use super::measure::{self, End};
use super::workload::Workload;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// One way to execute a program.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) name: String,
    pub(crate) about: String,
    /// Empty: the host's own kernel and CPU.
    prefix: Vec<OsString>,
}

/// Name of the host's own execution, which ratios are to.
pub(crate) const NATIVE: &str = "native";
/// Name of the translator with everything on.
pub(crate) const DBT: &str = "dbt";

/// Our own engines: name, meaning, options of `xlat86 run`. Those after the first two are the translator with something
/// taken away.
const OURS: &[(&str, &str, &[&str])] = &[
    ("interp", "interpreter", &["--engine", "interp"]),
    (DBT, "translator", &[]),
    ("dbt:no-chaining", "jumps between translations go through the dispatcher", &["--no-chaining"]),
    ("dbt:no-return-pairing", "returns look their target up like other indirect jumps", &["--no-return-pairing"]),
    ("dbt:no-flag-liveness", "flags are kept even where nothing reads them", &["--no-flag-liveness"]),
    ("dbt:window-gs", "guest memory through a segment base, not in the low 4 GB", &["--window", "gs"]),
    ("dbt:max-insns-1", "one guest instruction per block", &["--max-insns", "1"]),
    ("dbt:cache-256k", "a translation cache of 256 KiB", &["--cache-size", "256K"]),
];

/// Other emulators: name, meaning, program, its options.
const PEERS: &[(&str, &str, &str, &[&str])] = &[
    ("qemu-i386", "QEMU user mode, TCG", "qemu-i386", &[]),
    ("valgrind", "Valgrind with no tool", "valgrind", &["--tool=none", "-q"]),
];

/// Names of all engines, for messages.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let ours = OURS.iter().map(|e| e.0);
    std::iter::once(NATIVE).chain(ours).chain(PEERS.iter().map(|e| e.0))
}

/// True of an engine that is another one with something taken away.
pub(crate) fn is_ablation(name: &str) -> bool {
    name.contains(':')
}

impl Engine {
    /// The engine called `name`, whether or not this host has it. `xlat86` is the command to measure.
    pub(crate) fn named(name: &str, xlat86: &Path) -> Option<Engine> {
        let make = |about: &str, prefix| Some(Engine { name: name.into(), about: about.into(), prefix });
        if name == NATIVE {
            return make("the host's CPU and kernel", Vec::new());
        }
        if let Some((_, about, options)) = OURS.iter().find(|e| e.0 == name) {
            let run = [xlat86.as_os_str(), OsStr::new("run")].into_iter().map(OsString::from);
            return make(about, run.chain(options.iter().map(OsString::from)).collect());
        }
        let (_, about, program, options) = PEERS.iter().find(|e| e.0 == name)?;
        let prefix = std::iter::once(program).chain(options.iter()).map(OsString::from).collect();
        make(about, prefix)
    }

    /// The command that executes `program`.
    pub(crate) fn command(&self, program: &Path) -> Command {
        match self.prefix.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut c = Command::new(first);
                c.args(rest).arg(program);
                c
            }
        }
    }

    /// False of an engine that starts at once, but goes on slowly.
    pub(crate) fn translates(&self) -> bool {
        self.name != "interp"
    }

    /// The same engine with one more option of `xlat86 run`.
    pub(crate) fn with(&self, option: &str) -> Engine {
        let mut e = self.clone();
        e.prefix.push(option.into());
        e
    }

    /// Can this host execute `program`, which says nothing but a checksum, with this engine?
    pub(crate) fn works(&self, program: &Workload) -> Result<(), String> {
        let run = measure::run(&mut self.command(&program.program), Duration::from_secs(10));
        match run {
            Ok(r) if r.end == End::Exit(0) && r.output.starts_with(b"checksum ") => Ok(()),
            Ok(r) => Err(r.why()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// What the engine says its version is.
    pub(crate) fn version(&self) -> String {
        let Some(first) = self.prefix.first() else { return String::new() };
        let output = Command::new(first).arg("--version").output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_makes_a_command() {
        for name in names() {
            let engine = Engine::named(name, Path::new("/x")).unwrap();
            let command = engine.command(Path::new("/prog"));
            let line: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
            assert_eq!(*line.last().unwrap(), "/prog");
            assert_eq!(line.len() == 1, name == NATIVE);
        }
        assert!(Engine::named("bochs", Path::new("/x")).is_none());
    }
}
