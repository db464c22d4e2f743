//! Runs one command natively and under guard + xlat86, and compares everything that a user can see.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, SystemTime};

pub(crate) const XLAT86: &str = env!("CARGO_BIN_EXE_xlat86");
pub(crate) const GUARD: &str = env!("CARGO_BIN_EXE_xlat86-guard");

/// A command that runs longer hangs, and is killed with all its children. Lockstep is some fifty times slower than the rest.
fn time_limit() -> Duration {
    Duration::from_secs(if engine() == "lockstep" { 900 } else { 100 })
}

/// The engine under test: `XLAT86_ENGINE`, the default one if not set.
pub(crate) fn engine() -> String {
    std::env::var("XLAT86_ENGINE").unwrap_or_else(|_| "dbt".into())
}

pub(crate) fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata")
        .canonicalize()
        .expect("testdata is part of the repository")
}

/// The unpacked Debian i386 packages.
pub(crate) fn guests() -> PathBuf {
    let root = testdata().join("guests/root");
    assert!(root.join(".fetched").exists(), "the guests are missing: run testdata/guests/fetch first");
    root
}

/// A directory with a wrapper for each of the guests' commands that runs it natively with the guests' own loader and
/// libraries: the `PATH` of native runs.
fn native_bin() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let root = guests();
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("native-bin-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for bin in ["usr/bin", "bin"] {
            for entry in fs::read_dir(root.join(bin)).unwrap().flatten() {
                let name = entry.file_name().into_string().unwrap();
                let script = format!("#!/bin/sh\nexec {} \"$@\"\n", quoted(&native(&format!("/{bin}/{name}"), &name)));
                let mut f = fs::File::options()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o755)
                    .open(dir.join(&name))
                    .unwrap();
                f.write_all(script.as_bytes()).unwrap();
            }
        }
        dir
    })
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ")
}

/// The command that runs the guest program `path` natively.
fn native(path: &str, argv0: &str) -> Vec<String> {
    let root = guests();
    let at = |p: &str| format!("{}/{p}", root.display());
    let program = at(path.trim_start_matches('/'));
    if is_static(Path::new(&program)) {
        return vec![program];
    }
    let libs = [at("lib/i386-linux-gnu"), at("usr/lib/i386-linux-gnu")].join(":");
    vec![at("lib/ld-linux.so.2"), "--library-path".into(), libs, "--argv0".into(), argv0.into(), program]
}

/// No PT_INTERP in a little ELF file.
fn is_static(program: &Path) -> bool {
    let b = fs::read(program).unwrap_or_default();
    if b.get(..4) != Some(b"\x7fELF") {
        return false;
    }
    let (off, n) = (u32::from_le_bytes(b[28..32].try_into().unwrap()) as usize, usize::from(b[44]));
    (0..n).all(|i| b[off + 32 * i] != 3)
}

/// What a run leaves behind.
#[derive(PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) files: BTreeMap<PathBuf, (u32, Vec<u8>)>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |b: &[u8]| String::from_utf8_lossy(&b[..b.len().min(2000)]).into_owned();
        writeln!(f, "exit code {:?}, signal {:?}", self.code, self.signal)?;
        writeln!(f, "--- stdout\n{}--- stderr\n{}", text(&self.stdout), text(&self.stderr))?;
        for (p, (mode, c)) in &self.files {
            writeln!(
                f,
                "--- {} {mode:o}: {} bytes {}",
                p.display(),
                c.len(),
                text(&c[..c.len().min(60)]).escape_debug()
            )?;
        }
        Ok(())
    }
}

fn tree(dir: &Path, base: &Path, out: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for e in fs::read_dir(dir).unwrap().flatten() {
        let meta = e.path().symlink_metadata().unwrap();
        let name = e.path().strip_prefix(base).unwrap().to_path_buf();
        let mode = meta.permissions().mode();
        if meta.is_dir() {
            out.insert(name, (mode, Vec::new()));
            tree(&e.path(), base, out);
        } else if meta.is_symlink() {
            out.insert(name, (mode, fs::read_link(e.path()).unwrap().into_os_string().into_encoded_bytes()));
        } else if meta.is_file() {
            out.insert(name, (mode, fs::read(e.path()).unwrap()));
        }
    }
}

/// A scratch directory with the same few files each time.
fn scratch() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scratch-{}-{n}", std::process::id()));
    fs::create_dir_all(dir.join("sub/deep")).unwrap();
    let words = "the quick brown fox jumps over the lazy dog\nPack my box with five dozen liquor jugs\n\nthe end\n";
    let numbers: String = (1..=200u32).map(|i| format!("{} {} line{}\n", i * 7919 % 1000, i, i % 13)).collect();
    // Bytes that neither compress to nothing nor are the same everywhere.
    let binary: Vec<u8> = (0..60_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 & 0x3f).collect();
    for (name, bytes) in [
        ("words", words.as_bytes()),
        ("numbers", numbers.as_bytes()),
        ("binary", &binary),
        ("sub/one", b"1\n"),
        ("sub/two", b"2\n2\n"),
        ("sub/deep/three", b"3\n3\n3\n"),
    ] {
        fs::write(dir.join(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink("words", dir.join("link")).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in ["words", "numbers", "binary", "sub/one", "sub/two", "sub/deep/three", "sub/deep", "sub"] {
        fs::File::open(dir.join(name)).unwrap().set_modified(then).unwrap();
    }
    dir
}

fn observe(command: &[String], path: &str, stdin: &str) -> Seen {
    let dir = scratch();
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .current_dir(&dir)
        .env_clear()
        .envs([("PATH", path), ("HOME", "/nonexistent"), ("LC_ALL", "C"), ("TZ", "UTC"), ("TERM", "dumb")])
        .envs(python_home())
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", command[0]));
    let mut input = child.stdin.take().unwrap();
    let bytes = stdin.as_bytes().to_vec();
    let feeder = std::thread::spawn(move || {
        let _ = input.write_all(&bytes);
    });
    let group = child.id();
    let (finished, watch) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if watch.recv_timeout(time_limit()) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-9", &format!("-{group}")]).status();
        }
    });
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    drop(finished);
    watchdog.join().unwrap();
    feeder.join().unwrap();
    let mut files = BTreeMap::new();
    tree(&dir, &dir, &mut files);
    fs::remove_dir_all(dir).unwrap();
    Seen { stdout, stderr, code: status.code(), signal: status.signal(), files }
}

/// Python finds its library by the place of its executable, which natively is the loader.
fn python_home() -> [(&'static str, String); 2] {
    [("PYTHONHOME", format!("{}/usr", guests().display())), ("PYTHONDONTWRITEBYTECODE", "1".into())]
}

/// Runs `argv` (its first word is a path in the guests' root) natively.
pub(crate) fn run_native(argv: &[&str], stdin: &str) -> Seen {
    let mut command = native(argv[0], argv[0]);
    command.extend(argv[1..].iter().map(|s| s.to_string()));
    observe(&command, native_bin().to_str().unwrap(), stdin)
}

/// The command line of guard and xlat86 in front of a guest command.
pub(crate) fn emulator() -> Vec<String> {
    [GUARD, XLAT86, "run", "--engine", &engine(), "-L", guests().to_str().unwrap()]
        .iter()
        .map(|s| s.to_string())
        .collect()
}

/// Runs `argv` under guard and xlat86.
pub(crate) fn run_emulated(argv: &[&str], stdin: &str) -> Seen {
    run_emulated_with(&[], argv, stdin)
}

/// Runs `argv` under guard and xlat86 with more options of `xlat86 run`, which may name another engine.
pub(crate) fn run_emulated_with(options: &[&str], argv: &[&str], stdin: &str) -> Seen {
    run_emulated_under(&[], options, argv, stdin)
}

/// [`run_emulated_with`], the whole started by the host's command `before`.
pub(crate) fn run_emulated_under(before: &[String], options: &[&str], argv: &[&str], stdin: &str) -> Seen {
    let mut command = [before, &emulator()].concat();
    if options.contains(&"--engine") {
        let at = command.iter().position(|a| a == "--engine").expect("an emulator has an engine");
        command.drain(at..at + 2);
    }
    command.extend(options.iter().map(|s| s.to_string()));
    command.extend(argv.iter().map(|s| s.to_string()));
    observe(&command, "/usr/bin:/bin", stdin)
}

/// A command and its input.
pub(crate) type Case<'a> = (&'a [&'a str], &'a str);

/// Every case must look the same natively and emulated; all differences are reported together.
pub(crate) fn compare(cases: &[Case<'_>]) {
    compare_with(&[], cases);
}

/// [`compare`] with more options of `xlat86 run`.
pub(crate) fn compare_with(options: &[&str], cases: &[Case<'_>]) {
    let mut differ = Vec::new();
    for (argv, stdin) in cases {
        let (native, emulated) = (run_native(argv, stdin), run_emulated_with(options, argv, stdin));
        if native != emulated {
            differ.push(format!("{argv:?}\nnative: {native:?}\nxlat86: {emulated:?}"));
        }
    }
    assert!(
        differ.is_empty(),
        "{} of {} cases differ on {}:\n{}",
        differ.len(),
        cases.len(),
        engine(),
        differ.join("\n\n")
    );
}
