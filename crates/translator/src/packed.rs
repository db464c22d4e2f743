//! What is known of units, in few bytes: numbers, exits and marks.
//!
//! Reading never panics, whatever the bytes are.

use crate::stubs;
use crate::unit::{self, Exit, ExitKind, Fix, Mark};

/// Mark flags.
const BOUNDARY: u8 = 1;
const EXACT: u8 = 2;
const ESP: u8 = 4;
const SWAPPED: u8 = 8;
const PINNED: u8 = 16;
const SHADOW: u8 = 32;
const CLOBBERS: u8 = 64;

/// Appends `v`, seven bits a byte.
pub(crate) fn put(out: &mut Vec<u8>, mut v: u32) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Appends how many `items` there are, and each of them.
pub(crate) fn put_list<T>(out: &mut Vec<u8>, items: &[T], mut one: impl FnMut(&mut Vec<u8>, &T)) {
    put(out, items.len() as u32);
    items.iter().for_each(|i| one(out, i));
}

/// Bytes still to be read.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `n`.
    pub(crate) fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    /// The next one.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|b| b[0])
    }

    /// A number.
    pub(crate) fn get(&mut self) -> Option<u32> {
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

    /// A list; each item takes a byte at least, which bounds what a wrong count can ask for.
    pub(crate) fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
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

/// Appends `exit` of the unit at `unit`.
pub(crate) fn put_exit(out: &mut Vec<u8>, exit: &Exit, unit: u32) {
    let (tag, a, b) = match exit.kind {
        ExitKind::Interpret => (0, 0, 0),
        ExitKind::SoftInt { vector, next } => (1, u32::from(vector), next),
        ExitKind::Link { target, patch } => (2, target, patch),
        _ => unreachable!("such units aren't kept"),
    };
    out.push(tag);
    for v in [exit.site, exit.eip.wrapping_sub(unit), a, b] {
        put(out, v);
    }
}

/// An exit of the unit at `unit` with `size` bytes of code.
pub(crate) fn get_exit(r: &mut Reader<'_>, unit: u32, size: u32) -> Option<Exit> {
    let tag = r.byte()?;
    let (site, from, a, b) = (r.get()?, r.get()?, r.get()?, r.get()?);
    let kind = match tag {
        0 => ExitKind::Interpret,
        1 => ExitKind::SoftInt { vector: a as u8, next: b },
        2 if b % 8 <= 4 && b.checked_add(4)? <= size => ExitKind::Link { target: a, patch: b },
        _ => return None,
    };
    (stubs::LEAVE_SIZE..=size).contains(&site).then_some(Exit { site, eip: unit.wrapping_add(from), kind })
}

/// Appends the marks of the unit at `unit`: three bytes each, as a rule.
pub(crate) fn put_marks(out: &mut Vec<u8>, marks: &[Mark], unit: u32) {
    let (mut host, mut eip) = (0, unit);
    for m in marks {
        let flag = |c: bool, f: u8| if c { f } else { 0 };
        out.push(
            flag(m.boundary, BOUNDARY)
                | flag(m.exact, EXACT)
                | flag(m.fix.esp != 0, ESP)
                | flag(m.fix.swapped.is_some(), SWAPPED)
                | flag(m.fix.pinned, PINNED)
                | flag(m.fix.shadow, SHADOW)
                | flag(m.clobbers, CLOBBERS),
        );
        match (m.host - host, m.eip.wrapping_sub(eip)) {
            (from @ 0..0x80, ahead @ 0..0x80) => out.extend_from_slice(&[from as u8, ahead as u8]),
            (from, ahead) => [from, ahead].into_iter().for_each(|v| put(out, v)),
        }
        (host, eip) = (m.host, m.eip);
        if m.fix.esp != 0 {
            put(out, (m.fix.esp << 1 ^ m.fix.esp >> 31) as u32);
        }
        out.extend(m.fix.swapped);
    }
}

/// The marks in `bytes`, in order.
pub(crate) fn marks(bytes: &[u8], unit: u32) -> impl Iterator<Item = Mark> + '_ {
    let mut r = Reader(bytes);
    let (mut host, mut eip) = (0u32, unit);
    core::iter::from_fn(move || {
        let flags = r.byte()?;
        host = host.checked_add(r.get()?)?;
        eip = eip.wrapping_add(r.get()?);
        let esp = if flags & ESP != 0 { r.get()? } else { 0 };
        let esp = (esp >> 1) as i32 ^ -((esp & 1) as i32);
        let swapped = if flags & SWAPPED != 0 { Some(r.byte()? & 3) } else { None };
        let fix = Fix { esp, swapped, pinned: flags & PINNED != 0, shadow: flags & SHADOW != 0 };
        let (boundary, exact, clobbers) = (flags & BOUNDARY != 0, flags & EXACT != 0, flags & CLOBBERS != 0);
        Some(Mark { host, eip, fix, boundary, exact, clobbers })
    })
}

/// Offset of the code for the guest instruction at `eip` among `marks`, if it can be entered there.
pub(crate) fn entry(mut marks: impl Iterator<Item = Mark>, eip: u32) -> Option<u32> {
    unit::entry(&[marks.find(|m| m.eip >= eip)?], eip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back_as_they_were() {
        let (mut all, mut host, mut eip) = (Vec::new(), 0, 0xffff_fff0u32);
        for n in 0..4096u32 {
            let bit = |i: u32| n >> i & 1 != 0;
            let esp = [0, -4, 300, i32::MIN][(n >> 4 & 3) as usize];
            let fix = Fix { esp, swapped: bit(6).then_some((n >> 7 & 3) as u8), pinned: bit(2), shadow: bit(3) };
            all.push(Mark { host, eip, fix, boundary: bit(0), exact: bit(1), clobbers: bit(9) });
            host += n % 200;
            eip = eip.wrapping_add(n % 16);
        }
        let mut bytes = Vec::new();
        put_marks(&mut bytes, &all, 0xffff_fff0);
        assert_eq!(marks(&bytes, 0xffff_fff0).collect::<Vec<_>>(), all);
    }
}
