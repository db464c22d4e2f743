//! The indirect-jump tables, and which of their entries depend on the mapping of which page.
//!
//! A guest without page tables of its own has one. Others have one for each set of mappings that code is run under: entries say where
//! the code at a guest address is, so they hold as long as the guest's mapping of that address may be relied on. Whoever knows that it may
//! not any more withdraws the page's entries.

use crate::cache::{CodeKey, EipMap};
use core::ops::Range;
use std::io;
use std::sync::Arc;
use xlat86_host::JumpTable;

/// Names a jump table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TableId(u32);

impl TableId {
    /// The table that there is from the start.
    pub const FIRST: TableId = TableId(0);
}

/// By linear page number: the physical page that entries were made for, and their addresses. The second page of an instruction that
/// crosses has its address too.
type Pages = EipMap<u32, (u32, Vec<u32>)>;

/// A table with what its entries depend on.
struct Entries {
    table: Arc<JumpTable>,
    /// Pages whose mapping ends with the address space's use, and those whose mapping doesn't.
    pages: [Pages; 2],
}

/// All tables of a cache.
pub struct Tables {
    all: Vec<Entries>,
}

impl Tables {
    /// One empty table.
    pub(crate) fn new() -> io::Result<Tables> {
        let mut tables = Tables { all: Vec::new() };
        tables.add()?;
        Ok(tables)
    }

    /// Makes another table.
    ///
    /// # Errors
    /// The host has no 16 GB of address space for it.
    pub fn add(&mut self) -> io::Result<TableId> {
        self.all.push(Entries { table: Arc::new(JumpTable::new()?), pages: Default::default() });
        Ok(TableId(self.all.len() as u32 - 1))
    }

    /// The table `id`.
    #[must_use]
    pub fn table(&self, id: TableId) -> &Arc<JumpTable> {
        &self.all[id.0 as usize].table
    }

    /// Enters arena offset `offset` for `key`, whose instruction may go on on physical page `second`. `global`: the mapping outlives the
    /// address space's use.
    pub(crate) fn publish(&mut self, id: TableId, key: CodeKey, second: Option<u32>, offset: u32, global: bool) {
        let Entries { table, pages } = &mut self.all[id.0 as usize];
        let page = key.eip() >> 12;
        let next = page.wrapping_add(1) & 0xf_ffff;
        for (linear, physical) in [(page, Some(key.page())), (next, second)] {
            let Some(physical) = physical else { continue };
            let (made_for, eips) = pages[usize::from(global)].entry(linear).or_insert((physical, Vec::new()));
            if *made_for != physical {
                eips.drain(..).for_each(|eip| table.set(eip, 0));
                *made_for = physical;
            }
            eips.push(key.eip());
        }
        table.set(key.eip(), offset);
    }

    /// Empties the entry of `eip` if it leads into `range` of the arena.
    pub(crate) fn withdraw_from(&mut self, id: TableId, eip: u32, range: Range<u32>) {
        let table = &self.all[id.0 as usize].table;
        if range.contains(&table.get(eip)) {
            table.set(eip, 0);
        }
    }

    /// Withdraws what depends on the mapping of linear page `page` in table `id`. True if there was anything.
    pub fn withdraw_page(&mut self, id: TableId, page: u32) -> bool {
        let Entries { table, pages } = &mut self.all[id.0 as usize];
        let mut any = false;
        for pages in pages {
            if let Some((_, eips)) = pages.remove(&page) {
                eips.iter().for_each(|&eip| table.set(eip, 0));
                any = true;
            }
        }
        any
    }

    /// Withdraws the entries of those pages for which `holds` (given linear and physical page number) says that they aren't mapped that
    /// way any more, global ones only if `all`. True if there were any.
    pub fn review(&mut self, id: TableId, all: bool, mut holds: impl FnMut(u32, u32) -> bool) -> bool {
        let Entries { table, pages } = &mut self.all[id.0 as usize];
        let mut any = false;
        for pages in &mut pages[..if all { 2 } else { 1 }] {
            pages.retain(|&linear, (physical, eips)| {
                let keep = holds(linear, *physical);
                if !keep {
                    eips.iter().for_each(|&eip| table.set(eip, 0));
                    any = true;
                }
                keep
            });
        }
        any
    }
}
