//! i386 ELF files: reading their headers and mapping them as the kernel's `binfmt_elf` does.
//!
//! [`Image::read`] looks and judges, [`Image::map`] acts; so execve can refuse a file before the old program is gone.

use crate::guest::Guest;
use crate::mm::{ET_DYN_BASE, Mm, Request, TASK_SIZE};
use object::LittleEndian as LE;
use object::elf::{self, FileHeader32, FileHeader64, ProgramHeader32};
use object::pod;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use syscalls::Errno;
use xlat86_arch::{PAGE_MASK, PAGE_SIZE};

/// Bytes of a file that decide what it is, as many as the kernel looks at.
pub(crate) const HEAD: usize = 256;

/// An old name of the same machine, which the kernel takes too.
const EM_486: elf::Machine = elf::Machine(6);

/// What is wrong with an ELF file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Bad {
    /// No ELF magic.
    #[error("not an ELF program")]
    NotElf,
    /// ELF, but 64-bit.
    #[error("a 64-bit program; xlat86 runs 32-bit x86 programs, run this one directly")]
    Elf64,
    /// ELF of another machine.
    #[error("an ELF file for another machine (ELF machine number {0}), not i386")]
    Machine(u16),
    /// Neither ET_EXEC nor ET_DYN.
    #[error("an ELF file that is not executable (ELF type {0})")]
    Type(u16),
    /// Headers end early or contradict themselves.
    #[error("a damaged ELF file: {0}")]
    Damaged(&'static str),
    /// The file can't be read.
    #[error("unreadable: {0}")]
    Read(Errno),
}

impl Bad {
    /// What execve answers.
    pub fn errno(self) -> Errno {
        match self {
            Bad::Read(e) => e,
            _ => Errno::ENOEXEC,
        }
    }
}

/// A loadable segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    vaddr: u32,
    filesz: u32,
    memsz: u32,
    offset: u32,
    prot: u32,
}

/// What the headers of an i386 ELF program say.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    position_independent: bool,
    entry: u32,
    phoff: u32,
    phnum: u16,
    segments: Vec<Segment>,
    phdr_vaddr: Option<u32>,
    /// Path of the program interpreter (PT_INTERP).
    pub interp: Option<CString>,
    /// PT_GNU_STACK's execute flag; `None` without that header.
    pub exec_stack: Option<bool>,
}

/// Where an image ended up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    /// Entry point.
    pub entry: u32,
    /// Difference between memory and file addresses.
    pub bias: u32,
    /// Guest address of the program headers.
    pub phdr: u32,
    /// Their number.
    pub phnum: u32,
    /// First address after the last segment.
    pub end: u32,
}

fn io_errno(e: &io::Error) -> Errno {
    Errno::new(e.raw_os_error().unwrap_or(libc::EIO))
}

impl Image {
    /// Reads the headers of `file`, whose first bytes are `head`.
    pub(crate) fn read(file: &File, head: &[u8]) -> Result<Image, Bad> {
        if head.len() < 4 || head[..4] != elf::ELFMAG {
            return Err(Bad::NotElf);
        }
        match head.get(4).map(|&c| elf::FileClass(c)) {
            Some(elf::ELFCLASS64) if pod::from_bytes::<FileHeader64<LE>>(head).is_ok() => return Err(Bad::Elf64),
            Some(elf::ELFCLASS32) => {}
            _ => return Err(Bad::Damaged("the file header is cut off or has an unknown class")),
        }
        let (h, _) =
            pod::from_bytes::<FileHeader32<LE>>(head).map_err(|()| Bad::Damaged("the file header is cut off"))?;
        let machine = h.e_machine.get(LE);
        if machine != elf::EM_386 && machine != EM_486 {
            return Err(Bad::Machine(machine.0));
        }
        let typ = h.e_type.get(LE);
        if typ != elf::ET_EXEC && typ != elf::ET_DYN {
            return Err(Bad::Type(typ.0));
        }
        let phnum = h.e_phnum.get(LE);
        let size = usize::from(phnum) * size_of::<ProgramHeader32<LE>>();
        if usize::from(h.e_phentsize.get(LE)) != size_of::<ProgramHeader32<LE>>() || phnum == 0 || size > 65536 {
            return Err(Bad::Damaged("bad program header size or count"));
        }
        let phoff = h.e_phoff.get(LE);
        let mut bytes = vec![0; size];
        read_exact(file, &mut bytes, phoff, "the program headers are cut off")?;
        let (headers, _) = pod::slice_from_bytes::<ProgramHeader32<LE>>(&bytes, phnum.into())
            .map_err(|()| Bad::Damaged("the program headers are cut off"))?;

        let mut image = Image {
            position_independent: typ == elf::ET_DYN,
            entry: h.e_entry.get(LE),
            phoff,
            phnum,
            segments: Vec::new(),
            phdr_vaddr: None,
            interp: None,
            exec_stack: None,
        };
        for p in headers {
            image.header(file, p)?;
        }
        image.check()?;
        Ok(image)
    }

    fn header(&mut self, file: &File, p: &ProgramHeader32<LE>) -> Result<(), Bad> {
        let flags = p.p_flags.get(LE);
        match p.p_type.get(LE) {
            elf::PT_LOAD => {
                let bit = |f: elf::ProgramFlags, prot: i32| if flags.0 & f.0 != 0 { prot as u32 } else { 0 };
                self.segments.push(Segment {
                    vaddr: p.p_vaddr.get(LE),
                    filesz: p.p_filesz.get(LE),
                    memsz: p.p_memsz.get(LE),
                    offset: p.p_offset.get(LE),
                    prot: bit(elf::PF_R, libc::PROT_READ)
                        | bit(elf::PF_W, libc::PROT_WRITE)
                        | bit(elf::PF_X, libc::PROT_EXEC),
                });
            }
            elf::PT_INTERP if self.interp.is_none() => {
                let len = p.p_filesz.get(LE);
                if !(2..=4096).contains(&len) {
                    return Err(Bad::Damaged("bad length of the interpreter's path"));
                }
                let mut path = vec![0; len as usize];
                read_exact(file, &mut path, p.p_offset.get(LE), "the interpreter's path is cut off")?;
                if path.pop() != Some(0) {
                    return Err(Bad::Damaged("the interpreter's path doesn't end"));
                }
                path.truncate(path.iter().position(|&b| b == 0).unwrap_or(path.len()));
                self.interp = CString::new(path).ok();
            }
            elf::PT_GNU_STACK => self.exec_stack = Some(flags.0 & elf::PF_X.0 != 0),
            elf::PT_PHDR => self.phdr_vaddr = Some(p.p_vaddr.get(LE)),
            _ => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Bad> {
        if self.segments.is_empty() {
            return Err(Bad::Damaged("no loadable segment"));
        }
        let mut last = 0;
        for s in &self.segments {
            let end = u64::from(s.vaddr) + u64::from(s.memsz);
            if s.filesz > s.memsz || end > u64::from(TASK_SIZE) {
                return Err(Bad::Damaged("a segment is larger than the address space or than its memory"));
            }
            if s.vaddr & PAGE_MASK != s.offset & PAGE_MASK && s.filesz != 0 {
                return Err(Bad::Damaged("a segment's file offset and address disagree"));
            }
            if s.vaddr < last {
                return Err(Bad::Damaged("segments are out of order"));
            }
            last = s.vaddr;
        }
        Ok(())
    }

    /// Do the headers make the file's page at `offset` executable?
    pub(crate) fn is_executable(&self, offset: u64) -> bool {
        let holds = |s: &Segment| {
            let first = u64::from(s.offset & !PAGE_MASK);
            (first..u64::from(s.offset) + u64::from(s.filesz)).contains(&offset)
        };
        self.segments.iter().any(|s| s.prot & libc::PROT_EXEC as u32 != 0 && holds(s))
    }

    /// First page and size in bytes of the whole image.
    fn extent(&self) -> (u32, u32) {
        let first = self.segments[0].vaddr & !PAGE_MASK;
        let end = self.segments.iter().map(|s| s.vaddr + s.memsz).max().unwrap_or(0);
        (first, (end - first).next_multiple_of(PAGE_SIZE))
    }

    /// True for a program that may be placed anywhere.
    pub(crate) fn is_position_independent(&self) -> bool {
        self.position_independent
    }

    /// Maps the image. `main` says that it is the program, not its interpreter.
    pub(crate) fn map(&self, file: &File, mm: &Mm, guest: &Guest, main: bool) -> Result<Loaded, Errno> {
        let (first, size) = self.extent();
        let bias = if !self.position_independent {
            0
        } else {
            let hint = if main && self.interp.is_some() { ET_DYN_BASE } else { 0 };
            room(mm, hint, size)?.wrapping_sub(first)
        };
        for s in &self.segments {
            map_segment(s, bias, file, mm, guest)?;
        }
        // PT_PHDR says where the headers are; else they are where the segment with the file's beginning is.
        let in_segment = |s: &&Segment| s.offset <= self.phoff && self.phoff < s.offset.saturating_add(s.filesz);
        let phdr = self
            .phdr_vaddr
            .or_else(|| self.segments.iter().find(in_segment).map(|s| s.vaddr + (self.phoff - s.offset)))
            .unwrap_or(0);
        Ok(Loaded {
            entry: self.entry.wrapping_add(bias),
            bias,
            phdr: phdr.wrapping_add(bias),
            phnum: self.phnum.into(),
            end: first.wrapping_add(bias).wrapping_add(size),
        })
    }
}

/// Finds room for `size` bytes, at `hint` if it is free there.
fn room(mm: &Mm, hint: u32, size: u32) -> Result<u32, Errno> {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as u32;
    let at = mm.map(Request { addr: hint, len: size, prot: 0, flags, fd: -1, offset: 0 })?;
    mm.unmap(at, size)?;
    Ok(at)
}

fn map_segment(s: &Segment, bias: u32, file: &File, mm: &Mm, guest: &Guest) -> Result<(), Errno> {
    let base = (libc::MAP_PRIVATE | libc::MAP_FIXED) as u32;
    let start = s.vaddr.wrapping_add(bias);
    let page = start & !PAGE_MASK;
    let file_end = start + s.filesz;
    let mut mapped_to = page;
    if s.filesz != 0 {
        let len = file_end - page;
        let offset = u64::from(s.offset & !PAGE_MASK);
        mm.map(Request { addr: page, len, prot: s.prot, flags: base, fd: file.as_raw_fd(), offset })?;
        mapped_to = file_end.next_multiple_of(PAGE_SIZE);
        if s.memsz > s.filesz && s.prot & libc::PROT_WRITE as u32 != 0 && file_end != mapped_to {
            guest.write_bytes(file_end, &vec![0; (mapped_to - file_end) as usize])?;
        }
    }
    let end = (start + s.memsz).next_multiple_of(PAGE_SIZE);
    if end > mapped_to {
        let flags = base | libc::MAP_ANONYMOUS as u32;
        mm.map(Request { addr: mapped_to, len: end - mapped_to, prot: s.prot, flags, fd: -1, offset: 0 })?;
    }
    Ok(())
}

fn read_exact(file: &File, to: &mut [u8], at: u32, short: &'static str) -> Result<(), Bad> {
    file.read_exact_at(to, at.into()).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Bad::Damaged(short),
        _ => Bad::Read(io_errno(&e)),
    })
}

/// Are the headers of `file` those of an i386 program?
///
/// # Errors
/// What is wrong with them.
pub fn check_headers(file: &File) -> Result<(), Bad> {
    let head = head(file).map_err(Bad::Read)?;
    let image = Image::read(file, &head)?;
    let (first, size) = image.extent();
    debug_assert!(u64::from(first) + u64::from(size) <= u64::from(TASK_SIZE) + u64::from(PAGE_SIZE));
    Ok(())
}

/// The first [`HEAD`] bytes of `file`, fewer if it is shorter.
pub(crate) fn head(file: &File) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0; HEAD];
    let mut n = 0;
    while n < HEAD {
        match file.read_at(&mut buf[n..], n as u64) {
            Ok(0) => break,
            Ok(k) => n += k,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io_errno(&e)),
        }
    }
    buf.truncate(n);
    Ok(buf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn judge(bytes: &[u8]) -> Result<Image, Bad> {
        let path = std::env::temp_dir().join(format!("xlat86-elf-{}-{:p}", std::process::id(), bytes));
        File::create(&path).unwrap().write_all(bytes).unwrap();
        let f = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        Image::read(&f, &head(&f).unwrap())
    }

    /// A minimal valid program: one file header, one PT_LOAD.
    fn minimal() -> Vec<u8> {
        let mut b = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        b.extend([2, 0, 3, 0, 1, 0, 0, 0]);
        b.extend([0x0804_8054u32, 52, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
        b.extend([52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        b.extend([1u32, 0, 0x0804_8000, 0, 0x100, 0x200, 5, 0x1000].iter().flat_map(|v| v.to_le_bytes()));
        b
    }

    #[test]
    fn bad_files_are_told_apart() {
        assert!(judge(&minimal()).is_ok());
        assert_eq!(judge(b"").unwrap_err(), Bad::NotElf);
        assert_eq!(judge(b"#!/bin/sh\n").unwrap_err(), Bad::NotElf);
        assert!(matches!(judge(&minimal()[..40]).unwrap_err(), Bad::Damaged(_)));
        assert!(matches!(judge(&minimal()[..60]).unwrap_err(), Bad::Damaged(_)));
        let with = |at: usize, v: u8| {
            let mut b = minimal();
            b[at] = v;
            judge(&b)
        };
        assert_eq!(with(18, 40).unwrap_err(), Bad::Machine(40));
        assert_eq!(with(16, 1).unwrap_err(), Bad::Type(1));
        assert!(matches!(with(4, 2).unwrap_err(), Bad::Elf64));
        assert!(matches!(with(44, 0).unwrap_err(), Bad::Damaged(_)));
        // p_memsz below p_filesz, then p_vaddr beyond the space.
        assert!(matches!(with(52 + 21, 0).unwrap_err(), Bad::Damaged(_)));
        assert!(matches!(with(52 + 11, 0xff).map(|_| ()), Ok(()) | Err(Bad::Damaged(_))));
    }

    #[test]
    fn corpus_holds() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/elf");
        let files = std::fs::read_dir(directory).unwrap().map(|e| {
            let _ = check_headers(&File::open(e.unwrap().path()).unwrap());
        });
        assert!(files.count() >= 8);
    }

    #[test]
    fn any_single_byte_may_be_wrong() {
        for at in 0..84 {
            for v in [0, 1, 0x7f, 0x80, 0xff] {
                let mut b = minimal();
                b[at] = v;
                let _ = judge(&b);
            }
        }
    }
}
