//! Units as one piece of memory, to be kept from one run to the next.
//!
//! A unit's code depends on where the guest code is and on the translator's settings, not on where it is placed. So the units of a mapping of
//! guest code are laid out in the order of their guest addresses, jumps among them already chained, and used as they are: the code
//! and its boundary bits are whole pages of a file, tables are searched where they lie, and what is rarely asked for (marks, landings,
//! links) is decoded when it is. Reading never panics; what it gives is only as good as what was written, so whoever keeps the bytes
//! has to keep them safe.
//!
//! ```text
//! header     number of units, of foreign pages and of indirect targets; bytes of details and of code
//! units      EIP, offset of the code, its size, offset of the details; ascending
//! foreign    page and unit that depends on it but begins on another; ascending
//! targets    guest address that indirect jumps went to, and the offset of its code, if any; ascending
//! details    of each unit: marks, length, pages, exits, landings, links that lead to it
//! code       from the next page on
//! bits       from the next page on, one for each byte of code: may be stopped there
//! ```

use crate::cache::Made;
use crate::landing::Landing;
use crate::line;
use crate::packed::{Reader, entry, get_exit, marks, put, put_exit, put_list};
use crate::stubs;
use crate::unit::{Exit, ExitKind, LONGEST, Mark};
use core::ops::{Range, RangeInclusive};

/// Units begin at multiples of this, in the arena too.
pub(crate) const UNIT_ALIGN: u32 = 32;
const PAGE: usize = 4096;
/// Words of the header, and of a unit's row.
const HEADER: usize = 5;
const ROW: usize = 4;
/// A target without code.
const NOWHERE: u32 = u32::MAX;

/// A unit to be kept.
pub struct Piece {
    eip: u32,
    len: u32,
    /// Nothing in it is patched.
    code: Vec<u8>,
    marks: Vec<u8>,
    pages: Vec<u32>,
    exits: Vec<Exit>,
    landings: Vec<u32>,
    lined: bool,
}

impl Piece {
    /// `unit`, which doesn't check itself, covers `len` guest bytes, whose exits are `exits` and whose code, now `code` with landings like `landing`,
    /// depends on `pages`.
    pub(crate) fn new(
        unit: &Made,
        len: u32,
        code: Vec<u8>,
        landing: Landing,
        exits: Vec<Exit>,
        pages: Vec<u32>,
    ) -> Piece {
        let (marks, landings) = (unit.packed_marks().to_vec(), unit.landings().collect());
        let mut p = Piece { eip: unit.eip, len, code, marks, pages, exits, landings, lined: unit.lined };
        p.land(landing);
        p.leave();
        p
    }

    /// Has landings load again that were diverted.
    fn land(&mut self, landing: Landing) {
        for at in &self.landings {
            if let Some(to) = self.code[*at as usize..].first_chunk_mut() {
                *to = landing.head();
            }
        }
    }

    /// Has jumps leave again that were patched.
    fn leave(&mut self) {
        for i in 0..self.exits.len() {
            if let ExitKind::Link { patch, .. } = self.exits[i].kind {
                self.patch(patch, self.exits[i].site - stubs::LEAVE_SIZE);
            }
        }
    }

    /// Has the jump whose displacement is at `patch` go to offset `to`.
    fn patch(&mut self, patch: u32, to: u32) {
        if let Some(field) = self.code.get_mut(patch as usize..patch as usize + 4) {
            field.copy_from_slice(&to.wrapping_sub(patch + 4).to_le_bytes());
        }
    }

    fn bits(&self) -> Vec<u8> {
        let mut bits = vec![0; self.code.len().div_ceil(8)];
        for m in marks(&self.marks, self.eip).filter(|m| m.boundary && m.exact && (m.host as usize) < self.code.len()) {
            bits[m.host as usize / 8] |= 1 << (m.host % 8);
        }
        bits
    }
}

/// One of `pieces` (ascending) that has the guest instruction at `eip`, and the offset of its code in it.
fn holder(pieces: &[Piece], eip: u32) -> Option<(usize, u32)> {
    let end = pieces.partition_point(|p| p.eip <= eip);
    let near = (0..end).rev().take_while(|&i| eip - pieces[i].eip < LONGEST);
    { near }.find_map(|i| Some((i, entry(marks(&pieces[i].marks, pieces[i].eip), eip)?)))
}

/// The bytes of an image of `pieces`, chained to each other if `chaining`. Of several with the same address the first is taken. Indirect jumps
/// went to `targets`.
#[must_use]
pub fn image(mut pieces: Vec<Piece>, mut targets: Vec<u32>, chaining: bool) -> Vec<u8> {
    pieces.sort_by_key(|p| p.eip);
    pieces.dedup_by_key(|p| p.eip);
    targets.sort_unstable();
    targets.dedup();
    let mut bases = Vec::with_capacity(pieces.len());
    let mut end = 0u32;
    for p in &pieces {
        bases.push(end.next_multiple_of(line::alignment(p.lined)));
        end = bases[bases.len() - 1] + p.code.len() as u32;
    }
    // Who leads where, and who is led to.
    let mut links: Vec<Vec<u32>> = pieces.iter().map(|p| vec![0; p.exits.len()]).collect();
    let mut incoming: Vec<Vec<(u32, u32)>> = vec![Vec::new(); pieces.len()];
    for from in (0..pieces.len()).filter(|_| chaining) {
        for (exit, link) in links[from].iter_mut().enumerate() {
            let ExitKind::Link { target, patch } = pieces[from].exits[exit].kind else { continue };
            let Some((to, at)) = holder(&pieces, target) else { continue };
            *link = to as u32 + 1;
            incoming[to].push((from as u32, exit as u32));
            pieces[from].patch(patch, bases[to].wrapping_add(at).wrapping_sub(bases[from]));
        }
    }
    let (mut rows, mut foreign, mut details) = (Vec::new(), Vec::new(), Vec::new());
    for (i, p) in pieces.iter().enumerate() {
        rows.extend([p.eip, bases[i], p.code.len() as u32, details.len() as u32]);
        foreign.extend(p.pages.iter().filter(|&&page| page != p.eip >> 12).map(|&page| (page, i as u32)));
        put_list(&mut details, &p.marks, |out, b| out.push(*b));
        put(&mut details, p.len << 1 | u32::from(p.lined));
        put_list(&mut details, &p.pages, |out, page| put(out, *page));
        let mut to = links[i].iter();
        put_list(&mut details, &p.exits, |out, x| {
            put_exit(out, x, p.eip);
            put(out, *to.next().unwrap_or(&0));
        });
        put_list(&mut details, &p.landings, |out, at| put(out, *at));
        put_list(&mut details, &incoming[i], |out, (from, exit)| {
            put(out, *from);
            put(out, *exit);
        });
    }
    foreign.sort_unstable();
    let code_len = end.next_multiple_of(PAGE as u32);
    let header = [pieces.len() as u32, foreign.len() as u32, targets.len() as u32, details.len() as u32, code_len];
    let foreign = foreign.iter().flat_map(|&(page, i)| [page, i]);
    let code_for = |eip| holder(&pieces, eip).map_or(NOWHERE, |(i, at)| bases[i] + at);
    let targets = targets.iter().flat_map(|&eip| [eip, code_for(eip)]);
    let words = header.into_iter().chain(rows).chain(foreign).chain(targets);
    let mut out: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    out.extend(details);
    out.resize(out.len().next_multiple_of(PAGE), 0);
    let code = out.len();
    for (p, base) in pieces.iter().zip(&bases) {
        // What is never meant to be executed traps.
        out.resize(code + *base as usize, 0xcc);
        out.extend(&p.code);
    }
    out.resize(code + code_len as usize, 0xcc);
    let bits = out.len();
    for (p, base) in pieces.iter().zip(&bases) {
        out.resize(bits + *base as usize / 8, 0);
        out.extend(p.bits());
    }
    out.resize(bits + (code_len as usize / 8).next_multiple_of(PAGE), 0);
    out
}

/// What is known of a unit's connections.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Connections {
    /// Guest bytes.
    pub(crate) len: u32,
    pub(crate) lined: bool,
    pub(crate) pages: Vec<u32>,
    /// With the units that they are chained to.
    pub(crate) exits: Vec<(Exit, Option<u32>)>,
    pub(crate) landings: Vec<u32>,
    /// Units and their exits that are chained to this one.
    pub(crate) incoming: Vec<(u32, u32)>,
}

/// Bytes that hold an image, and where in them its parts are.
pub struct Image {
    bytes: Box<dyn AsRef<[u8]> + Send + Sync>,
    /// Units' rows, foreign pages and targets, in bytes.
    tables: [Range<usize>; 3],
    details: Range<usize>,
    code: Range<usize>,
    bits: Range<usize>,
}

impl Image {
    /// The image that takes up `bytes` from `at` on, a multiple of the page size. `None` when that is none.
    #[must_use]
    pub fn new(bytes: Box<dyn AsRef<[u8]> + Send + Sync>, at: usize) -> Option<Image> {
        let all = (*bytes).as_ref();
        let word = |i: usize| Some(u32::from_le_bytes(*all.get(at + 4 * i..)?.first_chunk()?) as usize);
        let [units, foreign, targets, details, code] = [word(0)?, word(1)?, word(2)?, word(3)?, word(4)?];
        let mut end = at + HEADER * 4;
        let mut part = |len: usize, align: usize| {
            let start = end.next_multiple_of(align);
            end = start + len;
            start..end
        };
        let tables = [part(units * ROW * 4, 4), part(foreign * 8, 4), part(targets * 8, 4)];
        let details = part(details, 1);
        let (code, bits) = (part(code, PAGE), part((code / 8).next_multiple_of(PAGE), PAGE));
        let whole = at.is_multiple_of(PAGE) && code.len().is_multiple_of(PAGE) && end == all.len();
        let image = Image { tables, details, code, bits, bytes };
        (whole && image.is_ordered()).then_some(image)
    }

    /// Units follow each other, in guest memory and in the code, and are within it.
    fn is_ordered(&self) -> bool {
        let (mut last, mut end) = (None, 0);
        (0..self.count()).all(|i| {
            let ordered = last < Some(self.eip(i)) && self.base(i) >= end && self.base(i).is_multiple_of(UNIT_ALIGN);
            last = Some(self.eip(i));
            end = self.base(i).saturating_add(self.size(i));
            ordered && end as usize <= self.code.len()
        })
    }

    fn all(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    fn word(&self, table: usize, i: usize) -> u32 {
        let row = self.all()[self.tables[table].clone()].get(i * 4..).and_then(|b| b.first_chunk());
        row.map_or(0, |b| u32::from_le_bytes(*b))
    }

    /// Number of units.
    #[must_use]
    pub fn count(&self) -> u32 {
        (self.tables[0].len() / (ROW * 4)) as u32
    }

    /// Bytes that the image takes.
    #[must_use]
    pub fn size_in_bytes(&self) -> usize {
        self.all().len()
    }

    /// Where in the bytes the code is, and its boundary bits.
    #[must_use]
    pub fn code(&self) -> (Range<usize>, Range<usize>) {
        (self.code.clone(), self.bits.clone())
    }

    /// Guest address of unit `i`.
    pub(crate) fn eip(&self, i: u32) -> u32 {
        self.word(0, i as usize * ROW)
    }

    /// Offset of its code.
    pub(crate) fn base(&self, i: u32) -> u32 {
        self.word(0, i as usize * ROW + 1)
    }

    /// Bytes of code.
    pub(crate) fn size(&self, i: u32) -> u32 {
        self.word(0, i as usize * ROW + 2)
    }

    /// The first of `range` for which `is` says no.
    fn first(range: Range<u32>, is: impl Fn(u32) -> bool) -> u32 {
        let (mut low, mut high) = (range.start, range.end);
        while low < high {
            let middle = low.midpoint(high);
            if is(middle) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The unit that begins at `eip`.
    pub(crate) fn starts(&self, eip: u32) -> Option<u32> {
        let i = Self::first(0..self.count(), |i| self.eip(i) < eip);
        (i < self.count() && self.eip(i) == eip).then_some(i)
    }

    /// Units that have the guest instruction at `eip` where it can be entered, and the offsets of their code for it in the image; nearest first.
    pub(crate) fn holders(&self, eip: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let end = Self::first(0..self.count(), |i| self.eip(i) <= eip);
        let near = (0..end).rev().take_while(move |&i| eip - self.eip(i) < LONGEST);
        near.filter_map(move |i| {
            let at = entry(self.marks(i), eip).filter(|at| *at < self.size(i))?;
            Some((i, self.base(i) + at))
        })
    }

    /// The unit whose code offset `at` is in or behind.
    pub(crate) fn unit_at(&self, at: u32) -> Option<u32> {
        let i = Self::first(0..self.count(), |i| self.base(i) <= at).checked_sub(1)?;
        (at <= self.base(i) + self.size(i)).then_some(i)
    }

    /// Units that depend on `page`.
    pub(crate) fn dependents(&self, page: u32) -> Vec<u32> {
        let from = Self::first(0..self.count(), |i| self.eip(i) >> 12 < page);
        let own = (from..self.count()).take_while(|&i| self.eip(i) >> 12 == page);
        own.chain(self.foreign().filter(|f| f.0 == page).map(|f| f.1)).collect()
    }

    fn foreign(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (0..self.tables[1].len() / 8).map(|i| (self.word(1, 2 * i), self.word(1, 2 * i + 1)))
    }

    /// The pages that units depend on, some of them several times.
    pub fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        let mut last = None;
        let own = (0..self.count()).map(|i| self.eip(i) >> 12).filter(move |&page| last.replace(page) != Some(page));
        own.chain(self.foreign().map(|f| f.0))
    }

    /// Guest addresses in `range` that indirect jumps went to, and the offsets of their code.
    pub(crate) fn targets_in(&self, range: RangeInclusive<u32>) -> impl Iterator<Item = (u32, u32)> + '_ {
        let count = (self.tables[2].len() / 8) as u32;
        let from = Self::first(0..count, |i| self.target(i).0 < *range.start());
        let targets = (from..count).map(|i| self.target(i)).take_while(move |t| t.0 <= *range.end());
        targets.filter(|t| (t.1 as usize) < self.code.len())
    }

    fn target(&self, i: u32) -> (u32, u32) {
        (self.word(2, 2 * i as usize), self.word(2, 2 * i as usize + 1))
    }

    /// Guest addresses that indirect jumps went to.
    pub fn targets(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.tables[2].len() / 8).map(|i| self.word(2, 2 * i))
    }

    /// The details of unit `i`: its marks, and what follows.
    fn details(&self, i: u32) -> (&[u8], Reader<'_>) {
        let mut r = Reader(&[]);
        if let Some(d) = self.all()[self.details.clone()].get(self.word(0, i as usize * ROW + 3) as usize..) {
            r = Reader(d);
        }
        let marks = r.get().and_then(|n| r.bytes(n as usize)).unwrap_or_default();
        (marks, r)
    }

    /// In order.
    pub(crate) fn marks(&self, i: u32) -> impl Iterator<Item = Mark> + '_ {
        marks(self.details(i).0, self.eip(i))
    }

    /// What unit `i` is connected to.
    pub(crate) fn connections(&self, i: u32) -> Connections {
        let (eip, size, count) = (self.eip(i), self.size(i), self.count());
        let read = |mut r: Reader<'_>| {
            let len = r.get()?;
            Some(Connections {
                len: len >> 1,
                lined: len & 1 != 0,
                pages: r.list(Reader::get)?,
                exits: r.list(|r| {
                    let exit = get_exit(r, eip, size)?;
                    let to = r.get()?.checked_sub(1);
                    to.is_none_or(|to| to < count).then_some((exit, to))
                })?,
                landings: r.list(|r| r.get().filter(|at| at % 8 <= 3 && *at < size))?,
                incoming: r.list(|r| Some((r.get().filter(|from| *from < count)?, r.get()?)))?,
            })
        };
        read(self.details(i).1).unwrap_or_default()
    }

    /// The units, to be kept again.
    #[must_use]
    pub fn pieces(&self) -> Vec<Piece> {
        let code = &self.all()[self.code.clone()];
        let piece = |i: u32| {
            let Connections { len, lined, pages, exits, landings, .. } = self.connections(i);
            let code = code[self.base(i) as usize..][..self.size(i) as usize].to_vec();
            let exits = exits.into_iter().map(|x| x.0).collect();
            let marks = self.details(i).0.to_vec();
            let mut p = Piece { eip: self.eip(i), len, code, marks, pages, exits, landings, lined };
            p.leave();
            p
        };
        (0..self.count()).map(piece).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{Fix, Unit};

    /// 90 bytes of code for two instructions; it jumps to `target`.
    fn unit(eip: u32, target: u32) -> Unit {
        let mark = Mark { host: 0, eip, fix: Fix::default(), boundary: true, exact: true, clobbers: false };
        let biased = Fix { esp: -4, ..Fix::default() };
        let swapped = Fix { esp: 0x7000_0000, swapped: Some(3), ..Fix::default() };
        Unit {
            eip,
            len: 7,
            insns: 3,
            code: vec![0x90; 90],
            body: 60,
            marks: vec![
                mark,
                Mark { host: 3, eip: eip + 2, fix: biased, exact: false, ..mark },
                Mark { host: 50, eip: eip + 2, fix: swapped, boundary: false, ..mark },
                Mark { host: 56, eip: eip + 5, ..mark },
            ],
            exits: vec![
                Exit { site: 20, eip: eip + 2, kind: ExitKind::SoftInt { vector: 0x80, next: eip + 7 } },
                Exit { site: 64, eip, kind: ExitKind::Interpret },
                Exit { site: 90, eip: eip + 2, kind: ExitKind::Link { target, patch: 8 } },
            ],
            landings: vec![16, 66],
            lined: eip == 0x1010,
            snapshot: None,
        }
    }

    fn piece(u: &Unit, pages: &[u32]) -> Piece {
        Piece::new(&Made::new(&mut u.clone()), u.len, u.code.clone(), Landing::Gs, u.exits.clone(), pages.to_vec())
    }

    /// The second jumps into the middle of the first, the first elsewhere, the third to itself.
    fn sample() -> ([Unit; 3], Vec<u8>) {
        let units = [unit(0x1000, 0xffff_0000), unit(0x1010, 0x1005), unit(0x2ff9, 0x2ff9)];
        let pieces = [(2, &[2, 3][..]), (0, &[1]), (1, &[1, 0xf_ffff])].map(|(i, p)| piece(&units[i], p));
        (units, image(pieces.into(), vec![0x2ff9, 0x1005, 0x1000, 0x1005], true))
    }

    fn displacement(code: &[u8], at: usize) -> i32 {
        i32::from_le_bytes(*code[at..].first_chunk().unwrap())
    }

    #[test]
    fn what_was_kept_is_found_again() {
        let (units, bytes) = sample();
        let image = Image::new(Box::new(bytes.clone()), 0).expect("an image");
        assert_eq!(image.count(), 3);
        assert_eq!(
            [0x1000, 0x1010, 0x2ff9, 0x1005, 0].map(|eip| image.starts(eip)),
            [Some(0), Some(1), Some(2), None, None]
        );
        assert_eq!([0, 1, 2].map(|i| (image.base(i), image.size(i))), [(0, 90), (128, 90), (224, 90)]);
        assert_eq!(
            [0, 90, 95, 128, 314, 315].map(|at| image.unit_at(at)),
            [Some(0), Some(0), None, Some(1), Some(2), None]
        );
        for (i, u) in (0..).zip(&units) {
            assert!(image.marks(i).eq(u.marks.iter().copied()));
            let c = image.connections(i);
            assert_eq!((c.len, c.lined, &c.landings), (u.len, u.lined, &u.landings));
            assert!(c.exits.iter().map(|x| x.0).eq(u.exits.iter().copied()));
        }
        // The middle of the first can be entered at its last instruction, not where ESP is biased.
        assert_eq!(image.holders(0x1005).collect::<Vec<_>>(), [(0, 56)]);
        assert_eq!(image.holders(0x1002).next(), None);
        assert_eq!(image.holders(0x1010).collect::<Vec<_>>(), [(1, 128)]);
        assert_eq!([1, 2, 3, 0xf_ffff].map(|p| image.dependents(p)), [vec![0, 1], vec![2], vec![2], vec![1]]);
        assert_eq!(image.pages().collect::<Vec<_>>(), [1, 2, 3, 0xf_ffff]);
        assert_eq!(image.targets_in(0x1000..=0x1fff).collect::<Vec<_>>(), [(0x1000, 0), (0x1005, 56)]);
        assert_eq!(image.targets_in(0x1001..=0x2ff9).collect::<Vec<_>>(), [(0x1005, 56), (0x2ff9, 224)]);
        assert!(image.targets().eq([0x1000, 0x1005, 0x2ff9]));
        let (code, bits) = image.code();
        assert!(code.start.is_multiple_of(PAGE) && bits.start.is_multiple_of(PAGE));
        assert_eq!([bytes[bits.start], bytes[bits.start + 7], bytes[bits.start + 16]], [1, 1, 1]);
    }

    #[test]
    fn units_are_chained_to_each_other() {
        let (_, bytes) = sample();
        let image = Image::new(Box::new(bytes.clone()), 0).expect("an image");
        let to = |i| image.connections(i).exits.iter().map(|x| x.1).collect::<Vec<_>>();
        assert_eq!([0, 1, 2].map(to), [[None; 3], [None, None, Some(0)], [None, None, Some(2)]]);
        assert_eq!([0, 1, 2].map(|i| image.connections(i).incoming), [vec![(1, 2)], vec![], vec![(2, 2)]]);
        let code = &bytes[image.code().0];
        // Behind the displacement at 8: to the leaving call, to 56 in the unit 128 bytes before, to its own start.
        assert_eq!([0, 128, 224].map(|at| displacement(code, at + 8)), [87 - 12, 56 - 128 - 12, -12]);
        // Kept once more, the jumps are as they were made; and without chaining they stay so.
        let pieces = image.pieces();
        assert!(pieces.iter().all(|p| displacement(&p.code, 8) == 87 - 12));
        assert_eq!(super::image(image.pieces(), image.targets().collect(), true), bytes);
        let unchained = Image::new(Box::new(super::image(pieces, Vec::new(), false)), 0).expect("an image");
        assert!((0..3).all(|i| unchained.connections(i).exits.iter().all(|x| x.1.is_none())));
    }

    #[test]
    fn anything_else_is_refused_or_harmless() {
        let (_, bytes) = sample();
        let read = |bytes: Vec<u8>| {
            let image = Image::new(Box::new(bytes), 0)?;
            let each =
                |i| (image.marks(i).count(), image.connections(i).exits.len(), image.holders(image.eip(i)).count());
            let all = (0..image.count()).map(each).map(|(a, b, c)| a + b + c).sum::<usize>();
            Some(all + image.pieces().len() + image.pages().map(|p| image.dependents(p).len()).sum::<usize>())
        };
        for n in (0..bytes.len()).step_by(61) {
            assert_eq!(read(bytes[..n].to_vec()), None, "cut at {n}");
        }
        // Everything before the code.
        for i in 0..500 {
            for b in [0, 1, 0x7f, 0x80, 0xff] {
                let mut wrong = bytes.clone();
                wrong[i] = b;
                read(wrong);
            }
        }
    }
}
