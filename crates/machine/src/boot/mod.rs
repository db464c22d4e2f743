//! What a machine starts with: a kernel loaded directly, or firmware at the reset vector.

mod linux;
mod multiboot;

use crate::acpi;
use std::path::{Path, PathBuf};
use xlat86_arch::{CpuState, Reg, Seg, SegAttr, Segment, TableReg, cr0, eflags};
use xlat86_softmmu::PhysMemory;

/// What to start.
#[derive(Clone, Debug)]
pub enum Boot {
    /// A Linux bzImage, or a multiboot kernel.
    Kernel {
        /// The kernel's file.
        kernel: PathBuf,
        /// Initial RAM disk; for multiboot the modules, each with its command line after the file's name.
        initrd: Vec<String>,
        /// Kernel command line.
        append: String,
    },
    /// Firmware whose end is at the end of the address space.
    Bios(PathBuf),
}

/// Why a machine can't be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        source: std::io::Error,
    },
    /// The kernel is of no kind that can be loaded.
    #[error("{0}: neither a Linux bzImage nor a multiboot kernel")]
    UnknownKernel(PathBuf),
    /// The kernel's header asks for something that can't be had.
    #[error("{path}: {why}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// RAM is too small.
    #[error("{path} doesn't fit into {mib} MiB of RAM")]
    TooLarge {
        /// What doesn't fit.
        path: PathBuf,
        /// How much RAM there is.
        mib: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the command line has {length} bytes, and this kernel takes {limit}")]
    CommandLine {
        /// How long it is.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The firmware image has an impossible size.
    #[error("{0}: firmware has whole KiB, at most 16 MiB")]
    Firmware(PathBuf),
}

/// End of conventional memory: the last KiB is the extended BIOS data area's.
pub(crate) const LOW_END: u64 = 0x9_fc00;
/// Where extended memory begins.
pub(crate) const HIGH: u64 = 0x10_0000;
/// A loader's descriptor table; selectors 0x10 and 0x18 are flat code and data, as the Linux boot protocol wants them.
const GDT: u64 = 0x500;
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const LARGEST_FIRMWARE: usize = 16 << 20;
/// How much of the end of firmware shows below 1 MiB too.
const LOW_FIRMWARE: usize = 128 << 10;

/// Kind of a range of the memory map, as E820 and multiboot number them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Kind {
    Ram = 1,
    Reserved = 2,
}

/// The memory map, as firmware would report it.
pub(crate) fn memory_map(memory: &PhysMemory) -> Vec<(std::ops::Range<u64>, Kind)> {
    let map = [
        (0..LOW_END, Kind::Ram),
        (LOW_END..0xa_0000, Kind::Reserved),
        (acpi::AREA, Kind::Reserved),
        (HIGH..memory.ram_bytes(), Kind::Ram),
    ];
    map.into_iter().filter(|(r, _)| !r.is_empty()).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, BootError> {
    std::fs::read(path).map_err(|source| BootError::Read { path: path.to_owned(), source })
}

fn write(memory: &PhysMemory, at: u64, bytes: &[u8], path: &Path) -> Result<(), BootError> {
    let mib = memory.ram_bytes() >> 20;
    memory.write(at, bytes).map_err(|_| BootError::TooLarge { path: path.to_owned(), mib })
}

impl Boot {
    /// Loads everything into `memory` and sets `cpu` up to run it. `cpu` is in its state after reset, and the ACPI tables
    /// are at `rsdp`.
    pub fn load(&self, memory: &PhysMemory, cpu: &mut CpuState, rsdp: u64) -> Result<(), BootError> {
        match self {
            Boot::Bios(path) => firmware(path, memory),
            Boot::Kernel { kernel, initrd, append } => {
                let image = read(kernel)?;
                if linux::recognise(&image) {
                    linux::load(kernel, &image, initrd, append, memory, cpu, rsdp)
                } else if multiboot::recognise(&image) {
                    multiboot::load(kernel, &image, initrd, append, memory, cpu)
                } else {
                    Err(BootError::UnknownKernel(kernel.clone()))
                }
            }
        }
    }
}

fn firmware(path: &Path, memory: &PhysMemory) -> Result<(), BootError> {
    let image = read(path)?;
    if image.is_empty() || image.len() > LARGEST_FIRMWARE || image.len() % 1024 != 0 {
        return Err(BootError::Firmware(path.to_owned()));
    }
    let low = &image[image.len().saturating_sub(LOW_FIRMWARE)..];
    write(memory, HIGH - low.len() as u64, low, path)?;
    memory.map_rom((1 << 32) - image.len() as u64, image);
    Ok(())
}

/// Protected mode without paging, flat segments, interrupts off: how both boot protocols start a kernel.
fn protected_mode(cpu: &mut CpuState, memory: &PhysMemory, entry: u32) {
    const DESCRIPTORS: [u64; 4] = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    let table: Vec<u8> = DESCRIPTORS.iter().flat_map(|d| d.to_le_bytes()).collect();
    // The first pages are RAM in every machine.
    let _ = memory.write(GDT, &table);
    cpu.gdtr = TableReg { base: GDT as u32, limit: table.len() as u16 - 1 };
    cpu.idtr = TableReg { base: 0, limit: 0 };
    cpu.seg = [Segment::flat(DATA, SegAttr::DATA32); 6];
    cpu.seg[Seg::Cs as usize] = Segment::flat(CODE, SegAttr::CODE32);
    cpu.cr0 = cr0::PE | cr0::ET;
    cpu.eflags = eflags::FIXED_1;
    cpu.gpr = [0; 8];
    cpu.set_reg(Reg::Esp, GDT as u32 + 0x7000);
    cpu.eip = entry;
}

#[cfg(test)]
mod tests;
