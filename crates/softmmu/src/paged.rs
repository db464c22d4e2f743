//! Guest memory behind the guest's own page tables: page walks and software TLBs over physical memory.
//!
//! Every access tries the TLB of the current view. What it can't answer goes the slow way: walk, enter the page, and
//! access by physical address. A page is entered for writing only when nothing has to be noticed about writes to it:
//! it is RAM, its dirty bit is set, nothing is derived from code in it, and no data breakpoint lies in it.

mod access;
mod fetch;
mod record;
mod watch;

use crate::journal::{Journal, Recording};
use crate::shadow::{Shadow, ShadowStats};
use crate::walk::{Access, Leaf, Paging};
use crate::{PhysMemory, Place};
use std::sync::Arc;
use watch::{Watchpoint, watchpoints};
use xlat86_arch::{CpuState, Fault, Gva, PAGE_SHIFT, PAGE_SIZE, cr0, cr4, efer};
use xlat86_host::{Tlb, TlbMemory, TlbView, Window};

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
        // The fault that has led here.
        self.shadow.charge(self.regs.cr3, 1);
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

    /// See [`crate::Mmu::cool`].
    pub(crate) fn cool(&mut self) {
        self.shadow.cool(self.regs.cr3);
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

    pub(crate) fn view(&self) -> View {
        self.view
    }

    /// The TLB of the current view.
    pub(crate) fn data(&self) -> &Tlb {
        &self.views[self.view as usize].data
    }
    /// See [`crate::Mmu::has_forgotten`].
    pub(crate) fn has_forgotten(&self) -> bool {
        self.has_forgotten
    }

    /// See [`crate::Mmu::has_forgotten_more`].
    pub(crate) fn has_forgotten_more(&self) -> bool {
        self.forgotten.all || self.forgotten.local
    }

    /// What has been forgotten since the last call, if anything.
    #[inline(always)]
    pub(crate) fn take_forgotten(&mut self) -> Option<Forgotten> {
        core::mem::take(&mut self.has_forgotten).then(|| core::mem::take(&mut self.forgotten))
    }
}
