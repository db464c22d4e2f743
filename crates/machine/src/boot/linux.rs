//! Direct boot of a Linux bzImage by its 32-bit boot protocol. (Linux, Documentation/x86/boot.rst.)

use super::{BootError, HIGH, memory_map, protected_mode, read, write};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use std::path::{Path, PathBuf};
use vm_memory::ByteValued;
use xlat86_arch::{CpuState, PAGE_SIZE, Reg};
use xlat86_softmmu::PhysMemory;

/// Where the setup header is in the image, and in the zero page.
const HEADER: usize = 0x1f1;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// The protocol of the first kernels with a 32-bit entry that takes all of what is passed here.
const OLDEST: u16 = 0x0206;
/// The protocol that has pref_address and init_size.
const UNPACKED_SIZE: u16 = 0x020a;
const LOADED_HIGH: u8 = 0x01;
/// "A loader that has no number of its own."
const LOADER: u8 = 0xff;
const ZERO_PAGE: u64 = 0x1_0000;
const COMMAND_LINE: u64 = 0x2_0000;
const SECTOR: usize = 512;

fn header(image: &[u8]) -> Option<setup_header> {
    let bytes = image.get(HEADER..HEADER + size_of::<setup_header>())?;
    let mut h = setup_header::default();
    h.as_mut_slice().copy_from_slice(bytes);
    Some(h)
}

/// Is it a Linux kernel at all?
pub(super) fn recognise(image: &[u8]) -> bool {
    header(image).is_some_and(|h| h.header == MAGIC)
}

/// Loads kernel, initial RAM disk and parameters, and sets the CPU to the kernel's 32-bit entry.
pub(super) fn load(
    path: &Path,
    image: &[u8],
    initrd: &[String],
    append: &str,
    memory: &PhysMemory,
    cpu: &mut CpuState,
    rsdp: u64,
) -> Result<(), BootError> {
    let unsupported = |why| BootError::Unsupported { path: path.to_owned(), why };
    let mut h = header(image).ok_or_else(|| unsupported("the image ends inside its header"))?;
    if h.version < OLDEST || h.loadflags & LOADED_HIGH == 0 {
        return Err(unsupported("the kernel is older than boot protocol 2.06"));
    }
    let limit = h.cmdline_size as usize;
    if append.len() > limit {
        return Err(BootError::CommandLine { length: append.len(), limit });
    }
    // 0 stands for 4, from the time of the first kernels.
    let setup = if h.setup_sects == 0 { 4 } else { usize::from(h.setup_sects) };
    let kernel = image.get((setup + 1) * SECTOR..).ok_or_else(|| unsupported("the image ends inside its setup"))?;
    write(memory, h.code32_start.into(), kernel, path)?;
    let mut line = append.as_bytes().to_vec();
    line.push(0);
    write(memory, COMMAND_LINE, &line, path)?;

    // The kernel unpacks itself into init_size bytes from where it was loaded or prefers to be, whichever is later. Before these fields existed
    // other things were in their place.
    let (prefers, needs) = if h.version < UNPACKED_SIZE { (0, 0) } else { (h.pref_address, u64::from(h.init_size)) };
    let base = u64::from(h.code32_start).max(prefers);
    let kernel_end = base.saturating_add(needs.max(kernel.len() as u64));
    let (at, len) = load_initrd(initrd, memory, kernel_end, h.initrd_addr_max.into())?;
    h.type_of_loader = LOADER;
    h.cmd_line_ptr = COMMAND_LINE as u32;
    h.ramdisk_image = at;
    h.ramdisk_size = len;

    let mut params = boot_params { hdr: h, acpi_rsdp_addr: rsdp, ..Default::default() };
    let map = memory_map(memory);
    let mut table = params.e820_table;
    for (slot, (range, kind)) in table.iter_mut().zip(&map) {
        *slot = boot_e820_entry { addr: range.start, size: range.end - range.start, r#type: *kind as u32 };
    }
    params.e820_table = table;
    params.e820_entries = map.len() as u8;
    params.alt_mem_k = ((memory.ram_bytes() - HIGH) >> 10) as u32;
    write(memory, ZERO_PAGE, params.as_slice(), path)?;
    protected_mode(cpu, memory, h.code32_start);
    cpu.set_reg(Reg::Esi, ZERO_PAGE as u32);
    Ok(())
}

/// Puts the initial RAM disk as high as the kernel allows; gives its address and size. Several files make one.
fn load_initrd(files: &[String], memory: &PhysMemory, above: u64, highest: u64) -> Result<(u32, u32), BootError> {
    let Some(first) = files.first() else { return Ok((0, 0)) };
    let mut all = Vec::new();
    for f in files {
        // Archives begin at multiples of four bytes.
        all.resize(all.len().next_multiple_of(4), 0);
        all.extend(read(Path::new(f))?);
    }
    let end = memory.ram_bytes().min(highest.saturating_add(1));
    let at = end.saturating_sub(all.len() as u64) & !u64::from(PAGE_SIZE - 1);
    let path = PathBuf::from(first);
    if at < above {
        return Err(BootError::TooLarge { path, mib: memory.ram_bytes() >> 20 });
    }
    write(memory, at, &all, &path)?;
    Ok((at as u32, all.len() as u32))
}
