//! The indirect-jump tables, and which of their entries depend on the mapping of which page.
//!
//! A guest without page tables of its own has one. Others have one for each set of mappings that code is run under: entries say where
//! the code at a guest address is, so they hold as long as the guest's mapping of that address may be relied on. Whoever knows that it may
//! not any more withdraws the page's entries.

use crate::cache::{CodeKey, EipMap};
use core::ops::Range;
use std::collections::HashSet;
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

/// By linear page number of code that has run: the physical page that entries were made for, and their addresses, ascending. The second page of an
/// instruction that crosses has its address too.
type Pages = EipMap<u32, (u32, Vec<u32>)>;

/// Pages of code for which a table that has become empty keeps its memory, some 16 KB each: a guest that runs one short program after another
/// fills the same places again, and each page of memory that has to be found anew costs the host a fault.
const KEPT_PAGES: usize = 128;

/// A table with what its entries depend on.
struct Entries {
    table: Arc<JumpTable>,
    /// Pages whose mapping ends with the address space's use, and those whose mapping doesn't.
    pages: [Pages; 2],
    /// Linear pages that the table may have memory for.
    resident: HashSet<u32>,
}

impl Entries {
    /// The addresses that depend on linear page `page` being physical page `physical`.
    fn page(&mut self, page: u32, physical: u32, global: bool) -> &mut Vec<u32> {
        let Entries { table, pages, resident } = self;
        resident.insert(page);
        let (made_for, eips) = pages[usize::from(global)].entry(page).or_insert((physical, Vec::new()));
        if *made_for != physical {
            eips.drain(..).for_each(|eip| table.set(eip, 0));
            *made_for = physical;
        }
        eips
    }
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
        self.all.push(Entries {
            table: Arc::new(JumpTable::new()?),
            pages: Default::default(),
            resident: HashSet::new(),
        });
        Ok(TableId(self.all.len() as u32 - 1))
    }

    /// The table `id`.
    #[must_use]
    pub fn table(&self, id: TableId) -> &Arc<JumpTable> {
        &self.all[id.0 as usize].table
    }

    /// Enters arena offset `offset` for `key`, whose instruction may go on on physical page `second`. `global`: the mapping outlives the
    /// address space's use. True if it is the first entry for its page.
    pub(crate) fn publish(
        &mut self,
        id: TableId,
        key: CodeKey,
        second: Option<u32>,
        offset: u32,
        global: bool,
    ) -> bool {
        let entries = &mut self.all[id.0 as usize];
        let page = key.eip() >> 12;
        let next = page.wrapping_add(1) & 0xf_ffff;
        let mut first = false;
        for (linear, physical) in [(page, Some(key.page())), (next, second)] {
            let Some(physical) = physical else { continue };
            let eips = entries.page(linear, physical, global);
            first |= linear == page && eips.is_empty();
            if let Err(at) = eips.binary_search(&key.eip()) {
                eips.insert(at, key.eip());
            }
        }
        entries.table.set(key.eip(), offset);
        first
    }

    /// Notes that code on linear page `page`, which is physical page `physical`, runs with table `id`, whether or not it is entered through the
    /// table: return addresses lead to it.
    pub fn note(&mut self, id: TableId, page: u32, physical: u32, global: bool) {
        self.all[id.0 as usize].page(page, physical, global);
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
        let Entries { table, pages, .. } = &mut self.all[id.0 as usize];
        let mut any = false;
        for pages in pages {
            if let Some((_, eips)) = pages.remove(&page) {
                eips.iter().for_each(|&eip| table.set(eip, 0));
                any = true;
            }
        }
        any
    }

    /// Does table `id` lead to no page at all?
    #[must_use]
    pub fn is_empty(&self, id: TableId) -> bool {
        self.all[id.0 as usize].pages.iter().all(Pages::is_empty)
    }

    /// Empties table `id`.
    pub fn clear(&mut self, id: TableId) {
        self.review(id, true, |_, _| false);
    }

    /// Withdraws the entries of those pages for which `holds` (given linear and physical page number) says that they aren't mapped that
    /// way any more, global ones only if `all`. True if there were any.
    pub fn review(&mut self, id: TableId, all: bool, mut holds: impl FnMut(u32, u32) -> bool) -> bool {
        let Entries { table, pages, resident } = &mut self.all[id.0 as usize];
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
        if any && resident.len() > KEPT_PAGES && pages.iter().all(Pages::is_empty) {
            // What it was used for is over: an address space with another program, or another address space.
            table.clear();
            resident.clear();
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xlat86_arch::Mode;

    fn key(eip: u32) -> CodeKey {
        CodeKey::flat(eip, Mode::USER32)
    }

    /// KiB of memory that the first 256 pages' entries take, by the kernel's word on each page: what else lies beside the table doesn't count.
    fn resident(base: u64) -> usize {
        use std::os::unix::fs::FileExt;
        const PRESENT: u64 = 1 << 63;
        let pages = 256 * 4;
        let mut entries = vec![0; pages * 8];
        let map = std::fs::File::open("/proc/self/pagemap").unwrap();
        map.read_exact_at(&mut entries, base / 4096 * 8).unwrap();
        let present = |e: &&[u8]| u64::from_le_bytes((*e).try_into().unwrap()) & PRESENT != 0;
        entries.chunks(8).filter(present).count() * 4
    }

    #[test]
    fn an_address_is_listed_once() {
        let mut tables = Tables::new().unwrap();
        for i in 0..10 {
            tables.publish(TableId::FIRST, key(0x1000 + i % 2), None, 64, false);
        }
        assert_eq!(tables.all[0].pages[0][&1].1, [0x1000, 0x1001]);
    }

    #[test]
    fn code_that_has_run_is_known_without_entries() {
        let mut tables = Tables::new().unwrap();
        tables.note(TableId::FIRST, 5, 7, false);
        assert!(!tables.review(TableId::FIRST, true, |linear, physical| (linear, physical) == (5, 7)));
        assert!(tables.withdraw_page(TableId::FIRST, 5));
        assert!(!tables.withdraw_page(TableId::FIRST, 5));
    }

    #[test]
    fn an_empty_table_takes_no_memory() {
        let mut tables = Tables::new().unwrap();
        let id = tables.add().unwrap();
        let base = tables.table(id).base();
        let before = resident(base);
        for page in 0..256 {
            tables.publish(id, key(page << 12), None, 64, page % 2 == 0);
        }
        assert!(resident(base) >= before + 1000);
        assert!(tables.review(id, false, |_, _| false));
        assert!(resident(base) >= before + 1000, "half of it is in use");
        assert_eq!((tables.table(id).get(0x1000), tables.table(id).get(0x2000)), (0, 64));
        tables.clear(id);
        assert_eq!(tables.table(id).get(0x2000), 0);
        assert!(resident(base) < before + 100, "{} kB", resident(base));
    }
}
