//! The repository's own rules: who may import whom, where `unsafe` may stand, how long a file may be.

use cargo_metadata::{DependencyKind, MetadataCommand};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which workspace crates each crate may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("arch", &[]),
    ("host", &[]),
    ("decoder", &["arch"]),
    ("softmmu", &["arch", "host"]),
    ("interp", &["arch", "decoder", "softmmu"]),
    ("translator", &["arch", "decoder", "host"]),
    ("vcpu", &["arch", "decoder", "host", "softmmu", "interp", "translator"]),
    ("linux-user", &["arch", "softmmu", "host", "vcpu"]),
    ("machine", &["arch", "softmmu", "host", "vcpu"]),
];

/// Most lines in a source file that isn't a pure table.
const MAX_LINES: usize = 900;
/// Files that hold one table and nothing else.
const TABLES: &[&str] = &["crates/linux-user/src/table.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace's folder")
}

#[test]
fn crates_import_only_what_the_design_allows() {
    let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().expect("metadata");
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        MAY_IMPORT.iter().map(|(name, may)| (*name, may.iter().copied().collect())).collect();
    let mut seen = 0;
    for package in &metadata.packages {
        let name = package.name.as_str().trim_start_matches("xlat86-");
        let Some(may) = allowed.get(name) else { continue };
        seen += 1;
        for d in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            let Some(imported) = d.name.strip_prefix("xlat86-") else { continue };
            assert!(may.contains(imported), "{name} must not import {imported}");
        }
    }
    assert!(seen >= 8, "only {seen} crates of the table were found");
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn each_source(check: impl Fn(&str, &str)) {
    let root = root();
    let mut found = Vec::new();
    sources(&root.join("crates"), &mut found);
    sources(&root.join("benches"), &mut found);
    assert!(found.len() > 50, "only {} source files found", found.len());
    for path in found {
        let text = std::fs::read_to_string(&path).expect("UTF-8 source");
        check(path.strip_prefix(&root).expect("below the root").to_str().expect("UTF-8 path"), &text);
    }
}

/// Code without comments and literals, roughly: enough to tell the keyword from the word.
fn has_unsafe(text: &str) -> bool {
    text.lines().any(|line| {
        let code = line.split("//").next().unwrap_or("");
        ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "#[unsafe("].iter().any(|w| code.contains(w))
    })
}

#[test]
fn unsafe_stays_inside_the_fence() {
    each_source(|path, text| {
        let inside = path.starts_with("crates/host/")
            || (path.starts_with("crates/linux-user/src/") && path.ends_with("_unsafe.rs"))
            || path == "crates/difftest/tests/repository.rs";
        assert!(inside || !has_unsafe(text), "{path}: `unsafe` belongs in crate host or in a file named *_unsafe.rs");
    });
}

#[test]
fn files_hold_one_idea() {
    each_source(|path, text| {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES || TABLES.contains(&path), "{path} has {lines} lines, more than {MAX_LINES}");
        assert!(text.starts_with("//!") || path.ends_with("build.rs"), "{path}: begin with what the file is about");
    });
}

#[test]
fn nothing_is_left_to_do_silently() {
    each_source(|path, text| {
        if path == "crates/difftest/tests/repository.rs" {
            return;
        }
        // A test that is ignored says why; docs/testing.md tells how to run those that need this machine's CPU and compiler.
        for word in ["todo!(", "unimplemented!(", "#[ignore]", "dbg!(", "FIXME"] {
            assert!(!text.contains(word), "{path} contains {word}");
        }
    });
}
