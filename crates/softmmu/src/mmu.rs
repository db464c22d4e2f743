//! Access to guest memory by linear address.

use crate::journal::{Change, Journal, MOST, Recording};
use crate::paged::{Forgotten, Paged, View};
use crate::user::UserView;
use crate::{FlatSpace, MmuStats, PhysMemory, ShadowStats};
use std::sync::Arc;
use xlat86_arch::{CpuState, Fault, Gva};
use xlat86_host::{HostFault, Scalar, TlbMemory, Window};

/// One guest CPU's view of guest memory.
///
/// Every access either completes or faults without effect. Accesses made through this type by code running at
/// CPL 3 are checked as user accesses; `*_system` are the CPU's own (descriptor tables, TSS), checked as supervisor ones.
pub struct Mmu {
    memory: Memory,
    /// Writes are recorded.
    replaying: bool,
}

/// How linear addresses lead to memory.
enum Memory {
    /// By the host's page tables.
    Flat(UserView),
    /// By the guest's.
    Paged(Box<Paged>),
}
use Memory::{Flat, Paged as Translated};

impl Mmu {
    /// The view of a user program: no paging of our own, the host's page tables decide.
    #[must_use]
    pub fn flat(space: Arc<FlatSpace>) -> Self {
        Self { memory: Flat(UserView::new(space)), replaying: false }
    }

    /// The view of a CPU with physical memory `memory`, `address_bits` physical address bits and its TLBs in `tlb`, paging off.
    #[must_use]
    pub fn paged(memory: Arc<PhysMemory>, tlb: &Arc<TlbMemory>, address_bits: u32) -> Self {
        Self { memory: Translated(Box::new(Paged::new(memory, tlb, address_bits))), replaying: false }
    }

    /// The user program's address space behind this view, if it is one's.
    #[must_use]
    pub fn space(&self) -> Option<&Arc<FlatSpace>> {
        if let Flat(v) = &self.memory { Some(&v.space) } else { None }
    }

    /// The physical memory behind this view, if it has one.
    #[must_use]
    pub fn physical(&self) -> Option<&Arc<PhysMemory>> {
        if let Translated(p) = &self.memory { Some(p.memory()) } else { None }
    }

    /// What the host said about the latest fault this view reported (SIGSEGV or SIGBUS, and the `si_code`). Nothing where the guest has
    /// page tables of its own.
    #[must_use]
    pub fn last_host_fault(&self) -> HostFault {
        if let Flat(v) = &self.memory { v.last_host_fault } else { HostFault::default() }
    }

    /// What translation has cost.
    #[must_use]
    pub fn stats(&self) -> MmuStats {
        if let Translated(p) = &self.memory { p.stats } else { MmuStats::default() }
    }

    /// Takes the counters, which start again at 0.
    #[must_use]
    pub fn take_stats(&mut self) -> (MmuStats, ShadowStats) {
        if let Translated(p) = &mut self.memory { p.take_stats() } else { Default::default() }
    }

    // --- What decides about translations. User programs have none: these do nothing for them.

    /// Takes over what `cpu` says about paging, privilege and breakpoints. Called after every change of CR0, CR3, CR4, EFER, CPL
    /// or DR0-7.
    #[inline(always)]
    pub fn sync(&mut self, cpu: &CpuState) {
        if let Translated(p) = &mut self.memory {
            p.sync(cpu);
        }
    }

    /// CR3 is loaded with `cr3`, maybe the same value again. False, with nothing changed, when it leads to PDPTEs with reserved bits set.
    #[must_use]
    pub fn load_cr3(&mut self, cpu: &CpuState, cr3: u32) -> bool {
        if let Translated(p) = &mut self.memory { p.load_cr3(cpu, cr3) } else { true }
    }

    /// Do CR0, CR3 and CR4 of `cpu` lead to valid PDPTEs, or to none?
    #[must_use]
    pub fn pdptes_valid(&self, cpu: &CpuState) -> bool {
        if let Translated(p) = &self.memory { p.pdptes_valid(cpu) } else { true }
    }

    /// Forgets the translation of the page of `addr`.
    pub fn invalidate(&mut self, addr: Gva) {
        if let Translated(p) = &mut self.memory {
            p.invalidate(addr);
        }
    }

    /// Forgets all translations.
    pub fn flush(&mut self) {
        if let Translated(p) = &mut self.memory {
            p.flush(false);
        }
    }

    /// Will [`Mmu::take_forgotten`] have something to say?
    #[must_use]
    pub fn has_forgotten(&self) -> bool {
        if let Translated(p) = &self.memory { p.has_forgotten() } else { false }
    }

    /// Will it say more than single pages?
    #[must_use]
    pub fn has_forgotten_more(&self) -> bool {
        if let Translated(p) = &self.memory { p.has_forgotten_more() } else { false }
    }

    /// What has been forgotten since the last call, if anything.
    #[inline(always)]
    pub fn take_forgotten(&mut self) -> Option<Forgotten> {
        if let Translated(p) = &mut self.memory { p.take_forgotten() } else { None }
    }

    /// The number of the page that instructions on linear page `page` would be fetched from now, and whether that mapping is global.
    #[must_use]
    pub fn peek_code(&self, page: u32) -> Option<(u32, bool)> {
        if let Translated(p) = &self.memory { p.peek_code(page) } else { Some((page, true)) }
    }

    /// Has the guest run code on linear page `page`, so that fetching from it has no effect?
    #[must_use]
    pub fn has_run(&self, page: u32) -> bool {
        if let Translated(p) = &self.memory { p.has_run(page) } else { false }
    }

    /// After a fault: the physical page number, when the only reason for it was that something is derived from code in the page
    /// written to. Whoever drops that may try again.
    #[must_use]
    pub fn take_code_write(&mut self) -> Option<u32> {
        if let Translated(p) = &mut self.memory { p.take_code_write() } else { None }
    }

    /// DR6 bits of the data breakpoints hit since the last call.
    #[must_use]
    pub fn take_hits(&mut self) -> u32 {
        if let Translated(p) = &mut self.memory { p.take_hits() } else { 0 }
    }

    /// Has [`Mmu::take_hits`] something to give?
    #[must_use]
    pub fn was_hit(&self) -> bool {
        matches!(&self.memory, Translated(p) if p.was_hit())
    }

    /// Sees to it that `size` bytes at `addr` can be accessed through the TLB of the current view. False when they can't but need a closer look;
    /// the fault when the guest may not.
    pub fn admit(&mut self, addr: Gva, size: u32, write: bool) -> Result<bool, Fault> {
        if let Translated(p) = &mut self.memory { p.admit(addr, size, write) } else { Ok(false) }
    }

    // --- Shadow windows.

    /// A window in which the current address space's pages appear as CPL 3 may access them, up to date with the guest's page
    /// tables as far as the guest may expect. `None` where there is none.
    pub fn window(&mut self) -> Option<Window> {
        if let Translated(p) = &mut self.memory { p.window() } else { None }
    }

    /// Answers a host fault at `addr` in that window. True: the access may be tried again. False: it can't be made there. The guest's
    /// fault when it may not.
    pub fn map_window(&mut self, addr: Gva, write: bool) -> Result<bool, Fault> {
        if let Translated(p) = &mut self.memory { p.map_window(addr, write) } else { Ok(false) }
    }

    /// The current address space has run for `ticks` of the time stamp counter at CPL 3. True when it has for so long that a window pays. When it has
    /// one that doesn't, that is gone: code that uses it mustn't be entered any more.
    pub fn heat(&mut self, ticks: u64) -> bool {
        if let Translated(p) = &mut self.memory { p.heat(ticks) } else { false }
    }

    /// The current CR3 is that of another program than when [`Mmu::heat`] was last told.
    pub fn cool(&mut self) {
        if let Translated(p) = &mut self.memory {
            p.cool();
        }
    }

    /// What windows have cost.
    #[must_use]
    pub fn shadow_stats(&self) -> ShadowStats {
        if let Translated(p) = &self.memory { p.shadow_stats() } else { ShadowStats::default() }
    }

    // --- Recording, for lockstep.

    fn journal(&mut self) -> &mut Journal {
        match &mut self.memory {
            Flat(v) => &mut v.journal,
            Translated(p) => &mut p.journal,
        }
    }

    /// From now on everything that changes memory is recorded, and devices can't be reached: see [`Mmu::was_barred`]. With `windowed` what
    /// is replayed had the window's translations.
    pub fn start_replay(&mut self, windowed: bool) {
        self.replaying = true;
        self.journal().recording = if windowed { Recording::WindowedReplay } else { Recording::Replay };
    }

    /// From now on the accessed and dirty bits that page walks set are recorded.
    pub fn start_watch(&mut self) {
        self.journal().recording = Recording::Walks;
    }

    /// Stops recording; `changes` becomes what has changed, in order, with what is there now. After a replay no translation that it
    /// has made is remembered, so that whoever comes next walks too.
    pub fn stop_recording(&mut self, changes: &mut Vec<Change>) {
        self.replaying = false;
        changes.clear();
        let journal = self.journal();
        journal.recording = Recording::Nothing;
        core::mem::swap(changes, &mut journal.changes);
        self.note(changes);
        if let Translated(p) = &mut self.memory {
            p.forget_filled();
        }
    }

    /// Did the replay end at an access to a device? Then its fault isn't the guest's.
    pub fn was_barred(&mut self) -> bool {
        if let Translated(p) = &mut self.memory { p.take_barred() } else { false }
    }

    /// Has each of `changes` say what is there now.
    pub fn note(&mut self, changes: &mut [Change]) {
        for c in changes {
            let at = c.at;
            self.peek_at(at, c.new_bytes_mut());
        }
    }

    /// Takes `changes` back, the latest first.
    pub fn take_back(&mut self, changes: &[Change]) {
        changes.iter().rev().for_each(|c| self.poke_at(c.at, c.old()));
    }

    /// Makes `changes` again.
    pub fn put_back(&mut self, changes: &[Change]) {
        changes.iter().for_each(|c| self.poke_at(c.at, c.new_bytes()));
    }

    /// Is there what `change` says there is at the end?
    #[must_use]
    pub fn holds(&mut self, change: &Change) -> bool {
        let (mut now, expected) = ([0; MOST], change.new_bytes());
        let now = &mut now[..expected.len()];
        now.copy_from_slice(expected);
        self.peek_at(change.at, now);
        now == expected
    }

    /// Another thread of a user program may have unmapped the place meanwhile: then there is nothing to say or do.
    fn peek_at(&mut self, at: u32, to: &mut [u8]) {
        match &mut self.memory {
            Flat(v) => drop(v.copy_out(Gva(at), to)),
            Translated(p) => drop(p.memory().ram().read_bytes(at.into(), to)),
        }
    }

    fn poke_at(&mut self, at: u32, from: &[u8]) {
        match &mut self.memory {
            Flat(v) => drop(v.copy_in(Gva(at), from)),
            Translated(p) => drop(p.memory().ram().write_bytes(at.into(), from)),
        }
    }

    /// Records what is about to be overwritten, if the write is permitted.
    #[cold]
    fn record(&mut self, system: bool, addr: Gva, len: usize) -> Result<(), Fault> {
        match &mut self.memory {
            Flat(v) => v.record(addr, len),
            Translated(p) => p.record(if system { View::Supervisor } else { p.view() }, addr, len),
        }
    }

    // --- Access.

    /// Reads a scalar of 1, 2, 4 or 8 bytes.
    #[inline]
    pub fn read<T: Scalar>(&mut self, addr: Gva) -> Result<T, Fault> {
        match &mut self.memory {
            Flat(v) => v.read(addr),
            Translated(p) => p.read(p.view(), addr),
        }
    }

    /// Reads a scalar of 1, 2, 4 or 8 bytes that will be written next: where that isn't permitted nothing happens, not even a bit A is set.
    #[inline]
    pub fn read_to_update<T: Scalar>(&mut self, addr: Gva) -> Result<T, Fault> {
        match &mut self.memory {
            Flat(v) => v.read(addr),
            Translated(p) => p.read_to_update(p.view(), addr),
        }
    }

    /// Writes a scalar of 1, 2, 4 or 8 bytes.
    #[inline]
    pub fn write<T: Scalar>(&mut self, addr: Gva, v: T) -> Result<(), Fault> {
        if self.replaying {
            self.record(false, addr, T::SIZE)?;
        }
        match &mut self.memory {
            Flat(view) => view.write(addr, v),
            Translated(p) => p.write(p.view(), addr, v),
        }
    }

    /// Reads 16 bytes.
    pub fn read128(&mut self, addr: Gva) -> Result<u128, Fault> {
        match &mut self.memory {
            Flat(v) => v.read128(addr),
            Translated(p) => {
                let mut b = [0; 16];
                p.read_bytes(p.view(), addr, &mut b)?;
                Ok(u128::from_le_bytes(b))
            }
        }
    }

    /// Writes 16 bytes.
    pub fn write128(&mut self, addr: Gva, v: u128) -> Result<(), Fault> {
        if self.replaying {
            self.record(false, addr, 16)?;
        }
        match &mut self.memory {
            Flat(view) => view.write128(addr, v),
            Translated(p) => p.write_bytes(p.view(), addr, &v.to_le_bytes()),
        }
    }

    /// Atomically replaces `old` by `new` (the LOCK prefix); gives the previous value, equal to `old` on success.
    pub fn compare_exchange<T: Scalar>(&mut self, addr: Gva, old: T, new: T) -> Result<T, Fault> {
        if self.replaying {
            self.record(false, addr, T::SIZE)?;
        }
        match &mut self.memory {
            Flat(v) => v.compare_exchange(addr, old, new),
            Translated(p) => p.compare_exchange(p.view(), addr, old, new),
        }
    }

    /// Reads `to.len()` bytes, wrapping at 4 GB. On a fault `to` holds an unspecified prefix.
    pub fn read_bytes(&mut self, addr: Gva, to: &mut [u8]) -> Result<(), Fault> {
        match &mut self.memory {
            Flat(v) => v.read_bytes(addr, to),
            Translated(p) => p.read_bytes(p.view(), addr, to),
        }
    }

    /// Writes all of `from`, wrapping at 4 GB, or faults having written nothing.
    pub fn write_bytes(&mut self, addr: Gva, from: &[u8]) -> Result<(), Fault> {
        if self.replaying {
            self.record(false, addr, from.len())?;
        }
        match &mut self.memory {
            Flat(v) => v.write_bytes(addr, from),
            Translated(p) => p.write_bytes(p.view(), addr, from),
        }
    }

    /// Faults where the protection of translated code, and nothing else, is in the way of a write of `len` bytes at `addr`. For instructions that
    /// write in several steps: after the first it would be too late to lift it and start again, since they may write over themselves.
    pub fn probe_guard(&mut self, addr: Gva, len: u32) -> Result<(), Fault> {
        let Flat(v) = &mut self.memory else { return Ok(()) };
        let guarded = |at: Gva| {
            let page = v.space.page(at);
            page.is_code() && page.prot().write
        };
        if guarded(addr) || guarded(addr.wrapping_add(len - 1)) {
            return v.probe_write(addr, len);
        }
        Ok(())
    }

    /// Faults as a write of `len` bytes at `addr` would, without writing.
    pub fn probe_write(&mut self, addr: Gva, len: u32) -> Result<(), Fault> {
        match &mut self.memory {
            Flat(v) => v.probe_write(addr, len),
            Translated(p) => p.probe_write(p.view(), addr, len),
        }
    }

    /// Reads a scalar as the CPU itself does (descriptor tables, TSS): a supervisor access at any CPL.
    pub fn read_system<T: Scalar>(&mut self, addr: Gva) -> Result<T, Fault> {
        match &mut self.memory {
            Flat(v) => v.read(addr),
            Translated(p) => p.read(View::Supervisor, addr),
        }
    }

    /// The byte of RAM where the CPU itself finds what is at `addr`, after it has read some of the `size` bytes there. `None`: they aren't RAM, or
    /// not on one page.
    #[must_use]
    pub fn place_system(&self, addr: Gva, size: u32) -> Option<u64> {
        if let Translated(p) = &self.memory { p.place(View::Supervisor, addr, size) } else { None }
    }

    /// Writes a scalar as the CPU itself does (descriptor tables, TSS): a supervisor access at any CPL.
    pub fn write_system<T: Scalar>(&mut self, addr: Gva, v: T) -> Result<(), Fault> {
        if self.replaying {
            self.record(true, addr, T::SIZE)?;
        }
        match &mut self.memory {
            Flat(view) => view.write(addr, v),
            Translated(p) => p.write(View::Supervisor, addr, v),
        }
    }

    /// Faults as a write of `len` bytes at `addr` by the CPU itself would, without writing.
    pub fn probe_write_system(&mut self, addr: Gva, len: u32) -> Result<(), Fault> {
        match &mut self.memory {
            Flat(v) => v.probe_write(addr, len),
            Translated(p) => p.probe_write(View::Supervisor, addr, len),
        }
    }

    /// Copies `len` bytes from `from` to `to`, or nothing (false): a shortcut for accesses element by element, upwards, that neither fault nor
    /// have to be noticed, within one page each.
    #[must_use]
    pub fn copy_plain(&mut self, to: Gva, from: Gva, len: usize) -> bool {
        match &mut self.memory {
            Translated(p) if !self.replaying => p.data().copy(to.0, from.0, len),
            _ => false,
        }
    }

    /// Fills the `len` bytes at `to` with `v`, or nothing (false): as [`Mmu::copy_plain`].
    #[must_use]
    pub fn fill_plain<T: Scalar>(&mut self, to: Gva, v: T, len: usize) -> bool {
        match &mut self.memory {
            Translated(p) if !self.replaying => p.data().fill_memory(to.0, v, len),
            _ => false,
        }
    }

    /// Reads for an observer: with supervisor rights, no effect on guest or devices. False when not all of it is there.
    #[must_use]
    pub fn peek_bytes(&mut self, addr: Gva, to: &mut [u8]) -> bool {
        match &mut self.memory {
            Flat(v) => v.read_bytes(addr, to).is_ok(),
            Translated(p) => p.peek_bytes(addr, to),
        }
    }

    // --- Fetching.

    /// The number by which the page that instructions at `addr` are fetched from is known to [`Mmu::fetch`] and to those who drop code:
    /// of the physical page where there is one, else of the linear page.
    #[inline(always)]
    pub fn code_page(&mut self, addr: Gva) -> Result<u32, Fault> {
        match &mut self.memory {
            Flat(_) => Ok(addr.page()),
            Translated(p) => p.code_page(addr),
        }
    }

    /// Fetches instruction bytes from `addr` up to the end of its page, or as many as fit. The page's code bit is set *before* the
    /// bytes are read. Gives the number of bytes fetched into `to` (at least 1); `None` where code may change unnoticed, so that nothing
    /// may be kept: see [`Mmu::fetch_once`].
    pub fn fetch(&mut self, addr: Gva, to: &mut [u8]) -> Result<Option<usize>, Fault> {
        match &mut self.memory {
            Flat(v) => v.fetch(addr, to),
            Translated(p) => p.fetch(addr, to),
        }
    }

    /// Fetches instruction bytes for a single execution: nothing derived from them is kept, so the pages are not marked. Gives the number
    /// of bytes fetched into `to` (at least 1), which may end with the page.
    pub fn fetch_once(&mut self, addr: Gva, to: &mut [u8]) -> Result<usize, Fault> {
        match &mut self.memory {
            Flat(v) => v.fetch_once(addr, to),
            Translated(p) => p.fetch_once(addr, to),
        }
    }
}
