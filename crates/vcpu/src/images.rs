//! Translations kept from one run to the next.
//!
//! The embedder says where executable file contents are mapped that can't be written. As long as such a mapping stays as it is,
//! the code on its pages is what the file's identity stands for, so units made from it by an earlier process are as good as new ones. They are
//! adopted when the first instruction of the mapping is asked for.

use crate::store::{FileId, Key, Store};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use xlat86_arch::Mode;
use xlat86_translator::{Cache, Image, image};

/// Keeping less new code than this isn't worth the writing.
const LEAST_INSNS: u64 = 64;
/// Nor is keeping less than one new instruction for so many bytes kept already.
const BYTES_PER_INSN: u64 = 256;

/// What earlier runs have left for a mapping.
enum Kept {
    NotAsked,
    /// Nothing.
    None,
    /// It isn't used.
    Refused,
    Image(Arc<Image>),
}

struct Mapping {
    /// Numbers of guest pages.
    pages: Range<u32>,
    key: Key,
    kept: Kept,
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
            self.mappings.push(Mapping { pages, key, kept: Kept::NotAsked, made: 0 });
        }
    }

    /// What `pages` hold may differ from now on.
    pub(crate) fn forget(&mut self, pages: &Range<u32>) {
        self.mappings.retain(|m| m.pages.end <= pages.start || pages.end <= m.pages.start);
    }

    fn mapping(&mut self, page: u32) -> Option<&mut Mapping> {
        self.mappings.iter_mut().find(|m| m.pages.contains(&page))
    }

    /// What was kept for the mapping that holds `page`, with its file, when somebody asks for the first time. It is used if `use_it` says so.
    pub(crate) fn take(&mut self, page: u32, use_it: impl FnOnce(&Arc<Image>, &File) -> bool) -> bool {
        let Some(i) = self.mappings.iter().position(|m| m.pages.contains(&page)) else { return false };
        let m = &mut self.mappings[i];
        if !matches!(m.kept, Kept::NotAsked) {
            return false;
        }
        m.kept = match self.store.load(&m.key) {
            None => Kept::None,
            Some((image, file)) => {
                let image = Arc::new(image);
                let fits = image.pages().all(|p| m.pages.contains(&p));
                if fits && use_it(&image, &file) { Kept::Image(image) } else { Kept::Refused }
            }
        };
        matches!(m.kept, Kept::Image(_))
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
            let kept = match &m.kept {
                Kept::NotAsked | Kept::Refused => continue,
                Kept::None => None,
                Kept::Image(image) => Some(image),
            };
            let before = kept.map_or(0, |k| k.size_in_bytes() as u64);
            if m.made < LEAST_INSNS || m.made * BYTES_PER_INSN < before {
                continue;
            }
            let mut pieces = kept.map_or(Vec::new(), |k| k.pieces());
            for page in m.pages.clone() {
                pieces.extend(cache.pieces(page, Mode::USER32, |p| m.pages.contains(&p)));
            }
            let mut targets = cache.targets(&m.pages);
            targets.extend(kept.iter().flat_map(|k| k.targets()));
            self.store.save(&m.key, &image(pieces, targets, cache.chaining()));
            m.made = 0;
        }
    }
}
