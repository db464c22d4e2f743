//! Single bits, bit scans, population count, CRC32, CMPXCHG8B.

use crate::ctx::{Ctx, Exec};
use crate::flags::{parity, when};
use crate::memory::Access;
use crate::op::{Op, Operand};
use crate::table::{Row, all, any, one, wide};
use crate::width::Width;
use iced_x86::{Code, Mnemonic::*};
use xlat86_arch::Fault;
use xlat86_arch::eflags::{CF, STATUS, ZF};

/// BT, BTS, BTR and BTC. In memory a bit offset in a register reaches any bit within 2 GB of the operand, by steps of
/// the operand's size (SDM vol. 2A, BT).
fn bit<T: Width>(ctx: &mut Ctx<'_>, op: &Op, change: Option<fn(u32, u32) -> u32>) -> Exec {
    let index = ctx.get::<T>(op, op.b)?;
    let mask = 1 << (index % T::BITS);
    let old = if op.a == Operand::Mem {
        let step = if op.b == Operand::Imm { 0 } else { T::signed(index) >> T::BITS.trailing_zeros() };
        let at = ctx.address(op).wrapping_add((step as u32).wrapping_mul(T::SIZE as u32));
        let at = if op.mem.addr16 { at & 0xffff } else { at };
        match change {
            Some(f) => ctx.update_at::<T>(op, op.mem.seg, at, |a| f(a, mask))?.0,
            None => ctx.read::<T>(op.mem.seg, at)?.into(),
        }
    } else {
        match change {
            Some(f) => ctx.update::<T>(op, op.a, |a| f(a, mask))?.0,
            None => ctx.get::<T>(op, op.a)?,
        }
    };
    ctx.set_flags(CF, when(old & mask != 0, CF));
    Ok(())
}

fn bt<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    bit::<T>(ctx, op, None)
}
fn bts<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    bit::<T>(ctx, op, Some(|a, m| a | m))
}
fn btr<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    bit::<T>(ctx, op, Some(|a, m| a & !m))
}
fn btc<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    bit::<T>(ctx, op, Some(|a, m| a ^ m))
}

/// With a source of 0 the destination keeps its value, which Intel calls undefined and AMD guarantees. Flags other than
/// ZF are undefined; AMD's set PF by the result (of 0 with a source of 0) and clear the others.
fn scan<T: Width>(ctx: &mut Ctx<'_>, op: &Op, find: fn(u32) -> u32) -> Exec {
    let v = ctx.get::<T>(op, op.b)?;
    if v == 0 {
        ctx.set_status(ZF | parity(0));
        return Ok(());
    }
    let r = find(v);
    ctx.set::<T>(op, op.a, r)?;
    ctx.set_status(parity(r));
    Ok(())
}

fn bsf<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    scan::<T>(ctx, op, u32::trailing_zeros)
}

fn bsr<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    scan::<T>(ctx, op, |v| 31 - v.leading_zeros())
}

fn popcnt<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = ctx.get::<T>(op, op.b)?;
    ctx.set::<T>(op, op.a, v.count_ones())?;
    ctx.set_flags(STATUS, when(v == 0, ZF));
    Ok(())
}

/// CRC-32C (polynomial 11EDC6F41H, bits reflected) of the source, continuing from the destination.
fn crc32<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let mut crc = ctx.get::<u32>(op, op.a)? ^ ctx.get::<T>(op, op.b)?;
    for _ in 0..T::BITS {
        crc = crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
    }
    ctx.set::<u32>(op, op.a, crc)
}

/// Like CMPXCHG the destination is written either way.
fn cmpxchg8b(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let pair = |low: u8, high: u8| u64::from(ctx.gpr::<u32>(high)) << 32 | u64::from(ctx.gpr::<u32>(low));
    let (expected, new) = (pair(0, 2), pair(3, 1));
    let at = ctx.linear(op.mem.seg, ctx.address(op), 8, Access::Write)?;
    let mut old: u64 = ctx.read_to_update(at)?;
    loop {
        let put = if old == expected { new } else { old };
        let now = ctx.mmu.compare_exchange(at, old, put)?;
        if now == old {
            break;
        }
        old = now;
    }
    if old != expected {
        ctx.set_gpr::<u32>(0, old as u32);
        ctx.set_gpr::<u32>(2, (old >> 32) as u32);
    }
    ctx.set_flags(ZF, when(old == expected, ZF));
    Ok(())
}

/// BOUND: the index must lie within the two signed bounds in memory, ends included.
fn bound<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let index = T::signed(ctx.get::<T>(op, op.a)?);
    let at = ctx.address(op);
    let low = T::signed(ctx.read::<T>(op.mem.seg, at)?.into());
    let at = at.wrapping_add(T::SIZE as u32);
    let high = T::signed(ctx.read::<T>(op.mem.seg, if op.mem.addr16 { at & 0xffff } else { at })?.into());
    if index < low || index > high {
        return Err(Fault::simple(xlat86_arch::Vector::BR).into());
    }
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    all(Bt, wide!(bt)),
    all(Bts, wide!(bts)),
    all(Btr, wide!(btr)),
    all(Btc, wide!(btc)),
    all(Bsf, wide!(bsf)),
    all(Bsr, wide!(bsr)),
    all(Popcnt, wide!(popcnt)),
    one(Code::Crc32_r32_rm8, any(crc32::<u8>)),
    one(Code::Crc32_r32_rm16, any(crc32::<u16>)),
    one(Code::Crc32_r32_rm32, any(crc32::<u32>)),
    all(Cmpxchg8b, any(cmpxchg8b)),
    all(Bound, wide!(bound)),
];
