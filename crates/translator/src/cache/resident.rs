//! Units in their place, and what is known about them.

use super::CodeKey;
use crate::checked::Snapshot;
use crate::image::Image;
use crate::packed::{self, Reader, put, put_list, put_marks};
use crate::tables::TableId;
use crate::unit::{Exit, Mark, Unit};
use std::sync::Arc;

/// Identifies a unit for as long as it is in the cache.
pub(crate) type UnitId = u32;

/// A direct jump that has been patched to reach another unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    pub(crate) from: UnitId,
    /// Index into its exits.
    pub(crate) exit: u32,
}

/// A unit in its place.
#[derive(Default)]
pub(crate) struct Resident {
    pub(crate) base: u32,
    /// Bytes of code.
    pub(crate) size: u32,
    pub(crate) region: usize,
    pub(crate) key: CodeKey,
    /// Guest bytes.
    pub(crate) len: u32,
    /// Ascending by site.
    pub(crate) exits: Vec<Linkable>,
    pub(crate) details: Details,
    pub(crate) pages: Vec<u32>,
    pub(crate) incoming: Vec<Link>,
    /// Jump tables and guest EIPs whose entries name this unit.
    pub(crate) published: Vec<(TableId, u32)>,
    /// Unreachable, but some thread may still be inside.
    pub(crate) retired: bool,
}

impl Resident {
    /// Makes it `unit`, the translation of `key`, which depends on `pages` and has been placed at `base`. Of what it was before only the memory stays.
    pub(crate) fn renew(&mut self, (region, base): (usize, u32), key: CodeKey, pages: Vec<u32>, unit: &mut Unit) {
        (self.base, self.size, self.region) = (base, unit.code.len() as u32, region);
        (self.key, self.len, self.pages, self.retired) = (key, unit.len, pages, false);
        self.exits.clear();
        self.exits.extend(unit.exits.iter().map(|&exit| Linkable { exit, to: None }));
        self.incoming.clear();
        self.published.clear();
        match &mut self.details {
            Details::Made(made) => made.renew(unit),
            kept => *kept = Details::Made(Made::new(unit)),
        }
    }

    /// The physical page that the unit goes on on, if it crosses pages. Others that it depends on are thunks'.
    pub(crate) fn second_page(&self) -> Option<u32> {
        let crosses = (self.key.eip() & 0xfff) + self.len > 0x1000;
        self.pages.get(1).copied().filter(|_| crosses)
    }
}

/// An exit and, if it is a jump that has been patched, the unit that it reaches.
#[derive(Clone, Copy)]
pub(crate) struct Linkable {
    pub(crate) exit: Exit,
    pub(crate) to: Option<UnitId>,
}

/// What is rarely asked for about a unit.
pub(crate) enum Details {
    /// Of one made by this process.
    Made(Made),
    /// A unit of an image.
    Kept(Arc<Image>, u32),
}

impl Default for Details {
    fn default() -> Self {
        Details::Made(Made::default())
    }
}

/// What stays of a unit beside its code and exits. There are thousands, and fresh memory costs more than packing it.
#[derive(Default)]
pub(crate) struct Made {
    /// Guest EIP of the first instruction.
    pub(crate) eip: u32,
    /// It starts a cache line.
    pub(crate) lined: bool,
    /// Its landings as a list, and its marks.
    packed: Vec<u8>,
    /// Where the marks begin.
    marks: u32,
    snapshot: Option<Box<Snapshot>>,
}

impl Made {
    /// Of `unit`, as for [`Made::renew`].
    pub(crate) fn new(unit: &mut Unit) -> Made {
        let mut made = Made::default();
        made.renew(unit);
        made
    }

    /// Makes it what stays of `unit`, whose code isn't needed any more: its memory serves for packing. The snapshots change places, for `unit` to be
    /// recycled with the older one.
    fn renew(&mut self, unit: &mut Unit) {
        let packed = &mut unit.code;
        packed.clear();
        put_list(packed, &unit.landings, |out, at| put(out, *at));
        let marks = packed.len() as u32;
        put_marks(packed, &unit.marks, unit.eip);
        self.packed.clear();
        self.packed.reserve_exact(packed.len());
        self.packed.extend_from_slice(packed);
        (self.eip, self.lined, self.marks) = (unit.eip, unit.lined, marks);
        core::mem::swap(&mut self.snapshot, &mut unit.snapshot);
    }

    pub(crate) fn packed_marks(&self) -> &[u8] {
        &self.packed[self.marks as usize..]
    }

    fn marks(&self) -> impl Iterator<Item = Mark> + '_ {
        packed::marks(self.packed_marks(), self.eip)
    }

    pub(crate) fn landings(&self) -> impl Iterator<Item = u32> + '_ {
        let mut r = Reader(&self.packed);
        let count = r.get().unwrap_or(0);
        (0..count).map_while(move |_| r.get())
    }
}

impl Details {
    /// Offset of the code for the guest instruction at `eip`.
    pub(crate) fn entry(&self, eip: u32) -> Option<u32> {
        match self {
            Details::Made(u) => packed::entry(u.marks(), eip),
            Details::Kept(image, i) => packed::entry(image.marks(*i), eip),
        }
    }

    pub(crate) fn mark_at(&self, host: u32) -> Option<Mark> {
        let until = |m: &Mark| m.host <= host;
        match self {
            Details::Made(u) => u.marks().take_while(until).last(),
            Details::Kept(image, i) => image.marks(*i).take_while(until).last(),
        }
    }

    pub(crate) fn landings(&self) -> Vec<u32> {
        match self {
            Details::Made(u) => u.landings().collect(),
            Details::Kept(image, i) => image.connections(*i).landings,
        }
    }

    pub(crate) fn marks(&self) -> Vec<Mark> {
        match self {
            Details::Made(u) => u.marks().collect(),
            Details::Kept(image, i) => image.marks(*i).collect(),
        }
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        match self {
            Details::Made(u) => u.snapshot.as_deref(),
            Details::Kept(..) => None,
        }
    }
}

/// A unit as its pages' lists name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InPage {
    pub(crate) key: CodeKey,
    pub(crate) len: u32,
    pub(crate) id: UnitId,
    /// It can only be entered at its start.
    pub(crate) checked: bool,
}
