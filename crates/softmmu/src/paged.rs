//! Guest memory behind the guest's own page tables: page walks and software TLBs over physical memory.
//!
//! Every access tries the TLB of the current view. What it can't answer goes the slow way: walk, enter the page, and
//! access by physical address. A page is entered for writing only when nothing has to be noticed about writes to it:
//! it is RAM, its dirty bit is set, nothing is derived from code in it, and no data breakpoint lies in it.

use crate::journal::{Change, Journal, MOST, Recording};
use crate::shadow::{Shadow, ShadowStats};
use crate::walk::{Access, Leaf, Paging};
use crate::{PhysMemory, Place};
use std::sync::Arc;
use xlat86_arch::{CpuState, Fault, Gva, PAGE_SHIFT, PAGE_SIZE, cr0, cr4, efer};
use xlat86_host::{Scalar, Tlb, TlbMemory, TlbView, Window};

/// Whose rights an access has. The value is the index of the view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum View {
    Supervisor = 0,
    User = 1,
}

/// Pages that instructions were fetched from.
const CODE_ENTRIES: usize = 256;
/// No page number.
const NO_PAGE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct CodeEntry {
    page: u32,
    physical: u32,
}

const NO_CODE: CodeEntry = CodeEntry { page: NO_PAGE, physical: 0 };

struct Tables {
    data: Tlb,
    code: Box<[CodeEntry; CODE_ENTRIES]>,
}

/// A data breakpoint.
#[derive(Clone, Copy)]
struct Watchpoint {
    number: u32,
    start: u32,
    len: u32,
    /// Reads hit it too.
    reads: bool,
}

/// What the views of paged memory have cost.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct MmuStats {
    /// Pages entered into a TLB.
    pub fills: u64,
    /// Page faults given to the guest.
    pub page_faults: u64,
    /// Times a TLB was emptied, global pages kept or not.
    pub flushes: u64,
    /// Accesses to devices.
    pub mmio: u64,
}

impl core::ops::AddAssign for MmuStats {
    fn add_assign(&mut self, o: Self) {
        self.fills += o.fills;
        self.page_faults += o.page_faults;
        self.flushes += o.flushes;
        self.mmio += o.mmio;
    }
}

/// Which translations have been forgotten: whoever derived something from them has to look again.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Everything.
    pub all: bool,
    /// Everything but global pages.
    pub local: bool,
    /// Single pages (linear page numbers).
    pub pages: Vec<u32>,
}

/// Most single pages that are noted before everything counts as forgotten.
const MAX_FORGOTTEN: usize = 32;

/// One guest CPU's view of physical memory.
pub(crate) struct Paged {
    memory: Arc<PhysMemory>,
    regs: Paging,
    views: [Tables; 2],
    view: View,
    a20_mask: u64,
    /// The physical page of the write that the latest fault stopped for being code.
    code_write: Option<u32>,
    watchpoints: Vec<Watchpoint>,
    dr: [u32; 5],
    /// DR6 bits of the data breakpoints hit.
    hits: u32,
    pub(crate) stats: MmuStats,
    forgotten: Forgotten,
    /// `forgotten` says something.
    has_forgotten: bool,
    /// Which 4 MB regions have had pieces of large pages entered: one INVLPG there invalidates all of the page.
    large: [u64; 16],
    shadow: Shadow,
    pub(crate) journal: Journal,
    /// What a replay has entered into the TLBs.
    filled: Vec<(View, Gva)>,
    /// A replay has come upon a device.
    barred: bool,
}

impl Paged {
    pub(crate) fn new(memory: Arc<PhysMemory>, tlb_memory: &Arc<TlbMemory>, address_bits: u32) -> Paged {
        let tables = |view| Tables {
            data: Tlb::new(memory.ram().clone(), tlb_memory.clone(), view),
            code: vec![NO_CODE; CODE_ENTRIES].into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!()),
        };
        Paged {
            regs: Paging { address_bits, ..Paging::default() },
            views: [tables(TlbView::Supervisor), tables(TlbView::User)],
            view: View::Supervisor,
            a20_mask: memory.a20_mask(),
            code_write: None,
            watchpoints: Vec::new(),
            dr: [0; 5],
            hits: 0,
            stats: MmuStats::default(),
            forgotten: Forgotten::default(),
            has_forgotten: false,
            large: [0; 16],
            shadow: Shadow::new(memory.clone()),
            journal: Journal::default(),
            filled: Vec::new(),
            barred: false,
            memory,
        }
    }

    pub(crate) fn memory(&self) -> &Arc<PhysMemory> {
        &self.memory
    }

    /// Makes `size` bytes at `addr` accessible in the fast way, or says that they aren't (a device, watched, code, two pages), or raises
    /// the access's fault.
    pub(crate) fn admit(&mut self, addr: Gva, size: u32, write: bool) -> Result<bool, Fault> {
        if Self::parts(addr, size as usize).0 < size as usize {
            return Ok(false);
        }
        match self.translate(addr, self.view, write) {
            Err(_) if self.code_write.take().is_some() => Ok(false),
            Err(fault) => Err(fault),
            Ok(_) => Ok(self.views[self.view as usize].data.hits(addr.0, size, write)),
        }
    }

    // --- What decides about translations.

    /// Takes over what `cpu` says about paging, privilege and breakpoints.
    #[inline]
    pub(crate) fn sync(&mut self, cpu: &CpuState) {
        self.view = if cpu.cpl == 3 { View::User } else { View::Supervisor };
        let r = &self.regs;
        let same = r.cr0 == cpu.cr0 && r.cr3 == cpu.cr3 && r.cr4 == cpu.cr4 && r.efer == cpu.msr.efer;
        let debug = [cpu.dr[0], cpu.dr[1], cpu.dr[2], cpu.dr[3], cpu.dr[7]] == self.dr;
        if !(same && debug && self.a20_mask == self.memory.a20_mask()) {
            self.take_over(cpu);
        }
    }

    #[cold]
    fn take_over(&mut self, cpu: &CpuState) {
        let old = self.regs;
        let new = old.with(cpu);
        self.regs = new;
        let debug = [cpu.dr[0], cpu.dr[1], cpu.dr[2], cpu.dr[3], cpu.dr[7]];
        let all = (old.cr0 ^ new.cr0) & (cr0::PG | cr0::WP | cr0::PE) != 0
            || (old.cr4 ^ new.cr4) & (cr4::PSE | cr4::PAE | cr4::PGE) != 0
            || (old.efer ^ new.efer) & efer::NXE != 0
            || self.a20_mask != self.memory.a20_mask()
            || self.dr != debug;
        let otherwise = (old.cr0 ^ new.cr0) & cr0::PG != 0
            || (old.cr4 ^ new.cr4) & (cr4::PSE | cr4::PAE) != 0
            || (old.efer ^ new.efer) & efer::NXE != 0
            || self.a20_mask != self.memory.a20_mask();
        if otherwise {
            self.shadow.clear();
        }
        self.a20_mask = self.memory.a20_mask();
        if all {
            self.flush(false);
        } else if old.cr3 != new.cr3 {
            self.flush(true);
        }
        if new.pae() && (all || old.cr3 != new.cr3) {
            self.regs.pdpte = new.load_pdptes(&self.memory).0;
        }
        if self.dr != debug {
            self.dr = debug;
            self.watchpoints = watchpoints(debug);
        }
    }

    /// MOV to CR3 with the value it has, too, forgets what isn't global. Reloads the PDPTEs; false when one of `cr3`'s has reserved bits
    /// set, and then nothing has changed.
    pub(crate) fn load_cr3(&mut self, cpu: &CpuState, cr3: u32) -> bool {
        let new = Paging { cr3, ..self.regs.with(cpu) };
        if new.pae() {
            let (pdpte, bad) = new.load_pdptes(&self.memory);
            if bad {
                return false;
            }
            self.regs.pdpte = pdpte;
        }
        self.regs = Paging { pdpte: self.regs.pdpte, ..new };
        self.flush(true);
        true
    }

    /// Would CR0, CR3 and CR4 of `cpu` load valid PDPTEs?
    pub(crate) fn pdptes_valid(&self, cpu: &CpuState) -> bool {
        let new = self.regs.with(cpu);
        !new.pae() || !new.load_pdptes(&self.memory).1
    }

    /// INVLPG.
    pub(crate) fn invalidate(&mut self, addr: Gva) {
        self.shadow.invalidate(self.regs.cr3, addr);
        self.has_forgotten = true;
        let region = addr.0 >> 22;
        if self.large[region as usize / 64] >> (region % 64) & 1 != 0 {
            self.forgotten.all = true;
            for v in &mut self.views {
                (0..1024).for_each(|i| v.data.flush_page(region << 22 | i << PAGE_SHIFT));
                v.code.fill(NO_CODE);
            }
            return;
        }
        if self.forgotten.pages.len() < MAX_FORGOTTEN {
            self.forgotten.pages.push(addr.page());
        } else {
            self.forgotten.all = true;
        }
        for v in &mut self.views {
            v.data.flush_page(addr.0);
            let e = &mut v.code[addr.page() as usize % CODE_ENTRIES];
            if e.page == addr.page() {
                *e = NO_CODE;
            }
        }
    }

    /// Forgets translations; with `keep_global` not those of global pages.
    pub(crate) fn flush(&mut self, keep_global: bool) {
        self.stats.flushes += 1;
        self.shadow.flush();
        self.has_forgotten = true;
        if keep_global {
            self.forgotten.local = true;
        } else {
            self.forgotten.all = true;
        }
        for v in &mut self.views {
            v.data.flush(keep_global);
            v.code.fill(NO_CODE);
        }
    }

    /// The physical page that the write behind the latest fault would have changed, when its being code was the only reason.
    pub(crate) fn take_code_write(&mut self) -> Option<u32> {
        self.code_write.take()
    }

    /// DR6 bits of the data breakpoints hit since the last call.
    pub(crate) fn take_hits(&mut self) -> u32 {
        core::mem::take(&mut self.hits)
    }

    pub(crate) fn was_hit(&self) -> bool {
        self.hits != 0
    }

    // --- Translation.

    fn walk(&mut self, addr: Gva, access: Access) -> Result<Leaf, Fault> {
        self.code_write = None;
        let mut cached = false;
        if self.journal.recording != Recording::Nothing {
            cached = self.journal.recording == Recording::WindowedReplay
                && access.user
                && self.shadow.maps(self.regs.cr3, addr, access.write);
            self.record_walk(addr, access);
        }
        let walk = if cached { Paging::peek } else { Paging::walk };
        let leaf = walk(&self.regs, &self.memory, addr, access).map_err(|error| {
            self.stats.page_faults += 1;
            Fault::pf(addr, error)
        })?;
        if leaf.size > PAGE_SIZE {
            let region = addr.0 >> 22;
            self.large[region as usize / 64] |= 1 << (region % 64);
        }
        Ok(leaf)
    }

    // --- Shadow windows.

    /// The current address space's window for CPL 3, up to date with the guest's page tables. `None` when the host has no room.
    pub(crate) fn window(&mut self) -> Option<Window> {
        self.shadow.window(&self.regs)
    }

    /// Maps the page of `addr` in the current address space's window, for an access at CPL 3. False when that can't be: a device, code about to be
    /// written, no room; the access's fault when the guest may not.
    pub(crate) fn map_window(&mut self, addr: Gva, write: bool) -> Result<bool, Fault> {
        let leaf = self.walk(addr, Access { write, user: true, fetch: false })?;
        Ok(self.shadow.map(&self.regs, addr, &leaf, write))
    }

    /// The byte of RAM that `addr` is at, if `view`'s TLB has it.
    pub(crate) fn place(&self, view: View, addr: Gva, size: u32) -> Option<u64> {
        self.views[view as usize].data.place(addr.0, size)
    }

    /// See [`crate::Mmu::heat`].
    pub(crate) fn heat(&mut self, ticks: u64) -> bool {
        self.shadow.heat(self.regs.cr3, ticks)
    }

    pub(crate) fn take_stats(&mut self) -> (MmuStats, ShadowStats) {
        (core::mem::take(&mut self.stats), core::mem::take(&mut self.shadow.stats))
    }

    pub(crate) fn shadow_stats(&self) -> ShadowStats {
        self.shadow.stats
    }

    /// Physical address of `addr`, whose page is entered into the TLB where it may be.
    fn translate(&mut self, addr: Gva, view: View, write: bool) -> Result<u64, Fault> {
        let user = view == View::User;
        let leaf = self.walk(addr, Access { write, user, fetch: false })?;
        let gpa = leaf.gpa + u64::from(addr.page_offset());
        if let Place::Ram(at) = self.memory.place(gpa) {
            let code = self.memory.is_code((gpa >> PAGE_SHIFT) as u32);
            if write && code {
                self.code_write = Some((gpa >> PAGE_SHIFT) as u32);
                return Err(Fault::pf(addr, 0));
            }
            if !self.watched(addr) {
                let writable =
                    leaf.dirty && !code && self.regs.permits(&leaf, Access { write: true, user, fetch: false });
                self.stats.fills += 1;
                let page = at & !u64::from(PAGE_SIZE - 1);
                self.views[view as usize].data.fill(addr.0, page, writable, leaf.global);
                if self.journal.recording.is_replay() {
                    self.filled.push((view, addr));
                }
            }
        } else if self.journal.recording.is_replay() {
            self.barred = true;
            return Err(Fault::pf(addr, 0));
        } else {
            self.stats.mmio += 1;
        }
        Ok(gpa)
    }

    fn watched(&self, addr: Gva) -> bool {
        self.watchpoints.iter().any(|w| Gva(w.start).page() == addr.page())
    }

    /// Notes which data breakpoints an access of `len` bytes at `addr` hits.
    fn note_hits(&mut self, addr: Gva, len: u32, write: bool) {
        for w in &self.watchpoints {
            let apart = addr.0.wrapping_sub(w.start) >= w.len && w.start.wrapping_sub(addr.0) >= len;
            if !apart && (write || w.reads) {
                self.hits |= 1 << w.number;
            }
        }
    }

    /// The two parts of an access: in the page of its first byte, and in the next one.
    fn parts(addr: Gva, len: usize) -> (usize, Gva) {
        let first = (PAGE_SIZE - addr.page_offset()) as usize;
        (first.min(len), addr.page_base().wrapping_add(PAGE_SIZE))
    }

    // --- Access.

    pub(crate) fn view(&self) -> View {
        self.view
    }

    /// The TLB of the current view.
    pub(crate) fn data(&self) -> &Tlb {
        &self.views[self.view as usize].data
    }

    #[inline(always)]
    pub(crate) fn read<T: Scalar>(&mut self, view: View, addr: Gva) -> Result<T, Fault> {
        match self.views[view as usize].data.read(addr.0) {
            Some(v) => Ok(v),
            None => self.read_slow(view, addr),
        }
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: Scalar>(&mut self, view: View, addr: Gva) -> Result<T, Fault> {
        if Self::parts(addr, T::SIZE).0 < T::SIZE {
            let mut b = [0; 8];
            self.read_bytes(view, addr, &mut b[..T::SIZE])?;
            return Ok(T::from_u64(u64::from_le_bytes(b)));
        }
        let gpa = self.translate(addr, view, false)?;
        self.note_hits(addr, T::SIZE as u32, false);
        Ok(self.memory.load(gpa))
    }

    #[inline]
    pub(crate) fn read_to_update<T: Scalar>(&mut self, view: View, addr: Gva) -> Result<T, Fault> {
        if !self.views[view as usize].data.hits(addr.0, T::SIZE as u32, true) {
            self.probe_write(view, addr, T::SIZE as u32)?;
        }
        self.read(view, addr)
    }

    #[inline(always)]
    pub(crate) fn write<T: Scalar>(&mut self, view: View, addr: Gva, v: T) -> Result<(), Fault> {
        match self.views[view as usize].data.write(addr.0, v) {
            Some(()) => Ok(()),
            None => self.write_slow(view, addr, v),
        }
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: Scalar>(&mut self, view: View, addr: Gva, v: T) -> Result<(), Fault> {
        if Self::parts(addr, T::SIZE).0 < T::SIZE {
            return self.write_bytes(view, addr, &v.to_u64().to_le_bytes()[..T::SIZE]);
        }
        let gpa = self.translate(addr, view, true)?;
        self.note_hits(addr, T::SIZE as u32, true);
        self.memory.store(gpa, v);
        Ok(())
    }

    #[inline]
    pub(crate) fn compare_exchange<T: Scalar>(&mut self, view: View, addr: Gva, old: T, new: T) -> Result<T, Fault> {
        if let Some(now) = self.views[view as usize].data.compare_exchange(addr.0, old, new) {
            return Ok(now);
        }
        self.probe_write(view, addr, T::SIZE as u32)?;
        if let Some(now) = self.views[view as usize].data.compare_exchange(addr.0, old, new) {
            return Ok(now);
        }
        // Across pages, on a watched page or on a device: one CPU and a bus that serialises need no more than this.
        let now: T = self.read(view, addr)?;
        self.write(view, addr, if now.to_u64() == old.to_u64() { new } else { now })?;
        Ok(now)
    }

    pub(crate) fn read_bytes(&mut self, view: View, addr: Gva, to: &mut [u8]) -> Result<(), Fault> {
        let (first, next) = Self::parts(addr, to.len());
        let (low, high) = to.split_at_mut(first);
        if high.is_empty() {
            return self.read_in_page(view, addr, low);
        }
        // Both pages are looked at before either is read: reading a device may have an effect.
        self.translate(addr, view, false)?;
        self.translate(next, view, false)?;
        self.read_in_page(view, addr, low)?;
        self.read_bytes(view, next, high)
    }

    fn read_in_page(&mut self, view: View, addr: Gva, to: &mut [u8]) -> Result<(), Fault> {
        if to.is_empty() {
            return Ok(());
        }
        let gpa = self.translate(addr, view, false)?;
        self.note_hits(addr, to.len() as u32, false);
        self.load_bytes(gpa, to);
        Ok(())
    }

    /// Copies from physical memory, within a page.
    fn load_bytes(&self, gpa: u64, to: &mut [u8]) {
        if matches!(self.memory.place(gpa), Place::Ram(at) if self.memory.ram().read_bytes(at, to).is_some()) {
            return;
        }
        for (i, b) in to.iter_mut().enumerate() {
            *b = self.memory.load(gpa + i as u64);
        }
    }

    /// Writes all of `from` or, on a fault, nothing.
    pub(crate) fn write_bytes(&mut self, view: View, addr: Gva, from: &[u8]) -> Result<(), Fault> {
        self.probe_write(view, addr, from.len() as u32)?;
        let (mut addr, mut from) = (addr, from);
        while !from.is_empty() {
            let (first, next) = Self::parts(addr, from.len());
            let (low, high) = from.split_at(first);
            let gpa = self.translate(addr, view, true)?;
            self.note_hits(addr, low.len() as u32, true);
            if !matches!(self.memory.place(gpa), Place::Ram(at) if self.memory.ram().write_bytes(at, low).is_some()) {
                for (i, &b) in low.iter().enumerate() {
                    self.memory.store(gpa + i as u64, b);
                }
            }
            (addr, from) = (next, high);
        }
        Ok(())
    }

    pub(crate) fn probe_write(&mut self, view: View, addr: Gva, len: u32) -> Result<(), Fault> {
        let last = addr.wrapping_add(len.max(1) - 1);
        let mut at = addr;
        loop {
            if !self.views[view as usize].data.writable(at.0) {
                self.translate(at, view, true)?;
            }
            if at.page() == last.page() {
                return Ok(());
            }
            at = at.page_base().wrapping_add(PAGE_SIZE);
        }
    }

    /// Reads as a debugger would: by the current translation at supervisor level, without setting bits or touching devices.
    /// False when some byte isn't mapped RAM or ROM.
    pub(crate) fn peek_bytes(&self, addr: Gva, to: &mut [u8]) -> bool {
        let (first, next) = Self::parts(addr, to.len());
        let (low, high) = to.split_at_mut(first);
        let Ok(leaf) = self.regs.peek(&self.memory, addr, Access::default()) else { return false };
        let gpa = leaf.gpa + u64::from(addr.page_offset());
        if self.memory.place(gpa) == Place::Device {
            return false;
        }
        self.load_bytes(gpa, low);
        high.is_empty() || self.peek_bytes(next, high)
    }

    // --- Recording.

    /// Records the paging-structure entries in which the walk for `access` is about to set bits.
    #[cold]
    fn record_walk(&mut self, addr: Gva, access: Access) {
        let Ok(leaf) = self.regs.peek(&self.memory, addr, Access { write: false, ..access }) else { return };
        if !self.regs.on() || leaf.accessed && (leaf.dirty || !access.write) {
            return;
        }
        for at in leaf.entries(&self.regs, addr) {
            let mut old = [0; 8];
            let old = if self.regs.pae() { &mut old[..] } else { &mut old[..4] };
            if let Place::Ram(at) = self.memory.place(at)
                && self.memory.ram().read_bytes(at, old).is_some()
            {
                self.journal.changes.push(Change::new(at as u32, old));
            }
        }
    }

    /// Records what a write of `len` bytes at `addr` is about to overwrite, or gives its fault.
    pub(crate) fn record(&mut self, view: View, addr: Gva, len: usize) -> Result<(), Fault> {
        self.probe_write(view, addr, len as u32)?;
        let mut done = 0;
        while done < len {
            let at = addr.wrapping_add(done as u32);
            let n = MOST.min(Self::parts(at, len - done).0);
            done += n;
            let mut old = [0; MOST];
            if let Some(at) = self.ram_at(view, at)
                && self.memory.ram().read_bytes(at, &mut old[..n]).is_some()
            {
                self.journal.changes.push(Change::new(at as u32, &old[..n]));
            }
        }
        Ok(())
    }

    /// The byte of RAM at `addr`, if it is RAM.
    fn ram_at(&self, view: View, addr: Gva) -> Option<u64> {
        if let Some(at) = self.views[view as usize].data.ram_offset(addr.0) {
            return Some(at);
        }
        let leaf = self.regs.peek(&self.memory, addr, Access { user: view == View::User, ..Access::default() }).ok()?;
        match self.memory.place(leaf.gpa + u64::from(addr.page_offset())) {
            Place::Ram(at) => Some(at),
            Place::Rom | Place::Device => None,
        }
    }

    /// Drops what a replay has entered into the TLBs.
    pub(crate) fn forget_filled(&mut self) {
        for (view, addr) in self.filled.drain(..) {
            self.views[view as usize].data.flush_page(addr.0);
        }
    }

    pub(crate) fn take_barred(&mut self) -> bool {
        core::mem::take(&mut self.barred)
    }

    // --- Fetching.

    /// Physical page that instructions at `addr` are fetched from.
    #[inline(always)]
    pub(crate) fn code_page(&mut self, addr: Gva) -> Result<u32, Fault> {
        let e = self.views[self.view as usize].code[addr.page() as usize % CODE_ENTRIES];
        if e.page == addr.page() { Ok(e.physical) } else { self.find_code(addr) }
    }

    #[cold]
    fn find_code(&mut self, addr: Gva) -> Result<u32, Fault> {
        let leaf = self.walk(addr, Access { write: false, user: self.view == View::User, fetch: true })?;
        let physical = (leaf.gpa >> PAGE_SHIFT) as u32;
        self.views[self.view as usize].code[addr.page() as usize % CODE_ENTRIES] =
            CodeEntry { page: addr.page(), physical };
        Ok(physical)
    }

    /// See [`crate::Mmu::has_forgotten`].
    pub(crate) fn has_forgotten(&self) -> bool {
        self.has_forgotten
    }

    /// What has been forgotten since the last call, if anything.
    #[inline(always)]
    pub(crate) fn take_forgotten(&mut self) -> Option<Forgotten> {
        core::mem::take(&mut self.has_forgotten).then(|| core::mem::take(&mut self.forgotten))
    }

    /// The physical page that instructions on linear page `page` would be fetched from in the current view, and whether it is mapped as
    /// global. Nothing changes.
    pub(crate) fn peek_code(&self, page: u32) -> Option<(u32, bool)> {
        let access = Access { write: false, user: self.view == View::User, fetch: true };
        let leaf = self.regs.peek(&self.memory, Gva(page << PAGE_SHIFT), access).ok()?;
        Some(((leaf.gpa >> PAGE_SHIFT) as u32, leaf.global))
    }

    /// Notes that something will be derived from code in physical page `page`. False where it may change unnoticed.
    pub(crate) fn mark_code(&mut self, page: u32) -> bool {
        match self.memory.place(u64::from(page) << PAGE_SHIFT) {
            Place::Ram(at) => {
                if self.memory.mark_code(page) {
                    self.shadow.protect(page);
                    for v in &mut self.views {
                        v.data.protect(at);
                    }
                }
                true
            }
            Place::Rom => true,
            Place::Device => false,
        }
    }

    /// Fetches up to the end of the page of `addr`, which is marked before it is read. `None`: nothing may be kept.
    pub(crate) fn fetch(&mut self, addr: Gva, to: &mut [u8]) -> Result<Option<usize>, Fault> {
        let page = self.code_page(addr)?;
        if !self.mark_code(page) {
            return Ok(None);
        }
        let n = Self::parts(addr, to.len()).0;
        self.load_bytes(physical(page, addr), &mut to[..n]);
        Ok(Some(n))
    }

    /// Fetches up to the end of the page of `addr` without marking it.
    pub(crate) fn fetch_once(&mut self, addr: Gva, to: &mut [u8]) -> Result<usize, Fault> {
        let n = Self::parts(addr, to.len()).0;
        let page = self.code_page(addr)?;
        self.load_bytes(physical(page, addr), &mut to[..n]);
        Ok(n)
    }
}

fn physical(page: u32, addr: Gva) -> u64 {
    u64::from(page) << PAGE_SHIFT | u64::from(addr.page_offset())
}

/// The data breakpoints that DR0 to DR3 and DR7 (`dr[4]`) set (SDM vol. 3B, 18.2.4 and 18.2.5).
fn watchpoints(dr: [u32; 5]) -> Vec<Watchpoint> {
    let one = |n: u32| {
        let dr7 = dr[4];
        let (enabled, kind) = (dr7 >> (2 * n) & 3 != 0, dr7 >> (16 + 4 * n) & 3);
        let len = [1, 2, 8, 4][(dr7 >> (18 + 4 * n) & 3) as usize];
        let start = dr[n as usize] & !(len - 1);
        (enabled && kind & 1 != 0).then_some(Watchpoint { number: n, start, len, reads: kind == 3 })
    };
    (0..4).filter_map(one).collect()
}
