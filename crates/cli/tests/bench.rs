//! `xlat86 bench` from outside: what it prints, what it writes, how it ends.

use std::path::Path;
use std::process::{Command, Output};

fn bench(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xlat86")).arg("bench").args(line.split_whitespace()).output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn two_engines_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("report.html");
    let line = format!("--workload fib,exit --engines interp,dbt --runs 2 --time 1 --json --html {}", page.display());
    let out = bench(&line);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["base"], "interp");
    let measured = report["measurements"].as_array().unwrap();
    assert_eq!(measured.len(), 4);
    let fib = |engine: &str| measured.iter().find(|m| m["workload"] == "fib" && m["engine"] == engine).unwrap();
    // Not a matter of some percent: the translator runs this tens of times faster.
    assert!(fib("dbt")["ratio"].as_f64().unwrap() < 0.5, "{}", fib("dbt"));
    assert_eq!(fib("interp")["ratio"], 1.0);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg") && !page.contains("http"));
}

#[test]
fn csv_has_a_line_for_each_run() {
    let out = bench("--workload crc32 --engines dbt,interp --runs 2 --scale 1 --csv");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let csv = text(&out.stdout);
    assert_eq!(csv.lines().count(), 1 + 2 * 2, "{csv}");
    assert!(csv.starts_with("group,workload,engine,scale,run,cpu_s,wall_s\ninteger,crc32,interp,1,0,"), "{csv}");
}

#[test]
fn outputs_that_differ_have_no_ratio() {
    let out = Command::new(env!("CARGO_BIN_EXE_xlat86"))
        .args(["bench", "--workload", "crc32", "--engines", "interp,dbt", "--runs", "1", "--scale", "1"])
        .args(["--xlat86", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/liar")])
        .env("LIAR_RUNS", env!("CARGO_BIN_EXE_xlat86"))
        .output()
        .expect("it starts");
    let said = text(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("MISMATCH: crc32 on dbt: output differs at byte 18"), "{said}");
}

#[test]
fn a_program_of_ones_own_is_measured() {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/user/bench/bin/sort");
    let out = bench(&format!("--engines dbt --runs 1 -- {program} 2"));
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("program/sort"), "{}", text(&out.stdout));
    let out = bench("--engines dbt -- /nonexistent/program");
    assert_ne!(out.status.code(), Some(0), "{}", text(&out.stdout));
}

#[test]
fn committed_workloads_are_what_their_sources_give() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/user/bench");
    let out = Command::new(folder.join("build")).arg("--check").output().expect("bash is here");
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
}
