//! A description of translations, for who follows and checks them.

use super::{Cache, CodeKey};
use crate::stubs;
use crate::unit::{Exit, ExitKind, Mark, Quick};

/// What is known about the unit that translates a guest address, from there to its end.
#[derive(Clone, Debug)]
pub struct BlockInfo {
    /// Guest instructions.
    pub insns: u32,
    /// Guest bytes.
    pub len: u32,
    /// Addresses of instructions at which translated code always leaves, having done nothing of them (to INT n it counts as done).
    pub leaves: Vec<u32>,
    /// Addresses of calls to which a return is expected.
    pub calls: Vec<u32>,
    /// Addresses of instructions at whose start, or at a miss of the software TLB in them, the status flags may hold anything: the guest
    /// overwrites them before it reads them.
    pub stale: Vec<u32>,
    /// Where its host code is in the arena.
    pub code: core::ops::Range<u32>,
}

impl Cache {
    /// Describes the translation of `key` at arena offset `offset`. There may be others: units overlap.
    pub fn block_at(&mut self, key: CodeKey, offset: u32) -> Option<BlockInfo> {
        let id = self.unit_at(offset)?;
        self.unit_mut(id);
        let (u, eip) = (self.unit(id), key.eip());
        let from = eip.wrapping_sub(u.key.eip());
        let marks = u.details.marks();
        let is_here = |at: &u32| at.wrapping_sub(u.key.eip()) >= from;
        let boundaries = || marks.iter().filter(|m| m.boundary && is_here(&m.eip));
        let leaves = u.exits.iter().map(|x| x.exit).filter(|x| always_leaves(x, &marks)).map(|x| x.eip);
        let calls = u.details.landings().into_iter().filter_map(|at| u.details.mark_at(at)).map(|m| m.eip);
        let stale = boundaries().filter(|m| !m.exact || m.clobbers);
        Some(BlockInfo {
            insns: boundaries().count() as u32,
            len: u.key.eip().wrapping_add(u.len).wrapping_sub(eip),
            leaves: leaves.filter(is_here).collect(),
            calls: calls.filter(is_here).collect(),
            stale: stale.map(|m| m.eip).collect(),
            code: offset..u.base + u.size,
        })
    }
}

/// Does the instruction that leaves by `exit` do so whatever happens: at its very start, perhaps having moved ESP's value to where it belongs?
fn always_leaves(exit: &Exit, marks: &[Mark]) -> bool {
    let call = exit.site - stubs::LEAVE_SIZE;
    match exit.kind {
        ExitKind::Quick { what: Quick::Port { .. }, .. } => true,
        // INT n is executed first.
        ExitKind::Interpret => marks.iter().any(|m| m.host == call && m.eip == exit.eip),
        _ => false,
    }
}
