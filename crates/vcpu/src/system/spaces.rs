//! The jump tables of a system: one for each mode that code runs under and, at CPL 3, each address space.
//!
//! A jump table says where the code at an address is. For a kernel, whose pages are mapped as global, that is the same in all address
//! spaces; programs have a table for each page directory (CR3), kept while the guest runs others. As a TLB may, a table relies on a mapping
//! until the guest invalidates it: by INVLPG, or by loading CR3, after which the table is reviewed before it is used again.

use lru::LruCache;
use xlat86_arch::Mode;
use xlat86_softmmu::{Forgotten, Mmu};
use xlat86_translator::{Cache, TableId, Tables};

/// Most tables: each takes 16 GB of address space, and memory by what is in it.
const MOST: usize = 24;

/// Whose code a table leads to: the mode and, for programs, CR3.
type Owner = (Mode, u32);

/// A table in use.
struct Space {
    table: TableId,
    /// Counts of the flushes, of local mappings and of all, that the table has been reviewed after.
    seen: [u64; 2],
}

/// See the module's documentation.
pub(crate) struct Spaces {
    all: LruCache<Owner, Space>,
    current: Option<Owner>,
    current_table: TableId,
    flushes: [u64; 2],
}

impl Spaces {
    pub(crate) fn new() -> Spaces {
        Spaces { all: LruCache::unbounded(), current: None, current_table: TableId::FIRST, flushes: [0; 2] }
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
        self.current == Some(Self::owner(mode, cr3))
    }

    /// Reacts to the guest's having invalidated mappings. True when code that was reachable may be another now.
    pub(crate) fn forget(&mut self, forgotten: &Forgotten, cache: &mut Cache) -> bool {
        let mut changed = false;
        for &page in &forgotten.pages {
            for (_, space) in &self.all {
                changed |= cache.tables().withdraw_page(space.table, page);
            }
        }
        if forgotten.local || forgotten.all {
            self.flushes[0] += 1;
            self.flushes[1] += u64::from(forgotten.all);
            // To be reviewed before it is used again, even if it is next.
            self.current = None;
        }
        changed
    }

    /// Makes the table for `mode` and `cr3` the current one. True when host return addresses made before mustn't be used with it.
    pub(crate) fn choose(&mut self, mode: Mode, cr3: u32, tables: &mut Tables, mmu: &Mmu) -> bool {
        let owner = Self::owner(mode, cr3);
        let before = self.current_table;
        let mut changed = false;
        if let Some(space) = self.all.get_mut(&owner) {
            if space.seen != self.flushes {
                let all = space.seen[1] != self.flushes[1];
                changed = tables.review(space.table, all, |linear, physical| {
                    mmu.peek_code(linear).is_some_and(|p| p.0 == physical)
                });
                space.seen = self.flushes;
            }
            self.current_table = space.table;
        } else {
            let table = self.free_table(tables);
            self.all.put(owner, Space { table, seen: self.flushes });
            self.current_table = table;
        }
        self.current = Some(owner);
        changed || before != self.current_table
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
        let (_, space) = self.all.pop_lru().expect("there is one");
        tables.review(space.table, true, |_, _| false);
        space.table
    }
}
