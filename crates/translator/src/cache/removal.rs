//! What becomes of units that are no longer wanted: dropped, retired while threads may be in them, or evicted by the region.

use super::{Cache, CodeKey, InPage, UnitId};
use crate::checked::Snapshot;
use crate::kept::KEPT;

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
            self.retire(id);
        }
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
        for InPage { id, .. } in pages.iter().filter_map(|p| self.by_page.get(p)).flatten() {
            if self.unit(*id).details.snapshot().is_some_and(|s| s.contradicts(now)) {
                found.push(*id);
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
        for id in core::mem::take(&mut self.retired) {
            self.remove(id);
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
        self.free.push(id);
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
        if region == self.current {
            // Nothing may be placed in it before it is handed out again.
            self.cursor = (region as u32 + 1) * self.region_size;
        }
        for &(_, id) in &ids {
            self.unlink(id);
            self.free.push(id);
        }
        self.stats.evicted += ids.len() as u64;
        self.stats.evictions += 1;
    }
}
