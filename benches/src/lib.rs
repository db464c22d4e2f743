//! Inputs that several benchmarks share.

use object::{Object, ObjectSection};

/// Where Debian's and most other systems' i386 C library stands.
const LIBC: &[&str] = &["/lib/i386-linux-gnu/libc.so.6", "/usr/lib/i386-linux-gnu/libc.so.6", "/lib32/libc.so.6"];

/// An i386 C library's `.text` and its address. `XLAT86_LIBC` names another file.
///
/// # Panics
/// When there is none: a benchmark without its input has no result.
#[must_use]
pub fn libc_text() -> (Vec<u8>, u32) {
    let named = std::env::var("XLAT86_LIBC").ok();
    let mut paths = named.as_deref().into_iter().chain(LIBC.iter().copied());
    let file = paths.find_map(|p| std::fs::read(p).ok()).expect("an i386 libc.so.6; name one in XLAT86_LIBC");
    let elf = object::File::parse(&*file).expect("libc is an ELF file");
    let text = elf.section_by_name(".text").expect("libc has a .text");
    (text.data().expect(".text has data").to_vec(), text.address() as u32)
}
