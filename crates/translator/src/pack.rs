//! Units as bytes, to be kept from one run to the next.
//!
//! A unit's code depends on where the guest code is and on the translator's settings, not on where it is placed, so it can be used again as it is.
//! Unpacking never panics; what it gives is only as good as what was packed, so whoever keeps the bytes has to keep them safe.

use crate::stubs::Stub;
use crate::unit::{Exit, ExitKind, Fix, Landing, Mark, Unit};

/// A unit and the numbers of the guest pages that it depends on.
pub type Placed = (Unit, Vec<u32>);

const STUBS: [Stub; 3] = [Stub::Miss, Stub::Mismatch, Stub::Sentinel];

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

/// Appends `unit`, which doesn't check itself and depends on the guest pages `pages`. Its code is `code`, all jumps out of it unchained.
pub(crate) fn pack(unit: &Unit, code: &[u8], pages: &[u32], out: &mut Vec<u8>) {
    for v in [unit.eip, unit.len, unit.insns, unit.body, code.len() as u32] {
        put(out, v);
    }
    out.extend_from_slice(code);
    put(out, unit.marks.len() as u32);
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
    put(out, unit.exits.len() as u32);
    for x in &unit.exits {
        let (tag, a, b) = match x.kind {
            ExitKind::Interpret => (0, 0, 0),
            ExitKind::SoftInt { vector, next } => (1, u32::from(vector), next),
            ExitKind::Link { target, patch } => (2, target, patch),
            ExitKind::Changed => unreachable!("a unit that checks itself isn't kept"),
        };
        out.push(tag);
        for v in [x.site, x.eip.wrapping_sub(unit.eip), a, b] {
            put(out, v);
        }
    }
    put(out, unit.landings.len() as u32);
    for l in &unit.landings {
        put(out, l.at);
        out.extend_from_slice(&l.dead);
    }
    put(out, unit.fixups.len() as u32);
    for (at, stub) in &unit.fixups {
        put(out, *at);
        out.push(*stub as u8);
    }
    put(out, pages.len() as u32);
    pages.iter().for_each(|&p| put(out, p));
}

fn unpack_one(r: &mut Reader<'_>) -> Option<Placed> {
    let (eip, len, insns, body) = (r.get()?, r.get()?, r.get()?, r.get()?);
    let size = r.get()?;
    let code = r.bytes(size as usize)?.to_vec();
    let (mut host, mut at) = (0u32, eip);
    let marks = r.list(|r| {
        let flags = r.byte()?;
        host = host.checked_add(r.get()?)?;
        at = at.wrapping_add(r.get()?);
        let esp = if flags & ESP != 0 { r.get()? } else { 0 };
        let esp = (esp >> 1) as i32 ^ -((esp & 1) as i32);
        let swapped = if flags & SWAPPED != 0 { Some(r.byte()? & 3) } else { None };
        let fix = Fix { esp, swapped };
        let mark = Mark { host, eip: at, fix, boundary: flags & BOUNDARY != 0, exact: flags & EXACT != 0 };
        (host < size).then_some(mark)
    })?;
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
    let landings = r.list(|r| {
        let at = r.get()?;
        let dead = r.bytes(2)?.try_into().ok()?;
        (at % 8 <= 6 && at.checked_add(2)? <= size).then_some(Landing { at, dead })
    })?;
    let fixups = r.list(|r| {
        let at = r.get()?;
        let stub = *STUBS.get(usize::from(r.byte()?))?;
        (at.checked_add(4)? <= size).then_some((at, stub))
    })?;
    let pages = r.list(Reader::get)?;
    Some((Unit { eip, len, insns, code, body, marks, exits, landings, fixups, snapshot: None }, pages))
}

/// The units that were packed into `bytes`; `None` if they aren't such.
#[must_use]
pub fn unpack(bytes: &[u8]) -> Option<Vec<Placed>> {
    let mut r = Reader(bytes);
    let mut units = Vec::new();
    while !r.0.is_empty() {
        units.push(unpack_one(&mut r)?);
    }
    Some(units)
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
                Mark { host: 3, eip: 0x1002, fix: Fix { esp: -4, swapped: None }, exact: false, ..mark },
                Mark {
                    host: 50,
                    eip: 0x1002,
                    fix: Fix { esp: 0x7000_0000, swapped: Some(3) },
                    boundary: false,
                    ..mark
                },
            ],
            exits: vec![
                Exit { site: 20, eip: 0x1002, kind: ExitKind::SoftInt { vector: 0x80, next: 0x1007 } },
                Exit { site: 64, eip: 0x1000, kind: ExitKind::Interpret },
                Exit { site: 90, eip: 0x1002, kind: ExitKind::Link { target: 0xffff_0000, patch: 8 } },
            ],
            landings: vec![Landing { at: 70, dead: [0x90, 0xe9] }],
            fixups: vec![(72, Stub::Mismatch), (80, Stub::Sentinel)],
            snapshot: None,
        }
    }

    #[test]
    fn what_was_packed_comes_out_again() {
        let (unit, pages) = (sample(), vec![1, 0xf_ffff]);
        let mut bytes = Vec::new();
        pack(&unit, &unit.code, &pages, &mut bytes);
        pack(&unit, &unit.code, &[], &mut bytes);
        let back = unpack(&bytes).expect("two units");
        assert_eq!(back.len(), 2);
        assert_eq!(back[0].1, pages);
        assert_eq!(format!("{:?}", back[1].0), format!("{unit:?}"));
    }

    #[test]
    fn anything_else_is_refused_or_harmless() {
        let unit = sample();
        let mut bytes = Vec::new();
        pack(&unit, &unit.code, &[1], &mut bytes);
        for n in 1..bytes.len() {
            assert!(unpack(&bytes[..n]).is_none(), "cut at {n}");
        }
        for i in 0..bytes.len() {
            for b in [0, 0x7f, 0x80, 0xff] {
                let mut wrong = bytes.clone();
                wrong[i] = b;
                let _ = unpack(&wrong);
            }
        }
    }
}
