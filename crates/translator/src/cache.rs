//! The translation cache: units in executable memory, found by guest EIP or host address, chained to each other.
//!
//! One cache serves all threads of a guest process. Its methods run under one lock; translated code runs beside them, so whatever it may be executing is only changed by
//! single aligned stores ([`Arena::patch`]). Memory is reused only by [`Cache::evict`], which the caller runs with every thread outside
//! translated code.
//!
//! Space is handed out in *regions*, in order; when all are used, the least recently entered one is emptied as a whole.

mod block;
mod key;
mod links;
mod removal;
mod resident;

pub use block::BlockInfo;
pub use key::CodeKey;
pub(crate) use resident::{Details, InPage, Link, Linkable, Made, Resident, UnitId};

use crate::config::Config;
use crate::kept::{Images, KEPT};
use crate::landing::{CHECK, Landing};
use crate::line;
use crate::stubs::{self, STUBS_SIZE};
use crate::tables::{TableId, Tables};
use crate::unit::{Exit, LONGEST, Mark, Unit};
use lru::LruCache;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::iter::StepBy;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use xlat86_host::{Arena, JumpTable};

/// Number of regions the arena is divided into. What is kept lies behind them.
pub(crate) const REGIONS: usize = 16;

/// The part of a region, at its end, that landings' checks take.
const fn checks_size(region: usize) -> usize {
    region / 64
}

/// What a host address in translated code belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Translated code left through this exit.
    Exit(Exit),
    /// The miss stub: an indirect jump found no translation.
    Miss,
    /// Inside the code for a guest instruction.
    Inside(Mark),
}

/// There is no room: evict, then insert again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// What the cache has done so far.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct CacheStats {
    /// Units inserted.
    pub units: u64,
    /// Units placed that an earlier run had made.
    pub adopted: u64,
    /// Guest instructions translated.
    pub insns: u64,
    /// Guest bytes translated.
    pub guest_bytes: u64,
    /// Host bytes produced.
    pub host_bytes: u64,
    /// Direct jumps patched to their target.
    pub chains: u64,
    /// Units dropped because guest code changed.
    pub invalidated: u64,
    /// Units dropped because they found the code that they were made from changed.
    pub retired: u64,
    /// Units dropped to make room.
    pub evicted: u64,
    /// Regions emptied to make room.
    pub evictions: u64,
    /// Time spent translating and placing.
    pub time: Duration,
}

/// Guest addresses are hashed by one multiplication: they are spread well enough, and this is on the way of every leave.
#[derive(Default, Clone, Copy)]
pub(crate) struct EipHasher(u64);

impl Hasher for EipHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u32(u32::from(b));
        }
    }
    fn write_u32(&mut self, v: u32) {
        self.write_u64(v.into());
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0 ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

pub(crate) type EipMap<K, V> = HashMap<K, V, BuildHasherDefault<EipHasher>>;

/// See the module's documentation.
pub struct Cache {
    arena: Arc<Arena>,
    tables: Tables,
    chaining: bool,
    paged: bool,
    units: Vec<Option<Box<Resident>>>,
    free: Vec<UnitId>,
    /// Units that are gone, for the memory that they have: where code keeps changing as many come as go.
    #[allow(clippy::vec_box, reason = "boxes go from here to `units` and back")]
    spare: Vec<Box<Resident>>,
    retired: Vec<UnitId>,
    /// Guest addresses of units that found their code changed.
    found_changed: HashSet<u32, BuildHasherDefault<EipHasher>>,
    by_key: EipMap<CodeKey, UnitId>,
    by_page: EipMap<u32, Vec<InPage>>,
    pub(crate) images: Images,
    /// Units of each region with their arena offsets, ascending.
    regions: Vec<Vec<(u32, UnitId)>>,
    region_size: u32,
    /// Room for landings' checks that is left in each region, and in the part that is kept.
    checks: Vec<StepBy<Range<u32>>>,
    landing: Landing,
    recent: LruCache<usize, ()>,
    current: usize,
    cursor: u32,
    stats: CacheStats,
}

/// Room for landings' checks at the end of the `size` bytes at `start`.
fn checks_in(start: usize, size: usize) -> StepBy<Range<u32>> {
    let end = (start + size) as u32;
    (end - checks_size(size) as u32..end).step_by(CHECK as usize)
}

impl Cache {
    /// An empty cache. Fails when the host refuses executable memory or the jump table's address space.
    pub fn new(config: &Config) -> io::Result<Cache> {
        let region_size = (config.cache_size / REGIONS).max(8 << 10).next_multiple_of(4096);
        let size = region_size * REGIONS;
        // Nothing is kept for systems.
        let kept = if config.paged { 0 } else { size };
        let arena = Arena::new(size + kept)?;
        arena.write(0, &stubs::stubs(), core::iter::empty());
        let mut recent = LruCache::unbounded();
        recent.put(0, ());
        Ok(Cache {
            arena: Arc::new(arena),
            tables: Tables::new()?,
            chaining: config.chaining,
            paged: config.paged,
            units: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            retired: Vec::new(),
            found_changed: HashSet::default(),
            by_key: EipMap::default(),
            by_page: EipMap::default(),
            images: Images::new(size, kept - checks_size(kept)),
            regions: vec![Vec::new(); REGIONS],
            region_size: region_size as u32,
            checks: (0..REGIONS)
                .map(|r| checks_in(r * region_size, region_size))
                .chain([checks_in(size, kept)])
                .collect(),
            landing: Landing::of(config.address_form),
            recent,
            current: 0,
            cursor: STUBS_SIZE as u32,
            stats: CacheStats::default(),
        })
    }

    /// The executable memory.
    #[must_use]
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// The indirect-jump table that there is from the start.
    #[must_use]
    pub fn table(&self) -> &Arc<JumpTable> {
        self.tables.table(TableId::FIRST)
    }

    /// All indirect-jump tables.
    pub fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// Adds to the time spent translating.
    pub fn add_time(&mut self, d: Duration) {
        self.stats.time += d;
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        self.stats
    }

    /// How landings load.
    pub(crate) const fn landing(&self) -> Landing {
        self.landing
    }

    /// Are direct jumps patched?
    #[must_use]
    pub fn chaining(&self) -> bool {
        self.chaining
    }

    /// Counts units that an earlier run had made.
    pub(crate) fn count_adopted(&mut self, units: u32) {
        self.stats.adopted += u64::from(units);
    }

    /// Unit `id`; a kept one must have been asked for mutably before.
    pub(crate) fn unit(&self, id: UnitId) -> &Resident {
        if id >= KEPT {
            return self.images.get(id);
        }
        self.units[id as usize].as_ref().expect("a unit that is named is resident")
    }

    fn unit_mut(&mut self, id: UnitId) -> &mut Resident {
        if id >= KEPT {
            return self.images.get_mut(id);
        }
        self.units[id as usize].as_mut().expect("a unit that is named is resident")
    }

    /// Unit and arena offset of the translation of `key`, in the middle of a unit if need be.
    fn find(&self, key: CodeKey) -> Option<(UnitId, u32)> {
        let eip = key.eip();
        let at = |id| {
            let u = self.unit(id);
            u.details.entry(eip).map(|at| (id, u.base + at))
        };
        if let Some(&id) = self.by_key.get(&key) {
            return at(id);
        }
        let list = self.on_page(key.page());
        let before = list[..list.partition_point(|u| u.key.eip() <= eip)].iter().rev();
        let near = before.take_while(|u| eip - u.key.eip() < LONGEST);
        let there = |u: &&InPage| !u.checked && eip - u.key.eip() < u.len && u.key.beside(eip) == key;
        self.images.find(key).or_else(|| near.filter(there).find_map(|u| at(u.id)))
    }

    /// The units made by this process that depend on physical page `page`.
    pub(crate) fn on_page(&self, page: u32) -> &[InPage] {
        self.by_page.get(&page).map_or(&[], Vec::as_slice)
    }

    /// Is `key` that of a unit's first instruction?
    #[must_use]
    pub fn starts_at(&self, key: CodeKey) -> bool {
        self.by_key.contains_key(&key) || self.images.starts(key).is_some()
    }

    /// Arena offset of the translation of `key`.
    pub fn lookup(&mut self, key: CodeKey) -> Option<u32> {
        let (id, offset) = self.find(key)?;
        if id < KEPT {
            let region = self.unit(id).region;
            self.recent.get(&region);
        }
        Some(offset)
    }

    /// The second physical page of the unit that starts with `key`: it is one instruction, which crosses.
    #[must_use]
    pub fn second_page(&self, key: CodeKey) -> Option<u32> {
        self.unit(*self.by_key.get(&key)?).second_page()
    }

    /// Lets indirect jumps through `table` to the address of `key` find its translation.
    /// `global`: its address is mapped so in every address space.
    pub fn publish(&mut self, table: TableId, key: CodeKey, global: bool) {
        let Some((id, offset)) = self.find(key) else { return };
        if id < KEPT {
            if self.paged {
                let second = self.unit(id).second_page();
                if self.tables.publish(table, key, second, offset, global) {
                    self.publish_beside(table, key, global);
                }
            } else {
                // Pages are their own physical pages for ever.
                self.tables.table(table).set(key.eip(), offset);
            }
            let (published, entry) = (&mut self.unit_mut(id).published, (table, key.eip()));
            if !published.contains(&entry) {
                published.push(entry);
            }
            return;
        }
        // An earlier run's indirect jumps went to several places near by: so will this one's.
        let expected = self.images.expected(id, key.eip());
        self.tables.table(table).fill(&expected);
        self.tables.table(table).set(key.eip(), offset);
        self.images.published(id, table, key.eip());
    }

    /// Lets the first entry of a page in `table` be followed by those that the same page, at the same address and under the same mode, has been
    /// given in any table: a process that has just been made runs what others have run. That the page is mapped there is known; entries
    /// that depend on another page as well wait until they are asked for.
    fn publish_beside(&mut self, table: TableId, key: CodeKey, global: bool) {
        let page = key.eip() >> 12;
        let known = self.on_page(key.page()).iter().filter(|u| u.key.beside(key.eip()) == key);
        let mut eips: Vec<u32> = known.flat_map(|u| &self.unit(u.id).published).map(|p| p.1).collect();
        eips.sort_unstable();
        eips.dedup();
        for eip in eips.into_iter().filter(|&eip| eip >> 12 == page && eip != key.eip()) {
            let Some((id, offset)) = self.find(key.beside(eip)).filter(|found| found.0 < KEPT) else { continue };
            if self.unit(id).second_page().is_some() {
                continue;
            }
            self.tables.publish(table, key.beside(eip), None, offset, global);
            let (published, entry) = (&mut self.unit_mut(id).published, (table, eip));
            if !published.contains(&entry) {
                published.push(entry);
            }
        }
    }

    /// The guest addresses on `pages` whose entries of the first jump table lead anywhere, but for those that only images know.
    #[must_use]
    pub fn targets(&self, pages: &Range<u32>) -> Vec<u32> {
        let made = pages.clone().flat_map(|p| self.on_page(p)).flat_map(|at| &self.unit(at.id).published);
        let made = made.filter(|p| p.0 == TableId::FIRST).map(|p| p.1);
        made.chain(self.images.targets()).filter(|eip| pages.contains(&(eip >> 12))).collect()
    }

    /// Most bytes of host code in a unit: of two regions' worth of room, no more than half is wasted.
    #[must_use]
    pub fn largest_unit(&self) -> usize {
        self.region_size as usize / 2 - 16
    }

    /// Places `unit`, the translation of `key`, which depends on the physical pages numbered `pages`; gives its arena offset.
    pub fn insert(&mut self, unit: Unit, key: CodeKey, pages: Vec<u32>) -> Result<u32, Full> {
        let base = self.room(unit.code.len(), line::alignment(unit.lined))?;
        if let Some(snapshot) = &unit.snapshot {
            self.retire_contradicting(snapshot, &pages);
        }
        self.stats.units += 1;
        self.stats.insns += u64::from(unit.insns);
        self.stats.guest_bytes += u64::from(unit.len);
        self.stats.host_bytes += unit.code.len() as u64;
        let boundaries = unit.marks.iter().filter(|m| m.exact).map(|m| m.host as usize);
        self.arena.write(base as usize, &unit.code, boundaries);
        self.settle(base, key, pages, unit);
        Ok(base)
    }

    /// Finds room for `len` bytes of code, at a multiple of `align`.
    fn room(&mut self, len: usize, align: u32) -> Result<u32, Full> {
        let size = len as u32;
        assert!(size <= self.region_size / 2, "a unit is far smaller than a region");
        let mut base = self.cursor.next_multiple_of(align);
        let end = (self.current as u32 + 1) * self.region_size - checks_size(self.region_size as usize) as u32;
        if base + size > end {
            let next = (0..REGIONS).find(|r| !self.recent.contains(r)).ok_or(Full)?;
            self.current = next;
            self.recent.put(next, ());
            base = next as u32 * self.region_size + if next == 0 { STUBS_SIZE as u32 } else { 0 };
        }
        self.cursor = base + size;
        Ok(base)
    }

    /// Makes `unit`, whose code has been written at `base`, known.
    fn settle(&mut self, base: u32, key: CodeKey, pages: Vec<u32>, mut unit: Unit) {
        let id = self.free.pop().unwrap_or_else(|| {
            self.units.push(None);
            self.units.len() as UnitId - 1
        });
        let here = InPage { key, len: unit.len, id, checked: unit.snapshot.is_some() };
        for &p in &pages {
            let list = self.by_page.entry(p).or_default();
            list.insert(list.partition_point(|u| u.key.eip() <= key.eip()), here);
        }
        self.by_key.insert(key, id);
        self.regions[self.current].push((base, id));
        let mut resident = self.spare.pop().unwrap_or_default();
        resident.renew((self.current, base), key, pages, &mut unit);
        self.units[id as usize] = Some(resident);
        unit.recycle();
    }

    fn unit_at(&self, offset: u32) -> Option<UnitId> {
        let Some(region) = self.regions.get((offset / self.region_size) as usize) else {
            return self.images.unit_at(offset);
        };
        let i = region.partition_point(|&(base, _)| base <= offset);
        let (base, id) = *region.get(i.checked_sub(1)?)?;
        (offset <= base + self.unit(id).size).then_some(id)
    }

    /// What the host address `site` belongs to. `left` says that it is the return address of a leaving call.
    pub fn place(&mut self, site: u64, left: bool) -> Option<Place> {
        let offset = u32::try_from(site.checked_sub(self.arena.base())?).ok()?;
        if offset < STUBS_SIZE as u32 {
            return Some(Place::Miss);
        }
        // A site is the address *after* a call, which may be the last byte of its unit.
        let id = self.unit_at(offset - u32::from(left))?;
        let u = &*self.unit_mut(id);
        let at = offset - u.base;
        if left {
            return u.exits.binary_search_by_key(&at, |x| x.exit.site).ok().map(|i| Place::Exit(u.exits[i].exit));
        }
        u.details.mark_at(at).map(Place::Inside)
    }

    /// Arena offset of the start of the guest instruction in whose code host address `site` is, where the registers are still as they were there, or as
    /// an instruction under way has them.
    pub fn boundary_at(&mut self, site: u64) -> Option<u32> {
        let offset = u32::try_from(site.checked_sub(self.arena.base())?).ok().filter(|&o| o >= STUBS_SIZE as u32)?;
        let id = self.unit_at(offset)?;
        let u = &*self.unit_mut(id);
        let mark = u.details.mark_at(offset - u.base)?;
        match (mark.boundary, mark.fix.pinned) {
            (true, false) => Some(u.base + mark.host),
            (false, true) => Some(u.base + u.details.entry(mark.eip)?),
            _ => None,
        }
    }

    /// What the unit that host address `site` is in translates.
    #[must_use]
    pub fn key_at(&self, site: u64) -> Option<CodeKey> {
        let offset = u32::try_from(site.checked_sub(self.arena.base())?).ok().filter(|&o| o >= STUBS_SIZE as u32)?;
        Some(self.unit(self.unit_at(offset)?).key)
    }
}
