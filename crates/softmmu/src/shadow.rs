//! Shadow page tables: for each address space that is worth it, a window in which the host's MMU does the guest's translations.
//!
//! A window relies on a guest's page-table entry until the guest may expect no CPU to do so any more, which is x86's own rule: when CR3 is
//! loaded the window is compared with the page tables before it is used again, by snapshots of those tables that pages were mapped from; INVLPG
//! drops one page. What became *more* permissive faults and is looked at then. Windows show what CPL 3 may do; a page is
//! writable only when its dirty bit is set and nothing is derived from code in it.
//!
//! docs/memory.md has the states and events.

use crate::unpaged::Unpaged;
use crate::walk::{Access, Leaf, Paging};
use crate::{PhysMemory, Place};
use lru::LruCache;
use std::collections::HashMap;
use std::sync::Arc;
use xlat86_arch::{Gva, PAGE_SHIFT, PAGE_SIZE};
use xlat86_host::{ShadowWindow, Window};

/// Most address spaces with a window.
const MOST_WINDOWS: usize = 32;
/// Most pages mapped at once in all windows: each may be a mapping of its own, of which the host allows 65,530.
const MOST_PAGES: usize = 40_000;
/// Ticks at CPL 3 after which a window is expected to pay: populating one costs as much as some 100,000 checked accesses.
const HOT: i64 = 20_000_000;
/// Most ticks that count: an address space that has run for hours is given up as soon as any other when it has become a shell that forks.
const MOST_HEAT: i64 = 2 * HOT;
/// What an address space whose window hasn't paid begins again with.
const GIVEN_UP: i64 = -4 * HOT;
/// Ticks that each fault, mapping and unmapping of the host's takes off: some 12,000 that it costs, twice, since the time spent at CPL 3
/// includes them.
const HOST_OPERATION: i64 = 24_000;
/// Address spaces whose heat is remembered.
const MOST_HEATS: usize = 256;
/// Pages around a faulting one that are looked at along with it, when the guest has used them before.
const AROUND: u32 = 16;

/// What windows have cost.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct ShadowStats {
    /// Windows made.
    pub windows: u64,
    /// Pages mapped, those around a faulting one included.
    pub mapped: u64,
    /// Pages unmapped because their entry had changed, or by INVLPG.
    pub unmapped: u64,
    /// Comparisons of a window with the page tables.
    pub resyncs: u64,
    /// Tables that differed from their snapshot.
    pub changed_tables: u64,
    /// Windows dropped for want of room.
    pub dropped: u64,
}

impl core::ops::AddAssign for ShadowStats {
    fn add_assign(&mut self, o: Self) {
        self.windows += o.windows;
        self.mapped += o.mapped;
        self.unmapped += o.unmapped;
        self.resyncs += o.resyncs;
        self.changed_tables += o.changed_tables;
        self.dropped += o.dropped;
    }
}

/// A page table that pages were mapped from, as it was then.
struct Snapshot {
    /// Its physical address.
    gpa: u64,
    /// The guest address that its first entry is about, and log2 of what each is about.
    first: u32,
    shift: u32,
    copy: Box<[u8; PAGE_SIZE as usize]>,
}

/// One address space.
struct Space {
    window: ShadowWindow,
    /// [`Shadow::flushes`] when it was last compared.
    seen: u64,
    /// All that was mapped has gone at once: the address space's CR3 has become another's.
    replaced: bool,
    pdpte: [u64; 4],
    /// By linear page number: physical page number, and whether it is writable.
    pages: HashMap<u32, (u32, bool)>,
    /// By physical page number: linear ones.
    frames: HashMap<u32, Vec<u32>>,
    /// Page directories, then page tables.
    tables: [Vec<Snapshot>; 2],
}

impl Space {
    fn forget(&mut self, page: u32) -> bool {
        let Some((frame, _)) = self.pages.remove(&page) else { return false };
        if let Some(list) = self.frames.get_mut(&frame) {
            list.retain(|&p| p != page);
            if list.is_empty() {
                self.frames.remove(&frame);
            }
        }
        true
    }

    /// Unmaps what is in `len` bytes from `first`; gives the number of pages.
    fn unmap(&mut self, first: u32, len: u64) -> usize {
        self.window.unmap(first, len);
        let range = first >> PAGE_SHIFT..=((u64::from(first) + len - 1) >> PAGE_SHIFT) as u32;
        if len == u64::from(PAGE_SIZE) {
            return usize::from(self.forget(*range.start()));
        }
        let gone: Vec<u32> = self.pages.keys().copied().filter(|p| range.contains(p)).collect();
        gone.iter().filter(|&&p| self.forget(p)).count()
    }

    /// The entry of a table at `level` that is about the `1 << shift` bytes at `first` has changed; gives the number of pages that were mapped by it.
    fn drop_entry(&mut self, level: usize, first: u32, shift: u32) -> usize {
        if level == 0 {
            // The page table that the entry led to is another, or none.
            self.tables[1].retain(|l| l.first >> shift != first >> shift);
        }
        self.unmap(first, 1 << shift)
    }
}

/// The windows of all address spaces.
pub(crate) struct Shadow {
    memory: Arc<PhysMemory>,
    /// What there is while paging is off.
    unpaged: Unpaged,
    /// By CR3.
    spaces: LruCache<u32, Space>,
    /// By CR3: ticks at CPL 3, less what its window has cost.
    heats: LruCache<u32, i64>,
    /// CR3, [`Shadow::flushes`] and the answer of the latest call of [`Shadow::window`].
    latest: Option<(u32, u64, Window)>,
    /// Counts CR3 loads and other events after which page tables have to be looked at again.
    flushes: u64,
    /// Pages mapped in all windows.
    mapped: usize,
    pub(crate) stats: ShadowStats,
}

impl Shadow {
    pub(crate) fn new(memory: Arc<PhysMemory>) -> Shadow {
        Shadow {
            unpaged: Unpaged::new(memory.clone()),
            memory,
            spaces: LruCache::unbounded(),
            heats: LruCache::unbounded(),
            latest: None,
            flushes: 0,
            mapped: 0,
            stats: ShadowStats::default(),
        }
    }

    /// The guest has told its CPU to look at page tables again.
    pub(crate) fn flush(&mut self) {
        self.flushes += 1;
    }

    /// Page tables mean something else now.
    pub(crate) fn clear(&mut self) {
        self.latest = None;
        self.unpaged.clear();
        self.spaces.clear();
        self.mapped = 0;
    }

    /// The guest has told its CPU to look at the page of `addr` again, in the current address space.
    pub(crate) fn invalidate(&mut self, cr3: u32, addr: Gva) {
        let Some(space) = self.spaces.peek_mut(&cr3) else { return };
        // A large page is one page.
        let large = space.tables[0].iter().find_map(|t| {
            let e = entry(&t.copy[..], (addr.0.wrapping_sub(t.first) >> t.shift) as usize, t.shift != 22);
            (addr.0.wrapping_sub(t.first) >> t.shift < entries(t.shift) && e & 0x81 == 0x81).then_some(t.shift)
        });
        let gone = match large {
            Some(shift) => space.unmap(addr.0 >> shift << shift, 1 << shift),
            None if space.pages.contains_key(&addr.page()) => space.unmap(addr.page_base().0, PAGE_SIZE.into()),
            None => 0,
        };
        self.mapped -= gone;
        self.stats.unmapped += gone as u64;
        self.charge(cr3, gone);
    }

    /// See [`crate::Mmu::heat`]. A window costs what the host does for it, and gains about as many ticks as are spent in it; one that costs more is
    /// given up. That is a shell's, whose pages are write-protected at each fork and copied one by one afterwards.
    pub(crate) fn heat(&mut self, cr3: u32, ticks: u64) -> bool {
        let heat = self.add_heat(cr3, ticks.try_into().unwrap_or(MOST_HEAT));
        let Some(space) = self.spaces.peek(&cr3) else { return heat >= HOT };
        let begin_again = match space.replaced {
            true => 0,
            false if heat < 0 => GIVEN_UP,
            false => return true,
        };
        self.drop_window(cr3);
        self.heats.put(cr3, begin_again);
        false
    }

    /// Another program has begun to run under `cr3`: what was counted there was its predecessor's. A window is left to [`Shadow::heat`], which
    /// is asked when no code is about to use it.
    pub(crate) fn cool(&mut self, cr3: u32) {
        if !self.spaces.contains(&cr3) {
            self.heats.pop(&cr3);
        }
    }

    fn add_heat(&mut self, cr3: u32, ticks: i64) -> i64 {
        if let Some(heat) = self.heats.get_mut(&cr3) {
            *heat = heat.saturating_add(ticks).min(MOST_HEAT);
            return *heat;
        }
        self.heats.put(cr3, ticks);
        if self.heats.len() > MOST_HEATS {
            self.heats.pop_lru();
        }
        ticks
    }

    /// The host has done `operations` for the window of `cr3`.
    pub(crate) fn charge(&mut self, cr3: u32, operations: usize) {
        if operations != 0 && self.spaces.contains(&cr3) {
            self.add_heat(cr3, -HOST_OPERATION * operations as i64);
        }
    }

    /// The window of the current address space, made if need be and brought up to date.
    pub(crate) fn window(&mut self, regs: &Paging) -> Option<Window> {
        if !regs.on() {
            let (window, made) = self.unpaged.window()?;
            self.stats.windows += u64::from(made);
            return Some(window);
        }
        if let Some((cr3, flushes, window)) = self.latest
            && (cr3, flushes) == (regs.cr3, self.flushes)
        {
            return Some(window);
        }
        let window = self.find_window(regs)?;
        self.latest = Some((regs.cr3, self.flushes, window));
        Some(window)
    }

    fn find_window(&mut self, regs: &Paging) -> Option<Window> {
        if let Some(space) = self.spaces.get_mut(&regs.cr3) {
            let window = space.window.window();
            if space.seen != self.flushes {
                space.seen = self.flushes;
                let gone = resync(space, regs, &self.memory, &mut self.stats);
                space.replaced |= gone != 0 && space.pages.is_empty();
                self.mapped -= gone;
                self.charge(regs.cr3, gone);
            }
            return Some(window);
        }
        while self.spaces.len() >= MOST_WINDOWS {
            self.drop_oldest();
        }
        let shadow = ShadowWindow::new(self.memory.ram().clone()).ok()?;
        self.stats.windows += 1;
        let window = shadow.window();
        let space = Space {
            window: shadow,
            seen: self.flushes,
            replaced: false,
            pdpte: regs.pdpte,
            pages: HashMap::new(),
            frames: HashMap::new(),
            tables: [Vec::new(), Vec::new()],
        };
        self.spaces.put(regs.cr3, space);
        Some(window)
    }

    fn drop_oldest(&mut self) {
        if let Some(cr3) = self.spaces.peek_lru().map(|s| *s.0) {
            self.drop_window(cr3);
        }
    }

    fn drop_window(&mut self, cr3: u32) {
        self.latest = None;
        if let Some(space) = self.spaces.pop(&cr3) {
            self.mapped -= space.pages.len();
            self.stats.dropped += 1;
        }
    }

    /// Does the window of `cr3` have the page of `addr`, writable if `write`?
    pub(crate) fn maps(&self, cr3: u32, addr: Gva, write: bool) -> bool {
        let page = self.spaces.peek(&cr3).and_then(|s| s.pages.get(&addr.page()));
        page.is_some_and(|&(_, writable)| writable || !write)
    }

    /// Physical page `page` is code from now on: no window may let it be written unnoticed.
    pub(crate) fn protect(&mut self, page: u32) {
        self.unpaged.protect(page);
        for (_, space) in &mut self.spaces {
            let Space { window, pages, frames, .. } = space;
            for &linear in frames.get(&page).into_iter().flatten() {
                if let Some((_, write @ true)) = pages.get_mut(&linear) {
                    *write = false;
                    window.protect(linear << PAGE_SHIFT);
                }
            }
        }
    }

    /// Maps the page of `addr`, which the walk has found at `leaf`, and those around it that the guest has used before.
    pub(crate) fn map(&mut self, regs: &Paging, addr: Gva, leaf: &Leaf, write: bool) -> bool {
        if !regs.on() {
            return self.unpaged.map((leaf.gpa >> PAGE_SHIFT) as u32, write);
        }
        if self.mapped > MOST_PAGES {
            self.drop_oldest();
        }
        let Some(space) = self.spaces.get_mut(&regs.cr3) else { return false };
        if space.pages.contains_key(&addr.page()) {
            // It was mapped by an entry that the snapshot is about to lose.
            self.mapped -= space.unmap(addr.page_base().0, PAGE_SIZE.into());
        }
        let Some(gone) = note_tables(space, &self.memory, regs, addr, leaf) else { return false };
        self.mapped -= gone;
        self.stats.unmapped += gone as u64;
        let Some(first) = mapping(&self.memory, regs, leaf) else { return false };
        if write && !first.1 {
            return false;
        }
        // The rest of the run that goes on contiguously, and only what the guest's accessed bits say it has used.
        let mut run = vec![(addr.page(), first)];
        let around = addr.page() & !(AROUND - 1);
        let mut others = Vec::new();
        for page in around..around + AROUND {
            if page == addr.page() || space.pages.contains_key(&page) {
                continue;
            }
            let gva = Gva(page << PAGE_SHIFT);
            let used = regs.peek(&self.memory, gva, Access { user: true, ..Access::default() }).ok();
            if let Some(leaf) = used.filter(|l| l.accessed)
                && let Some(m) = mapping(&self.memory, regs, &leaf)
                // The directory's entry is the one that has just been looked at.
                && note_tables(space, &self.memory, regs, gva, &leaf).is_some()
            {
                others.push((page, m));
            }
        }
        run.extend(others);
        run.sort_unstable();
        let (mut done, mut mappings) = (false, 0);
        for part in run.chunk_by(|a, b| b.0 == a.0 + 1 && b.1.0 == a.1.0 + 1 && a.1.1 == b.1.1) {
            let (page, (frame, writable)) = part[0];
            let len = part.len() as u32 * PAGE_SIZE;
            mappings += 1;
            let asked = part.iter().any(|p| p.0 == addr.page());
            if space.window.map(page << PAGE_SHIFT, u64::from(frame) << PAGE_SHIFT, len, writable).is_err() {
                continue;
            }
            done |= asked;
            for &(page, (frame, writable)) in part {
                self.mapped -= usize::from(space.forget(page));
                space.pages.insert(page, (frame, writable));
                space.frames.entry(frame).or_default().push(page);
                self.mapped += 1;
                self.stats.mapped += 1;
            }
        }
        self.charge(regs.cr3, mappings);
        done
    }
}

/// Physical page number and write permission of the page at `leaf`, if it is RAM.
fn mapping(memory: &PhysMemory, regs: &Paging, leaf: &Leaf) -> Option<(u32, bool)> {
    let page = (leaf.gpa >> PAGE_SHIFT) as u32;
    let Place::Ram(_) = memory.place(leaf.gpa) else { return None };
    let permitted = regs.permits(leaf, Access { write: true, user: true, fetch: false });
    Some((page, permitted && leaf.dirty && !memory.is_code(page)))
}

/// Entries of a table whose entries are each about `1 << shift` bytes.
fn entries(shift: u32) -> u32 {
    if shift == 22 { 1024 } else { 512 }
}

fn entry(table: &[u8], index: usize, wide: bool) -> u64 {
    if wide {
        table.get(8 * index..8 * index + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().expect("8 bytes")))
    } else {
        table.get(4 * index..4 * index + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().expect("4 bytes")).into())
    }
}

/// Sees to it that the tables that led to `leaf` have snapshots, which are right about the entries for `addr`. Gives the number of pages that had to
/// be unmapped for that. `None` when the tables can't have snapshots: they aren't in RAM.
fn note_tables(space: &mut Space, memory: &PhysMemory, regs: &Paging, addr: Gva, leaf: &Leaf) -> Option<usize> {
    let wide = regs.pae();
    let shifts = if wide { [21, 12] } else { [22, 12] };
    let size = if wide { 8 } else { 4 };
    let levels = if leaf.size > PAGE_SIZE { 1 } else { 2 };
    let mut gone = 0;
    for (level, shift) in shifts.into_iter().enumerate().take(levels) {
        let gpa = leaf.tables[level];
        let span = shift + if wide { 9 } else { 10 };
        let first = if span == 32 { 0 } else { addr.0 >> span << span };
        let index = ((addr.0 - first) >> shift) as usize;
        let place = index * size..(index + 1) * size;
        let known = space.tables[level].iter_mut().find(|t| t.gpa == gpa && t.first == first);
        match known {
            Some(t) => {
                let mut now = [0; 8];
                memory.read(gpa + place.start as u64, &mut now[..size]).ok()?;
                let entry = &mut t.copy[place];
                let relied = level == 0 && entry[0] & 1 != 0 && *entry != now[..size];
                entry.copy_from_slice(&now[..size]);
                if relied {
                    // Other pages were mapped by what it was.
                    gone += space.drop_entry(level, first + ((index as u32) << shift), shift);
                }
            }
            None => {
                let mut copy = Box::new([0; PAGE_SIZE as usize]);
                memory.read(gpa, &mut copy[..]).ok()?;
                space.tables[level].push(Snapshot { gpa, first, shift, copy });
            }
        }
    }
    Some(gone)
}

/// Compares the page tables with their snapshots and unmaps what they no longer say; gives the number of pages.
fn resync(space: &mut Space, regs: &Paging, memory: &PhysMemory, stats: &mut ShadowStats) -> usize {
    stats.resyncs += 1;
    let mut gone = 0;
    if regs.pae() && space.pdpte != regs.pdpte {
        for (i, (old, new)) in space.pdpte.into_iter().zip(regs.pdpte).enumerate() {
            if old != new {
                gone += space.unmap((i as u32) << 30, 1 << 30);
                for level in &mut space.tables {
                    level.retain(|t| t.first >> 30 != i as u32);
                }
            }
        }
        space.pdpte = regs.pdpte;
    }
    let wide = regs.pae();
    let mut now = [0; PAGE_SIZE as usize];
    for level in 0..2 {
        let mut tables = core::mem::take(&mut space.tables[level]);
        tables.retain_mut(|t| {
            if memory.read(t.gpa, &mut now).is_err() {
                gone += space.unmap(t.first, u64::from(entries_of(wide)) << t.shift);
                return false;
            }
            if now == *t.copy {
                return true;
            }
            stats.changed_tables += 1;
            for i in 0..entries_of(wide) {
                if entry(&t.copy[..], i as usize, wide) != entry(&now, i as usize, wide) {
                    gone += space.drop_entry(level, t.first + (i << t.shift), t.shift);
                }
            }
            *t.copy = now;
            true
        });
        space.tables[level] = tables;
    }
    stats.unmapped += gone as u64;
    gone
}

fn entries_of(wide: bool) -> u32 {
    if wide { 512 } else { 1024 }
}
