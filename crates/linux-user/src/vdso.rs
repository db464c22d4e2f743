//! The vDSO image and its symbols. Source and build script are in `vdso/`.

use crate::guest::Guest;
use crate::mm::{Mm, Request};
use crate::shared::Vdso;
use object::LittleEndian as LE;
use object::elf::FileHeader32;
use object::read::elf::{FileHeader, Sym};
use syscalls::Errno;
use xlat86_arch::{Gva, PAGE_SIZE};

static IMAGE: &[u8] = include_bytes!("vdso/vdso.so");

/// Offset of a dynamic symbol in the image.
fn symbol(name: &str) -> Option<u32> {
    let header = FileHeader32::<LE>::parse(IMAGE).ok()?;
    let sections = header.sections(LE, IMAGE).ok()?;
    let symbols = sections.symbols(LE, IMAGE, object::elf::SHT_DYNSYM).ok()?;
    let found = symbols.iter().find(|s| s.name(LE, symbols.strings()) == Ok(name.as_bytes()))?;
    Some(found.st_value(LE))
}

/// Maps the image; gives its base and entry points.
pub(crate) fn map(mm: &Mm, guest: &Guest) -> Result<(u32, Vdso), Errno> {
    let len = (IMAGE.len() as u32).next_multiple_of(PAGE_SIZE);
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32;
    let rw = (libc::PROT_READ | libc::PROT_WRITE) as u32;
    let base = mm.map(Request { addr: 0, len, prot: rw, flags, fd: -1, offset: 0 })?;
    guest.write_bytes(base, IMAGE)?;
    mm.protect(base, len, (libc::PROT_READ | libc::PROT_EXEC) as u32)?;
    mm.set_vdso(base..base + len);
    let process = guest.process();
    process.call_out_at(Gva(base), len);
    // Without its calls it is translated otherwise, and that isn't kept.
    if process.config().call_out.is_some() {
        process.note_contents(Gva(base), IMAGE);
    }
    let at = |name| symbol(name).map(|o| base + o).ok_or(Errno::ENOEXEC);
    let entry = Vdso {
        sigreturn: at("__kernel_sigreturn")?,
        rt_sigreturn: at("__kernel_rt_sigreturn")?,
        vsyscall: at("__kernel_vsyscall")?,
    };
    Ok((base, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_has_its_symbols_and_code() {
        assert!(IMAGE.len() <= PAGE_SIZE as usize);
        let code = |name| &IMAGE[symbol(name).unwrap() as usize..];
        assert_eq!(code("__kernel_vsyscall")[..3], [0xcd, 0x80, 0xc3]);
        assert_eq!(code("__kernel_sigreturn")[..8], [0x58, 0xb8, 119, 0, 0, 0, 0xcd, 0x80]);
        assert_eq!(code("__kernel_rt_sigreturn")[..7], [0xb8, 173, 0, 0, 0, 0xcd, 0x80]);
        for name in ["clock_gettime", "clock_gettime64", "clock_getres", "gettimeofday", "time", "getcpu"] {
            assert!(symbol(&format!("__vdso_{name}")).is_some(), "{name}");
        }
    }
}
