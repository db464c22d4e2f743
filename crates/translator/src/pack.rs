//! Units as bytes, to be kept from one run to the next.
//!
//! A unit's code depends on where the guest code is and on the translator's settings, not on where it is placed, so it can be used again as it is.
//! What is rarely asked for (marks, landings) is read from the bytes when it is. Reading never panics; what it gives is only as good as
//! what was packed, so whoever keeps the bytes has to keep them safe.

use crate::unit::{Exit, ExitKind, Fix, Mark, Unit};
use std::ops::Range;
use std::sync::Arc;

/// Mark flags.
const BOUNDARY: u8 = 1;
const EXACT: u8 = 2;
const ESP: u8 = 4;
const SWAPPED: u8 = 8;

/// Appends `v`, seven bits a byte.
fn put(out: &mut Vec<u8>, mut v: u32) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Bytes still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|b| b[0])
    }

    fn get(&mut self) -> Option<u32> {
        let mut v = 0;
        for shift in (0..35).step_by(7) {
            let b = self.byte()?;
            v |= u32::from(b & 0x7f).checked_shl(shift)?;
            if b & 0x80 == 0 {
                return Some(v);
            }
        }
        None
    }

    /// `count` items; each takes a byte at least, which bounds what a wrong count can ask for.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.get()? as usize;
        if count > self.0.len() {
            return None;
        }
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(item(self)?);
        }
        Some(list)
    }
}

/// Appends `unit`, which doesn't check itself and depends on the guest pages `pages`. Its code is `code`, all jumps out of it unchained,
/// and its exits are `exits`.
pub(crate) fn pack(unit: &Unit, code: &[u8], exits: &[Exit], pages: &[u32], out: &mut Vec<u8>) {
    let mut one = Vec::with_capacity(code.len() * 2);
    for v in [unit.eip, unit.len, code.len() as u32] {
        put(&mut one, v);
    }
    one.extend_from_slice(code);
    let mut bits = vec![0; code.len().div_ceil(8)];
    for m in unit.marks.iter().filter(|m| m.boundary && m.exact) {
        bits[m.host as usize / 8] |= 1 << (m.host % 8);
    }
    one.extend(bits);
    put(&mut one, pages.len() as u32);
    pages.iter().for_each(|&p| put(&mut one, p));
    put(&mut one, exits.len() as u32);
    for x in exits {
        let (tag, a, b) = match x.kind {
            ExitKind::Interpret => (0, 0, 0),
            ExitKind::SoftInt { vector, next } => (1, u32::from(vector), next),
            ExitKind::Link { target, patch } => (2, target, patch),
            _ => unreachable!("such units aren't kept"),
        };
        one.push(tag);
        for v in [x.site, x.eip.wrapping_sub(unit.eip), a, b] {
            put(&mut one, v);
        }
    }
    let mut marks = Vec::new();
    pack_marks(unit, &mut marks);
    put(&mut one, marks.len() as u32);
    one.extend(marks);
    put(&mut one, unit.landings.len() as u32);
    unit.landings.iter().for_each(|&at| put(&mut one, at));
    put(out, one.len() as u32);
    out.extend(one);
}

fn pack_marks(unit: &Unit, out: &mut Vec<u8>) {
    let (mut host, mut eip) = (0, unit.eip);
    for m in &unit.marks {
        let flag = |c: bool, f: u8| if c { f } else { 0 };
        out.push(
            flag(m.boundary, BOUNDARY)
                | flag(m.exact, EXACT)
                | flag(m.fix.esp != 0, ESP)
                | flag(m.fix.swapped.is_some(), SWAPPED),
        );
        put(out, m.host - host);
        put(out, m.eip.wrapping_sub(eip));
        (host, eip) = (m.host, m.eip);
        if m.fix.esp != 0 {
            put(out, (m.fix.esp << 1 ^ m.fix.esp >> 31) as u32);
        }
        out.extend(m.fix.swapped);
    }
}

/// Bytes that many packed units share.
pub type Shared = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A packed unit, and what is needed of it at once.
pub(crate) struct Packed {
    pub(crate) eip: u32,
    pub(crate) len: u32,
    pub(crate) code: Range<usize>,
    pub(crate) bits: Range<usize>,
    pub(crate) pages: Vec<u32>,
    pub(crate) exits: Vec<Exit>,
    pub(crate) rest: Rest,
}

/// What is read when it is asked for.
pub(crate) struct Rest {
    bytes: Shared,
    eip: u32,
    /// The whole unit.
    all: Range<u32>,
    marks: Range<u32>,
}

/// The packed unit that begins at the start of `range` in `bytes`, and where the next one does.
pub(crate) fn unpack(bytes: &Shared, range: &Range<usize>) -> Option<(Packed, usize)> {
    let bytes_of = |r: &Range<usize>| (**bytes).as_ref().get(r.clone());
    let mut r = Reader(bytes_of(range)?);
    let left = |r: &Reader<'_>| range.end - r.0.len();
    let total = r.get()? as usize;
    let all = left(&r)..left(&r).checked_add(total)?;
    r = Reader(bytes_of(&all).filter(|_| all.end <= range.end)?);
    let at = |r: &Reader<'_>| all.end - r.0.len();
    let (eip, len, size) = (r.get()?, r.get()?, r.get()?);
    let code = at(&r)..at(&r) + r.bytes(size as usize)?.len();
    let bits = at(&r)..at(&r) + r.bytes(code.len().div_ceil(8))?.len();
    let pages = r.list(Reader::get)?;
    let exits = r.list(|r| {
        let tag = r.byte()?;
        let (site, from, a, b) = (r.get()?, r.get()?, r.get()?, r.get()?);
        let kind = match tag {
            0 => ExitKind::Interpret,
            1 => ExitKind::SoftInt { vector: a as u8, next: b },
            2 if b % 8 <= 4 && b.checked_add(4)? <= size => ExitKind::Link { target: a, patch: b },
            _ => return None,
        };
        (site <= size).then_some(Exit { site, eip: eip.wrapping_add(from), kind })
    })?;
    let marks = r.get()? as usize;
    let marks = at(&r) as u32..(at(&r) + r.bytes(marks)?.len()) as u32;
    let end = all.end;
    let rest = Rest { bytes: bytes.clone(), eip, all: all.start as u32..end as u32, marks };
    Some((Packed { eip, len, code, bits, pages, exits, rest }, end))
}

/// Appends what `rest` belongs to, as it was packed before.
pub(crate) fn again(rest: &Rest, out: &mut Vec<u8>) {
    put(out, rest.all.end - rest.all.start);
    out.extend_from_slice(rest.bytes(rest.all.clone()));
}

impl Rest {
    fn bytes(&self, range: Range<u32>) -> &[u8] {
        &(*self.bytes).as_ref()[range.start as usize..range.end as usize]
    }

    pub(crate) fn landings(&self) -> Vec<u32> {
        let mut r = Reader(self.bytes(self.marks.end..self.all.end));
        r.list(|r| r.get().filter(|at| at % 8 <= 3)).unwrap_or_default()
    }

    /// In order.
    pub(crate) fn marks(&self) -> impl Iterator<Item = Mark> + '_ {
        let mut r = Reader(self.bytes(self.marks.clone()));
        let (mut host, mut eip) = (0u32, self.eip);
        core::iter::from_fn(move || {
            let flags = r.byte()?;
            host = host.checked_add(r.get()?)?;
            eip = eip.wrapping_add(r.get()?);
            let esp = if flags & ESP != 0 { r.get()? } else { 0 };
            let esp = (esp >> 1) as i32 ^ -((esp & 1) as i32);
            let swapped = if flags & SWAPPED != 0 { Some(r.byte()? & 3) } else { None };
            // Kept units are of programs without page tables, whose marks are never pinned.
            let fix = Fix { esp, swapped, pinned: false };
            Some(Mark { host, eip, fix, boundary: flags & BOUNDARY != 0, exact: flags & EXACT != 0 })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Unit {
        let mark = Mark { host: 0, eip: 0x1000, fix: Fix::default(), boundary: true, exact: true };
        Unit {
            eip: 0x1000,
            len: 7,
            insns: 2,
            code: (0..90).collect(),
            body: 60,
            marks: vec![
                mark,
                Mark { host: 3, eip: 0x1002, fix: Fix { esp: -4, swapped: None, pinned: false }, exact: false, ..mark },
                Mark {
                    host: 50,
                    eip: 0x1002,
                    fix: Fix { esp: 0x7000_0000, swapped: Some(3), pinned: false },
                    boundary: false,
                    ..mark
                },
            ],
            exits: vec![
                Exit { site: 20, eip: 0x1002, kind: ExitKind::SoftInt { vector: 0x80, next: 0x1007 } },
                Exit { site: 64, eip: 0x1000, kind: ExitKind::Interpret },
                Exit { site: 90, eip: 0x1002, kind: ExitKind::Link { target: 0xffff_0000, patch: 8 } },
            ],
            landings: vec![16, 71 - 5],
            snapshot: None,
            lined: false,
        }
    }

    #[test]
    fn what_was_packed_comes_out_again() {
        let (unit, pages) = (sample(), vec![1, 0xf_ffff]);
        let mut bytes = vec![0xaa; 5];
        pack(&unit, &unit.code, &unit.exits, &pages, &mut bytes);
        let second = bytes.len();
        pack(&unit, &unit.code, &unit.exits, &[], &mut bytes);
        let len = bytes.len();
        let shared: Shared = Arc::new(bytes.clone());
        let (p, next) = unpack(&shared, &(5..len)).expect("two units");
        assert_eq!((next, p.eip, p.len, &p.pages), (second, unit.eip, unit.len, &pages));
        assert_eq!(bytes[p.code], unit.code);
        assert_eq!(bytes[p.bits][0], 1);
        assert_eq!(p.exits, unit.exits);
        assert!(p.rest.marks().eq(unit.marks));
        assert_eq!(p.rest.landings(), unit.landings);
        assert_eq!(unpack(&shared, &(second..len)).expect("the second").1, len);
    }

    #[test]
    fn anything_else_is_refused_or_harmless() {
        let unit = sample();
        let mut bytes = Vec::new();
        pack(&unit, &unit.code, &unit.exits, &[1], &mut bytes);
        let read = |bytes: Vec<u8>| {
            let len = bytes.len();
            let shared: Shared = Arc::new(bytes);
            let (p, _) = unpack(&shared, &(0..len))?;
            Some(p.rest.marks().count() + p.rest.landings().len())
        };
        for n in 0..bytes.len() {
            assert_eq!(read(bytes[..n].to_vec()), None, "cut at {n}");
        }
        for i in 0..bytes.len() {
            for b in [0, 0x7f, 0x80, 0xff] {
                let mut wrong = bytes.clone();
                wrong[i] = b;
                read(wrong);
            }
        }
    }
}
