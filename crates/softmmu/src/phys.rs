//! Guest-physical memory: RAM, ROM, and the bus for everything else; and which pages of it code was derived from.
//!
//! RAM is one memory file whose offset is the guest-physical address. Any thread may read and write it (device models, DMA
//! engines); the guest CPUs learn of changes to code through [`PhysMemory::take_dropped`], and whoever has to make them look is
//! told through the listener.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use xlat86_arch::{PAGE_SHIFT, PAGE_SIZE};
use xlat86_host::{Ram, Scalar, zeroed_atomics};

/// Most RAM a guest can have: the rest of the 32-bit address space is for devices.
const MAX_RAM: u64 = 3 << 30;
/// The legacy video memory: never RAM.
const VGA: core::ops::Range<u64> = 0xa_0000..0xc_0000;
/// Address bit that a closed A20 gate forces to 0.
const A20: u64 = 1 << 20;

/// The address, or a part of the range, isn't RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotRam;

/// What answers at addresses that are neither RAM nor ROM.
pub trait Mmio: Send {
    /// Reads `size` (1, 2 or 4; 8 for guests that use MMX or x87 there) bytes.
    fn read(&mut self, gpa: u64, size: u8) -> u64;
    /// Writes the low `size` bytes of `value`.
    fn write(&mut self, gpa: u64, size: u8, value: u64);
}

/// What is at a guest-physical address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// RAM, at this byte of the memory file.
    Ram(u64),
    /// Read-only memory: writes have no effect.
    Rom,
    /// The bus.
    Device,
}

struct Rom {
    start: u64,
    bytes: Vec<u8>,
}

impl Rom {
    fn byte(&self, gpa: u64) -> Option<u8> {
        self.bytes.get(usize::try_from(gpa.checked_sub(self.start)?).ok()?).copied()
    }
}

type Listener = Box<dyn Fn() + Send + Sync>;

/// The physical memory of one machine, shared by its CPUs and devices.
pub struct PhysMemory {
    ram: Arc<Ram>,
    ram_bytes: u64,
    roms: RwLock<Vec<Rom>>,
    bus: OnceLock<Arc<Mutex<dyn Mmio>>>,
    /// One byte per RAM page: 1 while something is derived from code in it.
    code: Box<[AtomicU8]>,
    /// RAM pages whose code was written behind the CPUs' backs, not yet taken.
    dropped: Mutex<Vec<u32>>,
    /// Counts what the CPUs have to notice: dropped pages and A20 changes.
    changes: AtomicU64,
    a20_mask: AtomicU64,
    listener: OnceLock<Listener>,
}

impl PhysMemory {
    /// A machine's memory with `ram_bytes` (a multiple of the page size, at most 3 GB) of zeroed RAM.
    ///
    /// # Errors
    /// The size is out of range, or the host refuses memory.
    pub fn new(ram_bytes: u64) -> io::Result<Arc<PhysMemory>> {
        if ram_bytes == 0 || ram_bytes > MAX_RAM || !ram_bytes.is_multiple_of(PAGE_SIZE.into()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "RAM must be whole pages, at most 3 GB"));
        }
        Ok(Arc::new(PhysMemory {
            ram: Arc::new(Ram::new(ram_bytes)?),
            ram_bytes,
            roms: RwLock::default(),
            bus: OnceLock::new(),
            code: zeroed_atomics((ram_bytes >> PAGE_SHIFT) as usize),
            dropped: Mutex::default(),
            changes: AtomicU64::new(0),
            a20_mask: AtomicU64::new(u64::MAX),
            listener: OnceLock::new(),
        }))
    }

    /// Size of RAM in bytes.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.ram_bytes
    }

    /// The memory file: file offset is guest-physical address. Who writes code through another mapping of it calls
    /// [`PhysMemory::written`] afterwards.
    #[must_use]
    pub fn file(&self) -> &File {
        self.ram.file()
    }

    /// RAM itself.
    #[must_use]
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// What is at `gpa`.
    #[inline]
    #[must_use]
    pub fn place(&self, gpa: u64) -> Place {
        if gpa < self.ram_bytes && !VGA.contains(&gpa) {
            Place::Ram(gpa)
        } else if self.rom_byte(gpa).is_some() {
            Place::Rom
        } else {
            Place::Device
        }
    }

    /// The physical addresses that are RAM.
    pub(crate) fn ram_ranges(&self) -> [core::ops::Range<u64>; 2] {
        [0..VGA.start.min(self.ram_bytes), VGA.end.min(self.ram_bytes)..self.ram_bytes]
    }

    /// The RAM pages that something is derived from code in.
    pub(crate) fn code_pages(&self) -> impl Iterator<Item = u32> {
        (0..self.code.len() as u32).filter(|&page| self.is_code(page))
    }

    fn rom_byte(&self, gpa: u64) -> Option<u8> {
        let roms = self.roms.read().unwrap_or_else(PoisonError::into_inner);
        roms.iter().find_map(|r| r.byte(gpa))
    }

    fn in_ram(&self, gpa: u64, len: u64) -> Result<(), NotRam> {
        let end = gpa.checked_add(len).filter(|&end| end <= self.ram_bytes).ok_or(NotRam)?;
        if gpa < VGA.end && end > VGA.start { Err(NotRam) } else { Ok(()) }
    }

    /// Copies from RAM, for devices and loaders.
    ///
    /// # Errors
    /// Not all of the range is RAM; nothing was copied.
    pub fn read(&self, gpa: u64, to: &mut [u8]) -> Result<(), NotRam> {
        self.in_ram(gpa, to.len() as u64)?;
        self.ram.read_bytes(gpa, to).ok_or(NotRam)
    }

    /// Copies into RAM, for devices and loaders; what was derived from code there is dropped.
    ///
    /// # Errors
    /// Not all of the range is RAM; nothing was copied.
    pub fn write(&self, gpa: u64, from: &[u8]) -> Result<(), NotRam> {
        self.in_ram(gpa, from.len() as u64)?;
        self.ram.write_bytes(gpa, from).ok_or(NotRam)?;
        self.written(gpa, from.len() as u64);
        Ok(())
    }

    /// Notices that `len` bytes at `gpa` have been written through another mapping of [`PhysMemory::file`].
    pub fn written(&self, gpa: u64, len: u64) {
        if len == 0 || gpa >= self.ram_bytes {
            return;
        }
        let last = gpa.saturating_add(len - 1).min(self.ram_bytes - 1) >> PAGE_SHIFT;
        let code = (gpa >> PAGE_SHIFT..=last).filter(|&p| self.drop_code(p as u32));
        let code: Vec<u32> = code.map(|p| p as u32).collect();
        if !code.is_empty() {
            self.dropped.lock().unwrap_or_else(PoisonError::into_inner).extend(code);
            self.changed();
        }
    }

    /// Maps `image` at `gpa`, above RAM: it can't be written.
    pub fn map_rom(&self, gpa: u64, image: Vec<u8>) {
        let rom = Rom { start: gpa, bytes: image };
        self.roms.write().unwrap_or_else(PoisonError::into_inner).push(rom);
    }

    /// Sets what answers everywhere else; once.
    ///
    /// # Panics
    /// When called again.
    pub fn set_mmio(&self, bus: Arc<Mutex<dyn Mmio>>) {
        assert!(self.bus.set(bus).is_ok(), "the bus is set once");
    }

    /// Opens (`true`, the state at the start) or closes the A20 gate: closed, address bit 20 is 0 for the CPUs.
    pub fn set_a20(&self, on: bool) {
        let mask = if on { u64::MAX } else { !A20 };
        if self.a20_mask.swap(mask, Ordering::SeqCst) != mask {
            self.changed();
        }
    }

    /// What the A20 gate leaves of an address.
    #[must_use]
    pub fn a20_mask(&self) -> u64 {
        self.a20_mask.load(Ordering::Relaxed)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        if let Some(f) = self.listener.get() {
            f();
        }
    }

    /// A number that differs when code was written behind the CPUs' backs, or the A20 gate has moved.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Has `listener` called, by the thread that made it, after every such change; once.
    pub fn set_listener(&self, listener: Box<dyn Fn() + Send + Sync>) {
        assert!(self.listener.set(listener).is_ok(), "the listener is set once");
    }

    /// The pages (physical page numbers) whose code was written behind the CPUs' backs since the last call.
    #[must_use]
    pub fn take_dropped(&self) -> Vec<u32> {
        core::mem::take(&mut self.dropped.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that something is about to be derived from code in physical page `page`. True when nothing was before: the caller takes
    /// write permission from its TLBs before it reads the bytes.
    pub fn mark_code(&self, page: u32) -> bool {
        self.code.get(page as usize).is_some_and(|c| c.swap(1, Ordering::SeqCst) == 0)
    }

    /// Is something derived from code in physical page `page`?
    #[inline]
    #[must_use]
    pub fn is_code(&self, page: u32) -> bool {
        self.code.get(page as usize).is_some_and(|c| c.load(Ordering::SeqCst) != 0)
    }

    /// Forgets that something is derived from code in `page`; true when something was, which the caller drops.
    pub fn drop_code(&self, page: u32) -> bool {
        self.code.get(page as usize).is_some_and(|c| c.swap(0, Ordering::SeqCst) != 0)
    }

    /// Reads a scalar wherever it is. It doesn't cross a page.
    #[must_use]
    pub fn load<T: Scalar>(&self, gpa: u64) -> T {
        match self.place(gpa) {
            Place::Ram(at) => self.ram.read(at).unwrap_or(T::from_u64(u64::MAX)),
            Place::Rom => {
                let byte = |i: usize| u64::from(self.rom_byte(gpa + i as u64).unwrap_or(0xff)) << (8 * i);
                T::from_u64((0..T::SIZE).map(byte).sum())
            }
            Place::Device => {
                T::from_u64(self.bus.get().map_or(u64::MAX, |bus| {
                    bus.lock().unwrap_or_else(PoisonError::into_inner).read(gpa, T::SIZE as u8)
                }))
            }
        }
    }

    /// Writes a scalar wherever it goes, without a look at code bits. It doesn't cross a page.
    pub fn store<T: Scalar>(&self, gpa: u64, v: T) {
        match self.place(gpa) {
            // In bounds by `place`: RAM is whole pages.
            Place::Ram(at) => drop(self.ram.write(at, v)),
            Place::Rom => {}
            Place::Device => {
                if let Some(bus) = self.bus.get() {
                    bus.lock().unwrap_or_else(PoisonError::into_inner).write(gpa, T::SIZE as u8, v.to_u64());
                }
            }
        }
    }

    /// Sets `bits` of the paging-structure entry at `gpa`, last seen as `e`: an atomic update, as the CPU's. An entry that
    /// isn't in RAM stays as it is.
    pub(crate) fn set_bits(&self, gpa: u64, e: u64, bits: u64, wide: bool) {
        let Place::Ram(at) = self.place(gpa) else { return };
        if wide {
            self.update::<u64>(at, e, bits);
        } else {
            self.update::<u32>(at, e, bits);
        }
        self.written(gpa, 1);
    }

    fn update<T: Scalar>(&self, at: u64, e: u64, bits: u64) {
        let mut seen = e;
        while let Some(now) = self.ram.compare_exchange(at, T::from_u64(seen), T::from_u64(seen | bits)) {
            if now.to_u64() == seen {
                return;
            }
            seen = now.to_u64();
        }
    }
}
