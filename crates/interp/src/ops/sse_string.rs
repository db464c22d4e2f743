//! SSE4.2 string comparison (SDM vol. 2B, 4.1).

use super::vector::{build, lane};
use crate::ctx::{Ctx, Exec};
use crate::op::{Op, Operand};
use crate::table::shapes;
use xlat86_arch::{Reg, eflags};

shapes!(STRING {
    Pcmpestri => compare(true, index);
    Pcmpestrm => compare(true, mask);
    Pcmpistri => compare(false, index);
    Pcmpistrm => compare(false, mask);
} codes {
});

/// A source operand: its elements, sign- or zero-extended, and how many of them are valid.
struct Text {
    elements: [i32; 16],
    valid: usize,
}

/// Elements per operand that control byte `imm` says.
fn count(imm: u8) -> usize {
    if imm & 1 == 0 { 16 } else { 8 }
}

impl Text {
    /// `length`: an explicit length register, of which the magnitude counts; without it the first zero element ends the
    /// text.
    fn new(v: u128, imm: u8, length: Option<u32>) -> Text {
        let n = count(imm);
        let mut elements = [0; 16];
        for (i, e) in elements.iter_mut().enumerate().take(n) {
            *e = match imm & 3 {
                0 => lane::<u8>(v, i).into(),
                1 => lane::<u16>(v, i).into(),
                2 => lane::<i8>(v, i).into(),
                _ => lane::<i16>(v, i).into(),
            };
        }
        let valid = match length {
            Some(l) => (l as i32).unsigned_abs().min(n as u32) as usize,
            None => elements[..n].iter().position(|&e| e == 0).unwrap_or(n),
        };
        Text { elements, valid }
    }
}

/// Bit `j`: the comparison holds at element `j` of `b` (IntRes2: polarity applied).
fn aggregate(a: &Text, b: &Text, imm: u8) -> u32 {
    let n = count(imm);
    let set = &a.elements[..a.valid];
    let holds = |j: usize| match imm >> 2 & 3 {
        0 => j < b.valid && set.contains(&b.elements[j]),
        1 => j < b.valid && set.chunks_exact(2).any(|r| r[0] <= b.elements[j] && b.elements[j] <= r[1]),
        2 => match (j < a.valid, j < b.valid) {
            (true, true) => a.elements[j] == b.elements[j],
            (x, y) => x == y,
        },
        _ => (0..n - j).all(|i| i >= a.valid || (i + j < b.valid && a.elements[i] == b.elements[i + j])),
    };
    let result = (0..n).fold(0, |r, j| r | u32::from(holds(j)) << j);
    let inverted = match imm >> 4 & 3 {
        1 => (1 << n) - 1,
        3 => (1 << b.valid) - 1,
        _ => 0,
    };
    result ^ inverted
}

fn compare(ctx: &mut Ctx<'_>, op: &Op, explicit: bool, deliver: fn(&mut Ctx<'_>, u32, u8)) -> Exec {
    // The one family whose memory operand need not be aligned.
    let vb = match op.b {
        Operand::Mem => ctx.load128(op, false)?,
        b => ctx.vector(b),
    };
    let imm = op.imm as u8;
    let length = |r| explicit.then(|| ctx.cpu.reg(r));
    let a = Text::new(ctx.vector(op.a), imm, length(Reg::Eax));
    let b = Text::new(vb, imm, length(Reg::Edx));
    let result = aggregate(&a, &b, imm);
    let flag = |bit, set| if set { bit } else { 0 };
    ctx.set_status(
        flag(eflags::CF, result != 0)
            | flag(eflags::ZF, b.valid < count(imm))
            | flag(eflags::SF, a.valid < count(imm))
            | flag(eflags::OF, result & 1 == 1),
    );
    deliver(ctx, result, imm);
    Ok(())
}

/// ECX receives the index of the lowest or highest set bit, or the element count.
fn index(ctx: &mut Ctx<'_>, result: u32, imm: u8) {
    let at = match (result, imm & 0x40) {
        (0, _) => count(imm) as u32,
        (r, 0) => r.trailing_zeros(),
        (r, _) => 31 - r.leading_zeros(),
    };
    ctx.cpu.set_reg(Reg::Ecx, at);
}

/// XMM0 receives the bits, each widened to an element when the immediate says so.
fn mask(ctx: &mut Ctx<'_>, result: u32, imm: u8) {
    let bit = |i| result >> i & 1 == 1;
    ctx.cpu.fx.xmm[0] = match (imm & 0x40, imm & 1) {
        (0, _) => result.into(),
        (_, 0) => build(16, |i| if bit(i) { u8::MAX } else { 0 }),
        _ => build(8, |i| if bit(i) { u16::MAX } else { 0 }),
    };
}
