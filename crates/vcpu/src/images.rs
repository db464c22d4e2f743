//! Translations kept from one run to the next.
//!
//! The embedder says where executable file contents are mapped that can't be written. As long as such a mapping stays as it is,
//! the code on its pages is what the file's identity stands for, so units made from it by an earlier process are as good as new ones. They are
//! adopted when the first instruction of the mapping is asked for.

use crate::store::{FileId, Key, Store};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use xlat86_arch::Mode;
use xlat86_translator::{Cache, Image, image};

/// A process that was forked keeps no less new code than this: it ends soon after, and so do its siblings.
const LEAST_INSNS: u64 = 64;
/// Writing so many bytes takes as long as translating an instruction.
const BYTES_PER_INSN: u64 = 256;
/// Translating anything at all takes as long as so many instructions more, since then the decoder needs its tables.
const FIRST_INSN: u64 = 1024;

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
    /// The process that began with this; others are its forks.
    process: u32,
}

/// Is it worth writing an image of `before` bytes again for `made` new instructions? Where the writing takes longer than translating them
/// once more, it is so in one run of several, by `chance`: what runs have in common is kept in the end, and where each differs a little the writing doesn't
/// cost more than it saves.
fn is_worth(made: u64, before: u64, forked: bool, chance: u64) -> bool {
    let worth = if forked { made } else { made + FIRST_INSN } * BYTES_PER_INSN;
    let least = if forked { LEAST_INSNS } else { 1 };
    made >= least && (worth >= before || chance % before < worth)
}

impl Images {
    pub(crate) fn new(store: Store) -> Self {
        Images { store, mappings: Vec::new(), process: std::process::id() }
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
        let forked = std::process::id() != self.process;
        for m in &mut self.mappings {
            let kept = match &m.kept {
                Kept::NotAsked | Kept::Refused => continue,
                Kept::None => None,
                Kept::Image(image) => Some(image),
            };
            let before = kept.map_or(0, |k| k.size_in_bytes() as u64);
            if !is_worth(m.made, before, forked, RandomState::new().hash_one(())) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_written_when_it_pays() {
        let always = |made, before, forked| [0, 1 << 19, u64::MAX].map(|chance| is_worth(made, before, forked, chance));
        // Nothing new, anything new in a small image, little new in a large one.
        assert_eq!(always(0, 0, false), [false; 3]);
        assert_eq!(always(1, 0, false), [true; 3]);
        assert_eq!(always(1, 1 << 18, false), [true; 3]);
        assert_eq!(always(1, 1 << 20, false), [true, false, false]);
        assert_eq!(always(1 << 12, 1 << 20, false), [true; 3]);
        // Forks write neither little nor often.
        assert_eq!(always(LEAST_INSNS - 1, 0, true), [false; 3]);
        assert_eq!(always(LEAST_INSNS, 0, true), [true; 3]);
        assert_eq!(always(LEAST_INSNS, 1 << 20, true), [true, false, false]);
    }
}
