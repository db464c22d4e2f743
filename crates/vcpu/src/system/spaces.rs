//! The jump tables of a system: one for each mode that code runs under and, at CPL 3, each address space.
//!
//! A jump table says where the code at an address is. For a kernel, whose pages are mapped as global, that is the same in all address
//! spaces; programs have a table for each page directory (CR3), kept while the guest runs others. As a TLB may, a table relies on a mapping
//! until the guest invalidates it: by INVLPG, or by loading CR3, after which the table is reviewed before it is used again.

use xlat86_arch::Mode;
use xlat86_softmmu::{Forgotten, Mmu};
use xlat86_translator::{Cache, TableId, Tables};

/// Most tables: each takes 16 GB of address space, and memory by what is in it.
const MOST: usize = 24;
/// Pages remembered to have been noted: a power of two.
const NOTED: usize = 256;

/// Whose code a table leads to: the mode and, for programs, CR3.
type Owner = (Mode, u32);

/// A table in use.
struct Space {
    owner: Owner,
    table: TableId,
    /// Host address of the table.
    base: u64,
    /// Counts of the flushes, of local mappings and of all, that the table has been reviewed after.
    seen: [u64; 2],
    /// When it was last chosen.
    used: u64,
}

/// What follows from choosing a table.
pub(crate) struct Chosen {
    /// Host address of the table.
    pub(crate) base: u64,
    /// It leads elsewhere than when it was last used: host return addresses and crossings made then mustn't be used.
    pub(crate) changed: bool,
    /// Nothing of what it led to is there any more: CR3 has become another program's.
    pub(crate) replaced: bool,
}

/// See the module's documentation.
pub(crate) struct Spaces {
    all: Vec<Space>,
    /// Index of the one in use, unless it has to be reviewed first.
    current: Option<usize>,
    current_table: TableId,
    flushes: [u64; 2],
    clock: u64,
    /// Pages that tables have a note of, for sure.
    noted: [Option<(TableId, u32)>; NOTED],
}

impl Spaces {
    pub(crate) fn new() -> Spaces {
        let noted = [None; NOTED];
        Spaces { all: Vec::new(), current: None, current_table: TableId::FIRST, flushes: [0; 2], clock: 0, noted }
    }

    /// Has it been noted that code on linear page `page` runs with the table in use?
    #[inline]
    pub(crate) fn is_noted(&self, page: u32) -> bool {
        self.noted[page as usize % NOTED] == Some((self.current_table, page))
    }

    /// Notes it, the page being physical page `physical`, so that [`Spaces::forget`] tells when that changes.
    pub(crate) fn note(&mut self, page: u32, physical: u32, global: bool, tables: &mut Tables) {
        tables.note(self.current_table, page, physical, global);
        self.noted[page as usize % NOTED] = Some((self.current_table, page));
    }

    /// The table in use.
    pub(crate) fn current(&self) -> TableId {
        self.current_table
    }

    fn owner(mode: Mode, cr3: u32) -> Owner {
        (mode, if mode.has(Mode::USER) { cr3 } else { 0 })
    }

    #[inline(always)]
    pub(crate) fn is_current(&self, mode: Mode, cr3: u32) -> bool {
        self.current.is_some_and(|i| self.all[i].owner == Self::owner(mode, cr3))
    }

    /// Reacts to the guest's having invalidated mappings. True when code that has run may be another now.
    pub(crate) fn forget(&mut self, forgotten: &Forgotten, cache: &mut Cache) -> bool {
        let mut changed = false;
        for &page in &forgotten.pages {
            for space in &self.all {
                changed |= cache.tables().withdraw_page(space.table, page);
            }
        }
        if forgotten.local || forgotten.all {
            self.flushes[0] += 1;
            self.flushes[1] += u64::from(forgotten.all);
            // To be reviewed before it is used again, even if it is next.
            self.current = None;
        }
        if changed {
            self.noted = [None; NOTED];
        }
        changed
    }

    /// Makes the table for `mode` and `cr3` the current one. `None`: it has to be reviewed or made.
    #[inline]
    pub(crate) fn choose_at_once(&mut self, mode: Mode, cr3: u32) -> Option<Chosen> {
        let owner = Self::owner(mode, cr3);
        let i = self.all.iter().position(|s| s.owner == owner && s.seen == self.flushes)?;
        Some(self.take(i, false, false))
    }

    /// Makes the table for `mode` and `cr3` the current one.
    pub(crate) fn choose(&mut self, mode: Mode, cr3: u32, tables: &mut Tables, mmu: &Mmu) -> Chosen {
        let owner = Self::owner(mode, cr3);
        let changed;
        let mut replaced = false;
        let i = match self.all.iter().position(|s| s.owner == owner) {
            Some(i) => {
                let space = &mut self.all[i];
                let all = space.seen[1] != self.flushes[1];
                changed = tables.review(space.table, all, |linear, physical| {
                    mmu.peek_code(linear).is_some_and(|p| p.0 == physical)
                });
                space.seen = self.flushes;
                replaced = changed && tables.is_empty(space.table);
                i
            }
            None => {
                let table = self.free_table(tables);
                let base = tables.table(table).base();
                self.all.push(Space { owner, table, base, seen: self.flushes, used: 0 });
                // The table may have been another's.
                changed = true;
                self.all.len() - 1
            }
        };
        if changed {
            self.noted = [None; NOTED];
        }
        self.take(i, changed, replaced)
    }

    fn take(&mut self, i: usize, changed: bool, replaced: bool) -> Chosen {
        self.clock += 1;
        let space = &mut self.all[i];
        space.used = self.clock;
        self.current = Some(i);
        self.current_table = space.table;
        Chosen { base: space.base, changed, replaced }
    }

    /// Translated code has gone on with the table at host address `base` by itself.
    pub(crate) fn see(&mut self, base: u64) {
        if let Some(i) = self.all.iter().position(|s| s.base == base) {
            self.take(i, false, false);
        }
    }

    /// Does code reach memory through a window?
    pub(crate) fn in_window(&self) -> bool {
        self.current.is_some_and(|i| self.all[i].owner.0.has(Mode::WINDOW))
    }

    /// An empty table: a new one, or the least recently used if there are enough or the host has no room for more.
    fn free_table(&mut self, tables: &mut Tables) -> TableId {
        if self.all.is_empty() {
            return TableId::FIRST;
        }
        if self.all.len() < MOST
            && let Ok(table) = tables.add()
        {
            return table;
        }
        let oldest = (0..self.all.len()).min_by_key(|&i| self.all[i].used).expect("there is one");
        let space = self.all.swap_remove(oldest);
        tables.clear(space.table);
        space.table
    }
}
