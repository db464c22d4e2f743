//! Units in their place, and what is known about them.

use super::CodeKey;
use crate::checked::Snapshot;
use crate::image::Image;
use crate::tables::TableId;
use crate::unit::{self, Exit, Mark, Unit};
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
    /// The unit without its code and exits.
    Made(Box<Unit>),
    /// A unit of an image.
    Kept(Arc<Image>, u32),
}

impl Details {
    /// Offset of the code for the guest instruction at `eip`.
    pub(crate) fn entry(&self, eip: u32) -> Option<u32> {
        match self {
            Details::Made(u) => unit::entry(&u.marks, eip),
            Details::Kept(image, i) => unit::entry(&[image.marks(*i).find(|m| m.eip >= eip)?], eip),
        }
    }

    pub(crate) fn mark_at(&self, host: u32) -> Option<Mark> {
        match self {
            Details::Made(u) => unit::mark_at(&u.marks, host).copied(),
            Details::Kept(image, i) => image.marks(*i).take_while(|m| m.host <= host).last(),
        }
    }

    pub(crate) fn landings(&self) -> Vec<u32> {
        match self {
            Details::Made(u) => u.landings.clone(),
            Details::Kept(image, i) => image.connections(*i).landings,
        }
    }

    pub(crate) fn marks(&self) -> Vec<Mark> {
        match self {
            Details::Made(u) => u.marks.clone(),
            Details::Kept(image, i) => image.marks(*i).collect(),
        }
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        match self {
            Details::Made(u) => u.snapshot.as_ref(),
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
