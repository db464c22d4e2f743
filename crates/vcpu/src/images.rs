//! Translations kept from one run to the next.
//!
//! The embedder says where executable file contents are mapped that can't be written. As long as such a mapping stays as it is,
//! the code on its pages is what the file's identity stands for, so units made from it by an earlier process are as good as new ones. They are
//! adopted page by page, when the first instruction of a page is asked for.

use crate::store::{FileId, Key, Pages, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use xlat86_arch::Mode;
use xlat86_translator::{Cache, Shared};

/// Keeping less new code than this isn't worth the writing.
const LEAST_INSNS: u64 = 64;
/// Nor is keeping less than one new instruction for so many bytes kept already.
const BYTES_PER_INSN: u64 = 256;

struct Mapping {
    /// Numbers of guest pages.
    pages: Range<u32>,
    key: Key,
    /// What was kept; `None` before anybody asked.
    kept: Option<Pages>,
    /// Pages whose units are in the cache if they exist.
    adopted: BTreeSet<u32>,
    /// Guest instructions translated in this mapping by this process.
    made: u64,
}

/// The file mappings of a guest.
pub(crate) struct Images {
    store: Store,
    mappings: Vec<Mapping>,
}

impl Images {
    pub(crate) fn new(store: Store) -> Self {
        Images { store, mappings: Vec::new() }
    }

    /// `pages` now hold the contents of `file` from `offset` bytes on.
    pub(crate) fn note(&mut self, pages: Range<u32>, file: &FileId, offset: u64) {
        if file.is_settled() {
            let len = (pages.end - pages.start) << 12;
            let key = self.store.key(file, offset, pages.start << 12, len);
            self.mappings.push(Mapping { pages, key, kept: None, adopted: BTreeSet::new(), made: 0 });
        }
    }

    /// What `pages` hold may differ from now on.
    pub(crate) fn forget(&mut self, pages: &Range<u32>) {
        self.mappings.retain(|m| m.pages.end <= pages.start || pages.end <= m.pages.start);
    }

    fn mapping(&mut self, page: u32) -> Option<&mut Mapping> {
        self.mappings.iter_mut().find(|m| m.pages.contains(&page))
    }

    /// Where the kept units that begin on `page` are, once, and the pages that they may depend on.
    pub(crate) fn take(&mut self, page: u32) -> Option<(Shared, Range<usize>, Range<u32>)> {
        let i = self.mappings.iter().position(|m| m.pages.contains(&page))?;
        let m = &mut self.mappings[i];
        if !m.adopted.insert(page) {
            return None;
        }
        let kept = m.kept.get_or_insert_with(|| self.store.load(&m.key).unwrap_or_else(Pages::none));
        let range = kept.ranges.get(&page)?.clone();
        Some((kept.bytes.clone(), range, m.pages.clone()))
    }

    /// A unit of `insns` instructions that begins on `page` was translated.
    pub(crate) fn made(&mut self, page: u32, insns: u32) {
        if let Some(m) = self.mapping(page) {
            m.made += u64::from(insns);
        }
    }

    /// Keeps what `cache` holds, where enough is new.
    pub(crate) fn keep(&mut self, cache: &Cache) {
        for m in &mut self.mappings {
            let before = m.kept.as_ref().map_or(0, |k| k.all().len());
            if m.made < LEAST_INSNS || m.made * BYTES_PER_INSN < before as u64 {
                continue;
            }
            let kept = m.kept.take().unwrap_or_else(Pages::none);
            let mut pages: BTreeMap<u32, Vec<u8>> =
                kept.ranges.keys().map(|p| (*p, kept.get(*p).unwrap_or_default().to_vec())).collect();
            for &page in &m.adopted {
                let mut units = Vec::new();
                cache.pack(page, Mode::USER32, |p| m.pages.contains(&p), &mut units);
                // Some may have been evicted since.
                if pages.get(&page).is_none_or(|old| old.len() < units.len()) {
                    pages.insert(page, units);
                }
            }
            self.store.save(&m.key, &pages);
            (m.kept, m.made) = (Some(kept), 0);
        }
    }
}
