//! How translated code gets from unit to unit: chained jumps, and landings that were returned to from elsewhere.

use super::{Cache, CodeKey, Link, Linkable, Resident, UnitId};
use crate::kept::KEPT;
use crate::stubs::{self, STUBS_SIZE, Stub};
use crate::unit::{Exit, ExitKind};

/// What no jump table's entry is.
const NO_ENTRY: u32 = u32::MAX;

impl Cache {
    /// Patches the jump that left at `site` to go to the translation of its target, if there is one.
    pub fn chain(&mut self, site: u64) {
        if !self.chaining {
            return;
        }
        let Some(offset) = site.checked_sub(self.arena.base()).and_then(|o| u32::try_from(o).ok()) else { return };
        let Some(from) = self.unit_at(offset - 1) else { return };
        let u = &*self.unit_mut(from);
        let Ok(exit) = u.exits.binary_search_by_key(&(offset - u.base), |x| x.exit.site) else { return };
        if u.retired {
            return;
        }
        let (key, base, kind) = (u.key, u.base, u.exits[exit].exit.kind);
        let (to, patch) = match kind {
            ExitKind::Link { target, patch } => (self.linked_key(key, target), patch),
            ExitKind::Careful { target, patch, .. } => (key.beside(target).careful(), patch),
            _ => return,
        };
        let patch = base + patch;
        self.link(Link { from, exit: exit as u32 }, to, patch);
    }

    /// Has the check that left at `site` expect the entry of its thunk, whose page is `page` now. False if the unit was made for another one.
    pub fn fold(&mut self, site: u64, page: u32) -> bool {
        let Some(offset) = site.checked_sub(self.arena.base()).and_then(|o| u32::try_from(o).ok()) else {
            return false;
        };
        let Some(from) = self.unit_at(offset - 1) else { return false };
        let u = &*self.unit_mut(from);
        let Ok(exit) = u.exits.binary_search_by_key(&(offset - u.base), |x| x.exit.site) else { return false };
        let Linkable { exit: Exit { kind: ExitKind::Thunk { target, patch, .. }, .. }, to: before } = u.exits[exit]
        else {
            return false;
        };
        let patch = u.base + patch;
        let key = CodeKey::new(target, page, u.key.careless().mode());
        if u.retired || !u.pages.contains(&page) {
            return false;
        }
        let Some((to, offset)) = self.find(key) else { return false };
        let link = Link { from, exit: exit as u32 };
        if let Some(before) = before {
            self.unit_mut(before).incoming.retain(|l| *l != link);
        }
        self.unit_mut(from).exits[exit].to = Some(to);
        self.unit_mut(to).incoming.push(link);
        self.arena.patch(patch as usize, offset);
        true
    }

    /// What a direct jump to `target` from the unit `from` leads to.
    fn linked_key(&self, from: CodeKey, target: u32) -> CodeKey {
        // Careful code is left at the first opportunity.
        if self.paged { from.beside(target).careless() } else { CodeKey::flat(target, from.mode()) }
    }

    /// Patches the jump of `link`, its displacement being at arena offset `patch`, to go to the translation of `to`. False when there is
    /// none.
    fn link(&mut self, link: Link, to: CodeKey, patch: u32) -> bool {
        let Link { from, exit } = link;
        let Some((to, offset)) = self.find(to) else { return false };
        if self.unit_mut(from).exits[exit as usize].to.is_some() {
            return true;
        }
        self.unit_mut(from).exits[exit as usize].to = Some(to);
        self.unit_mut(to).incoming.push(link);
        self.arena.patch(patch as usize, offset.wrapping_sub(patch + 4));
        self.stats.chains += 1;
        true
    }

    /// Takes back a chained jump: it leaves again.
    fn unchain(&mut self, link: Link) {
        let u = self.unit_mut(link.from);
        let x = &mut u.exits[link.exit as usize];
        x.to = None;
        let Exit { site, kind, .. } = x.exit;
        if let ExitKind::Thunk { patch, .. } = kind {
            let patch = u.base + patch;
            return self.arena.patch(patch as usize, NO_ENTRY);
        }
        let (ExitKind::Link { patch, .. } | ExitKind::Careful { patch, .. }) = kind else {
            unreachable!("only links are chained")
        };
        let patch = u.base + patch;
        let leave = u.base + site - stubs::LEAVE_SIZE;
        self.arena.patch(patch as usize, leave.wrapping_sub(patch + 4));
    }

    /// Overwrites the landing's load at arena offset `at` by a jump to `to`.
    fn divert(&self, at: u32, to: u32) {
        self.arena.patch_jump(at as usize, to.wrapping_sub(at + 5));
    }

    /// If the host address `site` is a landing's load: the guest returned to another place. The next time that won't cost a fault.
    pub fn mismatched(&mut self, site: u64) -> bool {
        let offset = site.checked_sub(self.arena.base()).and_then(|o| u32::try_from(o).ok());
        let Some(offset) = offset.filter(|&o| o >= STUBS_SIZE as u32) else { return false };
        let Some(id) = self.unit_at(offset) else { return false };
        let u = &*self.unit_mut(id);
        if !u.details.landings().contains(&(offset - u.base)) {
            return false;
        }
        let region = u.region;
        // Another thread may have found it, too; and it may have been retired.
        let loads = self.arena.read(offset as usize, 5) == self.landing.head();
        if loads {
            let check = self.make_check(region, offset).unwrap_or(Stub::Mismatch.offset() as u32);
            self.divert(offset, check);
        }
        true
    }

    /// Makes the check of the landing whose load is at arena offset `load`, in the region `region`; gives where. `None` if that is full of them.
    fn make_check(&mut self, region: usize, load: u32) -> Option<u32> {
        let distance = self.arena.read(load.wrapping_add_signed(self.landing.distance()) as usize, 4);
        let distance = i32::from_le_bytes(*distance.first_chunk()?);
        let at = self.checks.get_mut(region)?.next()?;
        self.arena.write(at as usize, &self.landing.check(at, load, distance), core::iter::empty());
        Some(at)
    }

    /// Makes unit `id` unreachable: no lookup, jump or return gets into it any more. Its memory stays as it is,
    /// since threads may be in it.
    pub(super) fn unlink(&mut self, id: UnitId) -> Box<Resident> {
        let mut incoming = core::mem::take(&mut self.unit_mut(id).incoming);
        for link in incoming.drain(..) {
            self.unchain(link);
        }
        let u = if id >= KEPT { Some(self.images.take(id)) } else { self.units[id as usize].take() };
        let mut u = u.expect("unlinked once");
        u.incoming = incoming;
        for (exit, x) in u.exits.iter().enumerate() {
            // A unit that jumps to itself has lost that link above.
            if let Some(to) = x.to {
                let to = self.unit_mut(to);
                to.incoming.retain(|l| *l != Link { from: id, exit: exit as u32 });
            }
        }
        for at in u.details.landings() {
            self.divert(u.base + at, Stub::Mismatch.offset() as u32);
        }
        for &(table, eip) in &u.published {
            self.tables.withdraw_from(table, eip, u.base..u.base + u.size);
        }
        if self.by_key.get(&u.key) == Some(&id) {
            self.by_key.remove(&u.key);
        }
        for p in &u.pages {
            if let Some(ids) = self.by_page.get_mut(p) {
                let near = ids.partition_point(|x| x.key.eip() < u.key.eip());
                if let Some(at) = ids[near..].iter().position(|x| x.id == id) {
                    ids.remove(near + at);
                }
                if ids.is_empty() {
                    self.by_page.remove(p);
                }
            }
        }
        u
    }
}
