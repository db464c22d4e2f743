//! The file by which perf(1) names code that is in no ELF file: lines of start, size and name.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Adds the translation of guest address `eip`, `size` bytes at host address `at`. Failing to write it is no reason to stop
/// the guest.
pub(crate) fn add(at: u64, size: usize, eip: u32) {
    // By process id each time: a fork has a map of its own.
    let path = format!("/tmp/perf-{}.map", std::process::id());
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
        let _ = writeln!(file, "{at:x} {size:x} guest_{eip:08x}");
    }
}
