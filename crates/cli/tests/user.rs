//! Small programs of our own (testdata/user) that print what they find: the initial stack, errors of system calls, where
//! mappings go, what signal frames hold. Each must print under xlat86 what it prints natively.
//!
//! Natively they run without address randomisation (the personality is set by `setarch -R`), as xlat86 does.

mod common;

use common::{GUARD, XLAT86, engine, testdata};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

fn run(program: &[&str], name: &str) -> Output {
    let (first, rest) = program.split_first().unwrap();
    Command::new(first)
        .args(rest)
        .args([name, "argument", ""])
        .current_dir(testdata().join("user"))
        .env_clear()
        .envs([("FIRST", "1"), ("SECOND", "a longer value")])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{first}: {e}"))
}

fn same(name: &str) {
    same_with(name, &["--engine", &engine()], 20);
}

/// [`same`] with these options of `xlat86 run`, for a program that prints more than `least` lines. Gives what the emulator said besides.
fn same_with(name: &str, options: &[&str], least: usize) -> String {
    let native = run(&["/usr/bin/setarch", "-R"], name);
    let emulator = ["/usr/bin/timeout", "-s", "KILL", "100", GUARD, XLAT86, "run"];
    let emulated = run(&[&emulator, options].concat(), name);
    let lines = |o: &Output| String::from_utf8_lossy(&o.stdout).lines().map(str::to_string).collect::<Vec<_>>();
    let (n, e) = (lines(&native), lines(&emulated));
    assert!(n.len() > least, "{name} doesn't run natively: {native:?}");
    let differ: Vec<String> = (0..n.len().max(e.len()))
        .filter(|&i| n.get(i) != e.get(i))
        .map(|i| format!("line {}: native {:?}, xlat86 {:?}", i + 1, n.get(i), e.get(i)))
        .collect();
    assert!(
        differ.is_empty(),
        "{name} with {options:?}:\n{}\n{}",
        differ.join("\n"),
        String::from_utf8_lossy(&emulated.stderr)
    );
    assert_eq!(
        (native.status.code(), native.status.signal()),
        (emulated.status.code(), emulated.status.signal()),
        "{name}"
    );
    String::from_utf8_lossy(&emulated.stderr).into_owned()
}

#[test]
fn initial_stack() {
    same("./stack");
}

#[test]
fn errors_of_system_calls() {
    same("./errno");
}

#[test]
fn memory_map() {
    same("./memory");
}

#[test]
fn signals_and_their_frames() {
    same("./signals");
}

#[test]
fn tracers_and_tracees() {
    same("./trace");
}

#[test]
fn tracers_attach_to_running_processes() {
    same("./attach");
}

#[test]
fn other_processes_in_proc() {
    same("./others");
}

#[test]
fn processes_in_one_memory_and_how_they_end() {
    same("./beside");
}

#[test]
fn families_of_calls() {
    same("./calls");
}

#[test]
fn seccomp_filters() {
    same("./seccomp");
}

/// Each way in which code changes, on every engine whatever `XLAT86_ENGINE` says.
#[test]
fn changing_code() {
    for engine in ["interp", "dbt", "lockstep"] {
        same_with("./smc", &["--engine", engine], 40);
    }
    same_with("./smc", &["--engine", "dbt", "--cache-size", "256K"], 40);
}

/// Threads that change each other's code.
#[test]
fn racing_threads() {
    for _ in 0..3 {
        same_with("./race", &["--engine", "interp"], 1);
        same_with("./race", &["--engine", "dbt"], 1);
        same_with("./race", &["--engine", "dbt", "--cache-size", "256K"], 1);
    }
}

/// Threads that translate, chain, invalidate and evict at once: much code, a small cache.
#[test]
fn crowded_cache() {
    same_with("./crowd", &["--engine", "interp"], 8);
    same_with("./crowd", &["--engine", "dbt"], 8);
    for _ in 0..3 {
        let stats = same_with("./crowd", &["--engine", "dbt", "--cache-size", "256K", "--stats=json"], 8);
        let stats: serde_json::Value = serde_json::from_str(&stats).unwrap_or_else(|e| panic!("{e}: {stats}"));
        for (counter, least) in [("units", 10_000), ("chains", 100), ("invalidated", 100), ("evictions", 50)] {
            assert!(stats[counter].as_u64() >= Some(least), "{counter}: {stats}");
        }
    }
}

/// The vDSO's clocks, which translated code reads without leaving, under a storm of signals.
#[test]
fn clocks_of_the_vdso() {
    for engine in ["interp", "dbt", "lockstep"] {
        same_with("./clocks", &["--engine", engine], 40);
    }
}

/// Children forked while other threads hold whatever lock they share with the one that forks.
#[test]
fn forks_beside_threads_that_hold_locks() {
    for engine in ["interp", "dbt"] {
        for _ in 0..3 {
            same_with("./locks", &["--engine", engine], 1);
        }
    }
}

#[test]
fn descriptors_and_what_is_opened_by_them() {
    same("./descriptors");
}

/// A program that closes all descriptors, or puts its own in their place, is traced as before.
#[test]
fn a_trace_outlives_its_programs_descriptors() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("trace-{}", std::process::id()));
    same_with(
        "./descriptors",
        &["--engine", &engine(), "--trace", "syscall", "--trace-file", file.to_str().unwrap()],
        20,
    );
    let trace = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let last = trace.lines().rev().take(4).collect::<Vec<_>>();
    assert!(
        last.iter().any(|l| l.contains("getppid()")) && last.iter().any(|l| l.contains("exited with 0")),
        "{last:?}"
    );
}

/// A guest with filters can't leave them behind by executing one of the host's programs.
#[test]
fn filters_keep_from_executing_host_programs() {
    let emulator = ["/usr/bin/timeout", "-s", "KILL", "100", GUARD, XLAT86, "run", "--engine", &engine()];
    let o = Command::new(emulator[0])
        .args(&emulator[1..])
        .args(["./seccomp", "host"])
        .current_dir(testdata().join("user"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&o.stdout), "execve -13\n", "{o:?}");
}

/// Children forked while other threads translate.
#[test]
fn forks_beside_translating_threads() {
    for engine in ["interp", "dbt"] {
        same_with("./forks", &["--engine", engine], 1);
    }
}

/// Wild arguments to thousands of random system calls: no crash, no hang, no write outside the guest.
#[test]
fn random_system_calls_are_survived() {
    for seed in ["1", "2", "3", "4", "5"] {
        let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("wild-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let o = Command::new("timeout")
            .args(["-s", "KILL", "60", GUARD, XLAT86, "run", "--engine", &engine()])
            .arg(testdata().join("user/wild"))
            .arg(seed)
            .current_dir(&dir)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&o.stdout),
            "survived\n",
            "seed {seed}: {:?}",
            String::from_utf8_lossy(&o.stderr)
        );
    }
}
