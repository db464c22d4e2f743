//! What becomes of units that are no longer wanted: dropped, retired while threads may be in them, or evicted by the region.

use super::{Cache, CodeKey, REGIONS, Resident, UnitId, checks_in};
use crate::checked::Snapshot;
use crate::kept::KEPT;
use crate::unit::LONGEST;

/// More guest addresses of units that found themselves changed aren't remembered.
const MOST_FOUND_CHANGED: usize = 4096;
/// The memory of more units that are gone isn't kept.
const MOST_SPARE: usize = 512;

impl Cache {
    /// Drops the unit that starts with `key`.
    pub fn forget(&mut self, key: CodeKey) {
        if let Some(&id) = self.by_key.get(&key) {
            self.remove(id);
            self.stats.invalidated += 1;
        }
    }

    /// Retires the unit that left at `site` because it found its code changed: nothing reaches it any more, but what is known about it stays
    /// for the threads that are still in it.
    pub fn retire_at(&mut self, site: u64) {
        let offset = site.checked_sub(self.arena.base()).and_then(|o| u32::try_from(o).ok());
        if let Some(id) = offset.and_then(|o| self.unit_at(o - 1)) {
            if self.found_changed.len() >= MOST_FOUND_CHANGED {
                self.found_changed.clear();
            }
            self.found_changed.insert(self.unit(id).key.eip());
            self.retire(id);
        }
    }

    /// Has a unit at `eip` found its code changed, of late?
    #[must_use]
    pub fn found_changed(&self, eip: u32) -> bool {
        self.found_changed.contains(&eip)
    }

    fn retire(&mut self, id: UnitId) {
        if self.unit(id).retired {
            return;
        }
        let mut u = self.unlink(id);
        u.retired = true;
        u.exits.iter_mut().for_each(|x| x.to = None);
        u.published.clear();
        self.units[id as usize] = Some(u);
        self.retired.push(id);
        self.stats.retired += 1;
    }

    /// Retires the units on `pages` that were made from other code than `now`.
    pub(super) fn retire_contradicting(&mut self, now: &Snapshot, pages: &[u32]) {
        let mut found = Vec::new();
        let code = now.range();
        for list in pages.iter().filter_map(|p| self.by_page.get(p)) {
            // None further back reaches so far.
            let from = list.partition_point(|u| u.key.eip() < code.start.saturating_sub(LONGEST));
            let until = list.partition_point(|u| u.key.eip() < code.end);
            for at in list[from..until].iter().filter(|u| code.start - u.key.eip().min(code.start) < u.len) {
                if self.unit(at.id).details.snapshot().is_some_and(|s| s.contradicts(now)) {
                    found.push(at.id);
                }
            }
        }
        found.into_iter().for_each(|id| self.retire(id));
    }

    /// Number of retired units.
    #[must_use]
    pub fn retired(&self) -> usize {
        self.retired.len()
    }

    /// Forgets retired units. No thread may be inside translated code.
    pub fn forget_retired(&mut self) {
        let mut regions = [false; REGIONS];
        for id in core::mem::take(&mut self.retired) {
            // Nothing has come to know it since it was retired.
            if let Some(u) = self.units[id as usize].take() {
                regions[u.region] = true;
                self.reuse(id, u);
            }
        }
        for (region, _) in self.regions.iter_mut().zip(regions).filter(|r| r.1) {
            region.retain(|&(_, id)| self.units[id as usize].is_some());
        }
    }

    /// Unlinks unit `id` and takes it out of its region.
    fn remove(&mut self, id: UnitId) {
        let u = self.unlink(id);
        if id >= KEPT {
            return;
        }
        let region = &mut self.regions[u.region];
        if let Ok(i) = region.binary_search_by_key(&u.base, |x| x.0) {
            region.remove(i);
        }
        self.reuse(id, u);
    }

    /// Lets the next unit have the number of `id`, which is gone, and the memory of what was known about it.
    fn reuse(&mut self, id: UnitId, u: Box<Resident>) {
        self.free.push(id);
        if self.spare.len() < MOST_SPARE {
            self.spare.push(u);
        }
    }

    /// Drops every unit that depends on physical page `page`. Gives their number.
    pub fn invalidate_page(&mut self, page: u32) -> usize {
        self.forget_retired();
        let made = self.by_page.remove(&page).unwrap_or_default().into_iter().map(|u| u.id);
        let ids: Vec<UnitId> = made.chain(self.images.dependents(page)).collect();
        for &id in &ids {
            self.remove(id);
        }
        self.stats.invalidated += ids.len() as u64;
        ids.len()
    }

    /// Empties the least recently used region. No thread may be inside translated code, and every return stack must be
    /// dropped before one is again.
    pub fn evict(&mut self) {
        self.forget_retired();
        let Some((region, ())) = self.recent.pop_lru() else { return };
        let ids = core::mem::take(&mut self.regions[region]);
        let size = self.region_size as usize;
        self.checks[region] = checks_in(region * size, size);
        if region == self.current {
            // Nothing may be placed in it before it is handed out again.
            self.cursor = (region as u32 + 1) * self.region_size;
        }
        for &(_, id) in &ids {
            let u = self.unlink(id);
            self.reuse(id, u);
        }
        self.stats.evicted += ids.len() as u64;
        self.stats.evictions += 1;
    }
}
