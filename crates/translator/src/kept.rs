//! Images of units that earlier runs have left, in the cache.
//!
//! An image is mapped behind the regions, whole, and stays there. Its units are found by searching the image; what can change about one (who is
//! chained to it) becomes a [`Resident`] only when it does, or when somebody asks: of most units nobody ever does.

use crate::cache::{Cache, CodeKey, Details, EipMap, InPage, Link, Linkable, REGIONS, Resident, UnitId};
use crate::image::{Connections, Image, Piece};
use crate::tables::TableId;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use xlat86_arch::Mode;

/// Names of kept units begin here: images follow each other, and the units of one.
pub(crate) const KEPT: UnitId = 1 << 31;
/// Known targets in the same 2 to the power of so many bytes of guest code are published together.
const NEIGHBOURHOOD: u32 = 16;
/// The boundary bits of so many bytes of code take a page.
const ALIGN: usize = 8 * 4096;

/// An image in its place.
pub(crate) struct Kept {
    image: Arc<Image>,
    /// Arena offset of its code.
    base: u32,
    /// Name of its first unit.
    first: UnitId,
    mode: Mode,
    /// Units that were removed.
    gone: HashSet<u32>,
    /// Units of which more is known than the image says.
    residents: EipMap<u32, Box<Resident>>,
    /// By unit, the entries of jump tables that name it, but for known targets.
    published: EipMap<u32, Vec<(TableId, u32)>>,
    /// Neighbourhoods whose known targets have been published.
    expected: HashSet<u32>,
}

impl Kept {
    fn resident(&self, i: u32) -> Resident {
        let Connections { len, pages, exits, incoming, .. } = self.image.connections(i);
        let exits = exits.into_iter().map(|(exit, to)| Linkable { exit, to: to.map(|to| self.first + to) });
        let incoming = incoming.into_iter().map(|(from, exit)| Link { from: self.first + from, exit });
        Resident {
            base: self.base + self.image.base(i),
            size: self.image.size(i),
            region: REGIONS,
            key: CodeKey::flat(self.image.eip(i), self.mode),
            len,
            exits: exits.collect(),
            details: Details::Kept(self.image.clone(), i),
            pages,
            incoming: incoming.collect(),
            published: Vec::new(),
            retired: false,
        }
    }
}

/// All images of a cache.
#[derive(Default)]
pub(crate) struct Images {
    all: Vec<Kept>,
    /// The part of the arena that is theirs: where the next one goes, and the end.
    free: (u32, u32),
}

impl Images {
    /// No images yet, in `size` bytes of the arena from `start` on.
    pub(crate) fn new(start: usize, size: usize) -> Images {
        Images { all: Vec::new(), free: (start.next_multiple_of(ALIGN) as u32, (start + size) as u32) }
    }

    /// The image of kept unit `id`, and its number there.
    fn of(&self, id: UnitId) -> (usize, u32) {
        let k = self.all.partition_point(|k| k.first <= id) - 1;
        (k, id - self.all[k].first)
    }

    pub(crate) fn get(&self, id: UnitId) -> &Resident {
        let (k, i) = self.of(id);
        self.all[k].residents.get(&i).expect("asked for mutably before")
    }

    pub(crate) fn get_mut(&mut self, id: UnitId) -> &mut Resident {
        let (k, i) = self.of(id);
        let k = &mut self.all[k];
        if !k.residents.contains_key(&i) {
            k.residents.insert(i, Box::new(k.resident(i)));
        }
        k.residents.get_mut(&i).expect("just inserted")
    }

    /// Takes unit `id` out. Its entries of jump tables are with it.
    pub(crate) fn take(&mut self, id: UnitId) -> Box<Resident> {
        self.get_mut(id);
        let (k, i) = self.of(id);
        let k = &mut self.all[k];
        k.gone.insert(i);
        let mut u = k.residents.remove(&i).expect("just made");
        u.published = k.published.remove(&i).unwrap_or_default();
        let eip = k.image.eip(i);
        let known = k.image.targets_in(eip..=eip.saturating_add(u.len));
        u.published.extend(known.map(|(eip, _)| (TableId::FIRST, eip)));
        u
    }

    /// The unit that begins with `key`.
    pub(crate) fn starts(&self, key: CodeKey) -> Option<UnitId> {
        let of = |k: &Kept| k.image.starts(key.eip()).filter(|i| !k.gone.contains(i)).map(|i| k.first + i);
        self.all.iter().filter(|k| key == CodeKey::flat(key.eip(), k.mode)).find_map(of)
    }

    /// Unit and arena offset of the translation of `key`.
    pub(crate) fn find(&self, key: CodeKey) -> Option<(UnitId, u32)> {
        let of = |k: &Kept| {
            let (i, at) = k.image.holders(key.eip()).find(|(i, _)| !k.gone.contains(i))?;
            Some((k.first + i, k.base + at))
        };
        self.all.iter().filter(|k| key == CodeKey::flat(key.eip(), k.mode)).find_map(of)
    }

    /// The unit that arena offset `offset` is in or behind.
    pub(crate) fn unit_at(&self, offset: u32) -> Option<UnitId> {
        let k = &self.all[self.all.partition_point(|k| k.base <= offset).checked_sub(1)?];
        k.image.unit_at(offset - k.base).filter(|i| !k.gone.contains(i)).map(|i| k.first + i)
    }

    /// Units that depend on `page`.
    pub(crate) fn dependents(&self, page: u32) -> Vec<UnitId> {
        let of = |k: &Kept| {
            let all = k.image.dependents(page).into_iter().filter(|i| !k.gone.contains(i));
            all.map(|i| k.first + i).collect::<Vec<_>>()
        };
        self.all.iter().flat_map(of).collect()
    }

    /// Entry `eip` of jump table `table` names unit `id`.
    pub(crate) fn published(&mut self, id: UnitId, table: TableId, eip: u32) {
        let (k, i) = self.of(id);
        self.all[k].published.entry(i).or_default().push((table, eip));
    }

    /// The guest addresses whose entries of the first jump table name kept units, but for what only their images know.
    pub(crate) fn targets(&self) -> impl Iterator<Item = u32> + '_ {
        let all = self.all.iter().flat_map(|k| k.published.values().flatten());
        all.filter(|p| p.0 == TableId::FIRST).map(|p| p.1)
    }

    /// Where indirect jumps went in the neighbourhood of `eip`, which unit `id` has: guest addresses, ascending, and arena offsets. Said once.
    pub(crate) fn expected(&mut self, id: UnitId, eip: u32) -> Vec<(u32, u32)> {
        let (k, _) = self.of(id);
        let Kept { image, base, gone, expected, .. } = &mut self.all[k];
        if !expected.insert(eip >> NEIGHBOURHOOD) {
            return Vec::new();
        }
        let first = eip >> NEIGHBOURHOOD << NEIGHBOURHOOD;
        let is_there = |at| gone.is_empty() || image.unit_at(at).is_some_and(|i| !gone.contains(&i));
        let near = image.targets_in(first..=first | ((1 << NEIGHBOURHOOD) - 1));
        near.filter(|t| is_there(t.1)).map(|(eip, at)| (eip, *base + at)).collect()
    }
}

impl Cache {
    /// Takes over `image`, whose bytes are those of `file`, made for `mode`. False when it doesn't fit.
    ///
    /// # Errors
    /// The host doesn't give the memory.
    pub fn adopt(&mut self, image: Arc<Image>, file: &File, mode: Mode) -> io::Result<bool> {
        let (code, bits) = image.code();
        let (base, end) = self.images.free;
        if code.len() > (end as usize).saturating_sub(base as usize) {
            return Ok(false);
        }
        self.images.free.0 = (base as usize + code.len()).next_multiple_of(ALIGN) as u32;
        self.arena().write_file(base as usize, file, code, bits)?;
        let first = self.images.all.last().map_or(KEPT, |k| k.first + k.image.count());
        self.count_adopted(image.count());
        self.images.all.push(Kept {
            image,
            base,
            first,
            mode,
            gone: HashSet::new(),
            residents: EipMap::default(),
            published: EipMap::default(),
            expected: HashSet::new(),
        });
        Ok(true)
    }

    /// Those units of a flat guest, made by this process for `mode`, that begin on `page` and depend on nothing but pages that `keep` accepts.
    pub fn pieces(&self, page: u32, mode: Mode, keep: impl Fn(u32) -> bool) -> Vec<Piece> {
        let wanted = |at: &&InPage| !at.checked && at.key == CodeKey::flat(at.key.eip(), mode) && at.key.page() == page;
        let piece = |at: &InPage| {
            let u = self.unit(at.id);
            let Details::Made(unit) = &u.details else { return None };
            let code = self.arena().read(u.base as usize, u.size as usize);
            let exits = u.exits.iter().map(|x| x.exit).collect();
            u.pages
                .iter()
                .all(|&p| keep(p))
                .then(|| Piece::new(unit, u.len, code, self.landing(), exits, u.pages.clone()))
        };
        self.on_page(page).iter().filter(wanted).filter_map(piece).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, ExitKind, Place, Source, Unit, image, stubs, translate};
    use std::io::Write;
    use xlat86_arch::CpuModel;

    /// `jmp 0x2000` at 0x1000, and a loop of `inc %eax; jne 0x1000` at 0x2000, from which indirect jumps are known to 0x2001.
    struct Code;

    const JUMP: [u8; 5] = [0xe9, 0xfb, 0x0f, 0, 0];
    const LOOP: [u8; 8] = [0x40, 0x0f, 0x85, 0xf9, 0xef, 0xff, 0xff, 0xf4];

    impl Source for Code {
        fn peek(&mut self, eip: u32, to: &mut [u8]) -> usize {
            let mut page = if eip < 0x2000 { JUMP.to_vec() } else { LOOP.to_vec() };
            page.resize(4096, 0xf4);
            to.copy_from_slice(&page[eip as usize % 4096..][..to.len()]);
            to.len()
        }
        fn is_volatile(&self, _eip: u32) -> bool {
            false
        }
        fn depend(&mut self, _eip: u32) {}
        fn known(&self, _eip: u32) -> bool {
            false
        }
    }

    fn key(eip: u32) -> CodeKey {
        CodeKey::flat(eip, Mode::USER32)
    }

    fn unit(eip: u32) -> Unit {
        translate(eip, Mode::USER32, CpuModel::MAX.features, &Config::default(), &mut Code).expect("translatable")
    }

    /// A cache that has made both units, and the image of them.
    fn made() -> (Cache, Vec<u8>) {
        let mut cache = Cache::new(&Config::default()).unwrap();
        for eip in [0x1000, 0x2000] {
            cache.insert(unit(eip), key(eip), vec![eip >> 12]).unwrap();
        }
        for eip in [0x2000, 0x2001] {
            cache.publish(TableId::FIRST, key(eip), true);
        }
        let pieces = (1..3).flat_map(|page| cache.pieces(page, Mode::USER32, |_| true)).collect();
        let bytes = image(pieces, cache.targets(&(1..3)), true);
        (cache, bytes)
    }

    #[test]
    fn publishing_leaves_nothing_behind_in_a_flat_guest() {
        let mut cache = made().0;
        assert!(!cache.tables().withdraw_page(TableId::FIRST, 2));
    }

    fn adopted() -> Cache {
        let bytes = made().1;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let mut cache = Cache::new(&Config::default()).unwrap();
        let image = Image::new(Box::new(bytes), 0).expect("an image");
        assert!(cache.adopt(Arc::new(image), &file, Mode::USER32).unwrap());
        cache
    }

    /// Where the one jump of the unit at arena offset `at` goes, and the address behind the call by which it leaves.
    fn jump(cache: &mut Cache, at: u32) -> (u32, u64) {
        let code = cache.arena().read(at as usize, 256);
        let opcode = code.iter().position(|&b| b == 0xe9).expect("a jump");
        let displacement = u32::from_le_bytes(*code[opcode + 1..].first_chunk().unwrap());
        let base = cache.arena().base() + u64::from(at);
        let is_link = |site: &u64| {
            let place = cache.place(*site, true);
            matches!(place, Some(Place::Exit(x)) if matches!(x.kind, ExitKind::Link { .. }))
        };
        let site = (base..base + 64).find(is_link).expect("an exit");
        ((at + opcode as u32 + 5).wrapping_add(displacement), site)
    }

    #[test]
    fn kept_units_are_found_and_chained() {
        let mut cache = adopted();
        let [first, second] = [0x1000, 0x2000].map(|eip| cache.lookup(key(eip)).expect("kept"));
        assert!(cache.starts_at(key(0x2000)) && !cache.starts_at(key(0x2001)));
        assert!(cache.lookup(key(0x2001)).is_some_and(|at| at > second));
        assert_eq!(cache.lookup(key(0x3000)), None);
        assert_eq!(jump(&mut cache, first).0, second);
        // One indirect jump to the page, and the others that there were are expected too.
        cache.publish(TableId::FIRST, key(0x2000), true);
        let middle = cache.lookup(key(0x2001)).unwrap();
        assert_eq!([0x2000, 0x2001].map(|eip| cache.table().get(eip)), [second, middle]);
        // The image knows both; what else was published is said.
        assert_eq!(cache.targets(&(2..3)), [0x2000]);
        // Nothing that is kept already is kept twice.
        assert!((1..3).all(|page| cache.pieces(page, Mode::USER32, |_| true).is_empty()));
    }

    #[test]
    fn nothing_leads_to_dropped_units() {
        let mut cache = adopted();
        cache.publish(TableId::FIRST, key(0x2000), true);
        let first = cache.lookup(key(0x1000)).unwrap();
        assert_eq!(cache.invalidate_page(2), 1);
        assert_eq!([0x2000, 0x2001].map(|eip| cache.table().get(eip)), [0, 0]);
        assert_eq!([0x2000, 0x2001].map(|eip| cache.lookup(key(eip))), [None, None]);
        let (to, site) = jump(&mut cache, first);
        assert_eq!(u64::from(to + stubs::LEAVE_SIZE), site - cache.arena().base());
        // Made again, it is chained as any.
        let again = cache.insert(unit(0x2000), key(0x2000), vec![2]).unwrap();
        cache.chain(site);
        assert_eq!(jump(&mut cache, first).0, again);
        // And its own jump to the kept unit is taken back with that.
        let code = cache.arena().base() + u64::from(again);
        let leads_back = |site: &u64| {
            let place = cache.place(*site, true);
            matches!(place, Some(Place::Exit(x)) if matches!(x.kind, ExitKind::Link { target: 0x1000, .. }))
        };
        let back = (code..code + 64).find(leads_back).expect("an exit");
        cache.chain(back);
        let chains = cache.stats().chains;
        assert_eq!((cache.invalidate_page(1), cache.lookup(key(0x1000))), (1, None));
        cache.chain(back);
        assert_eq!(cache.stats().chains, chains);
    }

    #[test]
    fn what_does_not_fit_is_not_taken() {
        let bytes = made().1;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let image = Arc::new(Image::new(Box::new(bytes), 0).expect("an image"));
        let mut cache = Cache::new(&Config { cache_size: 1, ..Config::default() }).unwrap();
        let taken = (0..20).take_while(|_| cache.adopt(image.clone(), &file, Mode::USER32).unwrap()).count();
        assert!((1..20).contains(&taken), "{taken}");
        assert!(cache.lookup(key(0x1000)).is_some());
    }
}
