//! Boot of kernels by the multiboot specification, version 0.6.96 ("multiboot 1").

use super::{BootError, HIGH, LOW_END, memory_map, protected_mode, read, write};
use object::LittleEndian as LE;
use object::elf::{FileHeader32, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use std::ops::Range;
use std::path::Path;
use xlat86_arch::{CpuState, PAGE_SIZE, Reg};
use xlat86_softmmu::PhysMemory;

/// The header lies at a multiple of four in this much of the file.
const SEARCHED: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u32 = 0x2bad_b002;
/// Header flags: modules aligned to pages, memory information, a video mode; and addresses in the header.
const WANTS_VIDEO: u32 = 1 << 2;
const REQUIRED: u32 = 0xffff;
const UNDERSTOOD: u32 = 0b111;
const HAS_ADDRESSES: u32 = 1 << 16;
/// Information flags.
const I_MEMORY: u32 = 1 << 0;
const I_COMMAND_LINE: u32 = 1 << 2;
const I_MODULES: u32 = 1 << 3;
const I_MAP: u32 = 1 << 6;
const I_LOADER_NAME: u32 = 1 << 9;
/// Where the information is put: its structure, then what that points to. A kernel that lies in low memory itself gets it behind its end.
const INFO: u64 = 0x1_0000;
const INFO_SIZE: usize = 116;
const INFO_ROOM: u64 = 0x1_0000;

/// Offset and fields of the header.
fn header(image: &[u8]) -> Option<(usize, [u32; 8])> {
    let word = |at: usize| image.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    (0..SEARCHED.min(image.len())).step_by(4).find_map(|at| {
        let sum = word(at)?.wrapping_add(word(at + 4)?).wrapping_add(word(at + 8)?);
        (word(at) == Some(HEADER_MAGIC) && sum == 0)
            .then(|| (at, std::array::from_fn(|i| word(at + 4 * i).unwrap_or(0))))
    })
}

/// Has it a multiboot header?
pub(super) fn recognise(image: &[u8]) -> bool {
    header(image).is_some()
}

/// Loads the kernel's segments; gives its entry and what it occupies.
fn load_kernel(path: &Path, image: &[u8], memory: &PhysMemory) -> Result<(u32, Range<u64>), BootError> {
    let too_large = || BootError::TooLarge { path: path.to_owned(), mib: memory.ram_bytes() >> 20 };
    // RAM is zero already behind what was loaded; it only has to be there.
    let room = |range: Range<u64>| if range.end <= memory.ram_bytes() { Ok(range) } else { Err(too_large()) };
    let unsupported = |why| BootError::Unsupported { path: path.to_owned(), why };
    let (at, h) = header(image).ok_or_else(|| unsupported("no multiboot header"))?;
    let flags = h[1];
    if flags & REQUIRED & !UNDERSTOOD != 0 {
        return Err(unsupported("its multiboot header requires something unknown"));
    }
    if flags & WANTS_VIDEO != 0 {
        return Err(unsupported("it requires a video mode"));
    }
    if flags & HAS_ADDRESSES != 0 {
        let [.., header_addr, load_addr, load_end, bss_end, entry] = h;
        let skipped = header_addr.checked_sub(load_addr).map(|n| n as usize).filter(|&n| n <= at);
        let from = skipped.map(|n| at - n).ok_or_else(|| unsupported("impossible addresses in its header"))?;
        let len = if load_end == 0 { image.len() - from } else { load_end.saturating_sub(load_addr) as usize };
        let bytes =
            image.get(from..from + len).ok_or_else(|| unsupported("the image is shorter than its header says"))?;
        write(memory, load_addr.into(), bytes, path)?;
        let end = (u64::from(load_addr) + len as u64).max(bss_end.into());
        return Ok((entry, room(load_addr.into()..end)?));
    }
    let bad = |_| unsupported("not a 32-bit ELF file, and no addresses in its multiboot header");
    let elf = FileHeader32::<LE>::parse(image).map_err(bad)?;
    let mut entry = elf.e_entry(LE);
    let mut all: Option<Range<u64>> = None;
    for p in elf.program_headers(LE, image).map_err(bad)?.iter().filter(|p| p.p_type(LE) == PT_LOAD) {
        let bytes = p.data(LE, image).map_err(|()| unsupported("a segment lies outside the file"))?;
        let at = u64::from(p.p_paddr(LE));
        write(memory, at, bytes, path)?;
        let segment = room(at..at + u64::from(p.p_memsz(LE)))?;
        // Kernels are linked for where they will map themselves, and start where they lie.
        let inside = elf.e_entry(LE).wrapping_sub(p.p_vaddr(LE));
        if inside < p.p_memsz(LE) {
            entry = p.p_paddr(LE).wrapping_add(inside);
        }
        all = Some(all.map_or(segment.clone(), |a| a.start.min(segment.start)..a.end.max(segment.end)));
    }
    Ok((entry, all.ok_or_else(|| unsupported("an ELF file without anything to load"))?))
}

/// Information for the kernel, growing behind its fixed structure.
struct Info {
    /// Where it will be.
    at: u64,
    bytes: Vec<u8>,
    flags: u32,
}

impl Info {
    fn append(&mut self, bytes: &[u8]) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let at = self.at as u32 + self.bytes.len() as u32;
        self.bytes.extend(bytes);
        at
    }
    fn string(&mut self, s: &str) -> u32 {
        self.append(&[s.as_bytes(), &[0]].concat())
    }
    fn set(&mut self, flag: u32, fields: &[(usize, u32)]) {
        self.flags |= flag;
        for &(at, v) in fields {
            self.bytes[at..at + 4].copy_from_slice(&v.to_le_bytes());
        }
    }
}

/// Loads kernel, modules and information, and sets the CPU to the kernel's entry.
pub(super) fn load(
    path: &Path,
    image: &[u8],
    modules: &[String],
    append: &str,
    memory: &PhysMemory,
    cpu: &mut CpuState,
) -> Result<(), BootError> {
    let (entry, kernel) = load_kernel(path, image, memory)?;
    let behind = kernel.end.max(HIGH).next_multiple_of(PAGE_SIZE.into());
    let (at, mut next) = if kernel.start < HIGH { (behind, behind + INFO_ROOM) } else { (INFO, behind) };
    let mut info = Info { at, bytes: vec![0; INFO_SIZE], flags: 0 };
    let line = info.string(&format!("{} {append}", path.display()));
    info.set(I_COMMAND_LINE, &[(16, line)]);
    let name = info.string("xlat86");
    info.set(I_LOADER_NAME, &[(64, name)]);
    let high = memory.ram_bytes().saturating_sub(HIGH);
    info.set(I_MEMORY, &[(4, (LOW_END >> 10) as u32), (8, (high >> 10) as u32)]);
    let mut map = Vec::new();
    for (range, kind) in memory_map(memory) {
        map.extend(20u32.to_le_bytes());
        map.extend(range.start.to_le_bytes());
        map.extend((range.end - range.start).to_le_bytes());
        map.extend((kind as u32).to_le_bytes());
    }
    let at = info.append(&map);
    info.set(I_MAP, &[(44, map.len() as u32), (48, at)]);
    let mut list = Vec::new();
    for m in modules {
        let file = Path::new(m.split(' ').next().unwrap_or(m));
        let bytes = read(file)?;
        let at = next.next_multiple_of(PAGE_SIZE.into());
        write(memory, at, &bytes, file)?;
        next = at + bytes.len() as u64;
        let line = info.string(m);
        for v in [at as u32, next as u32, line, 0] {
            list.extend(v.to_le_bytes());
        }
    }
    let at = info.append(&list);
    info.set(I_MODULES, &[(20, modules.len() as u32), (24, at)]);
    info.set(0, &[(0, info.flags)]);
    if info.bytes.len() as u64 > INFO_ROOM {
        return Err(BootError::CommandLine { length: info.bytes.len(), limit: INFO_ROOM as usize });
    }
    write(memory, info.at, &info.bytes, path)?;
    protected_mode(cpu, memory, entry);
    cpu.set_reg(Reg::Eax, LOADER_MAGIC);
    cpu.set_reg(Reg::Ebx, info.at as u32);
    Ok(())
}
