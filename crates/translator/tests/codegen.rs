//! Golden listings: the exact host code for guest code, with instruction counts, in testdata/codegen.
//!
//! Each file has `guest` lines of bytes in hexadecimal (loaded at 08048000), comments, and below a line of dashes the
//! listing. A change of code quality is thus a reviewed change of a file: `XLAT86_UPDATE=1 cargo test -p
//! xlat86-translator` rewrites them.

use std::path::Path;
use xlat86_arch::{CpuModel, Mode};
use xlat86_translator::{Columns, Config, Source, listing, translate};

const BASE: u32 = 0x0804_8000;

struct Bytes<'a>(&'a [u8]);

impl Source for Bytes<'_> {
    fn peek(&mut self, eip: u32, to: &mut [u8]) -> usize {
        let Some(left) = 4096u32.checked_sub(eip.wrapping_sub(BASE)) else { return 0 };
        let n = to.len().min(left as usize);
        for (i, b) in to[..n].iter_mut().enumerate() {
            // HLT ends a unit.
            *b = *self.0.get(eip.wrapping_sub(BASE) as usize + i).unwrap_or(&0xf4);
        }
        n
    }
    fn is_volatile(&self, _eip: u32) -> bool {
        false
    }
    fn depend(&mut self, _eip: u32) {}
    fn known(&self, _eip: u32) -> bool {
        false
    }
}

fn guest_bytes(text: &str) -> Vec<u8> {
    let hex: String =
        text.lines().filter_map(|l| l.strip_prefix("guest ")).flat_map(|l| l.split_whitespace()).collect();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hexadecimal")).collect()
}

#[test]
fn code_is_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/codegen");
    let update = std::env::var_os("XLAT86_UPDATE").is_some();
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("testdata/codegen") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a text file");
        let (head, recorded) = text.split_once("---\n").unwrap_or((&text, ""));
        let bytes = guest_bytes(head);
        let unit = translate(BASE, Mode::USER32, CpuModel::MAX.features, &Config::default(), &mut Bytes(&bytes))
            .expect("translatable");
        let now = listing(&unit, &bytes, Columns { guest: true, host: true });
        if update {
            std::fs::write(&path, format!("{head}---\n{now}")).expect("writable");
        } else {
            assert_eq!(recorded, now, "{} differs; XLAT86_UPDATE=1 records the new code", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 8, "only {seen} golden files");
}
