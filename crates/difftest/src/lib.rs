//! What tests, fuzz targets and benchmarks share: oracles, generators and engine comparisons. Nothing ships with it.

#![forbid(unsafe_code)]

pub mod bulk;
pub mod campaign;
pub mod case;
pub mod confine;
#[cfg(feature = "second-decoder")]
pub mod decode;
mod differences;
pub mod engine;
pub mod fpu;
pub mod fuzz;
pub mod generate;
pub mod known;
pub mod length;
pub mod moo;
pub mod native;
pub mod paged;
pub mod program;
pub mod reference;
pub mod rng;
pub mod rom;
pub mod state;
pub mod undefined;
pub mod walk;

/// Runs `check` on every file of fuzz target `target`'s corpus.
///
/// # Panics
/// `check` does, or the corpus is missing.
pub fn replay(target: &str, mut check: impl FnMut(&[u8])) {
    let directory = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut files = 0;
    for entry in std::fs::read_dir(&directory).expect("a corpus") {
        let path = entry.expect("a corpus").path();
        println!("{}", path.display());
        check(&std::fs::read(path).expect("a corpus file"));
        files += 1;
    }
    assert!(files >= 8, "only {files} files in {directory}");
}
