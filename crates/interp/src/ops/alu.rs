//! Addition, subtraction, comparison, logic.

use crate::ctx::{Ctx, Exec};
use crate::flags;
use crate::op::Op;
use crate::table::{Row, all, widths};
use crate::width::Width;
use iced_x86::Mnemonic::*;
use xlat86_arch::eflags::{CF, STATUS};

fn add<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.get::<T>(op, op.b)?;
    let (a, r) = ctx.update::<T>(op, op.a, |a| a.wrapping_add(b))?;
    ctx.set_status(flags::add::<T>(a, b, r));
    Ok(())
}

fn adc<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.get::<T>(op, op.b)?;
    let carry = ctx.cpu.eflags & CF;
    let (a, r) = ctx.update::<T>(op, op.a, |a| a.wrapping_add(b).wrapping_add(carry))?;
    ctx.set_status(flags::add::<T>(a, b, r));
    Ok(())
}

fn sub<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.get::<T>(op, op.b)?;
    let (a, r) = ctx.update::<T>(op, op.a, |a| a.wrapping_sub(b))?;
    ctx.set_status(flags::sub::<T>(a, b, r));
    Ok(())
}

fn sbb<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.get::<T>(op, op.b)?;
    let borrow = ctx.cpu.eflags & CF;
    let (a, r) = ctx.update::<T>(op, op.a, |a| a.wrapping_sub(b).wrapping_sub(borrow))?;
    ctx.set_status(flags::sub::<T>(a, b, r));
    Ok(())
}

fn cmp<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let a = ctx.get::<T>(op, op.a)?;
    let b = ctx.get::<T>(op, op.b)?;
    ctx.set_status(flags::sub::<T>(a, b, a.wrapping_sub(b) & T::MASK));
    Ok(())
}

fn neg<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let (a, r) = ctx.update::<T>(op, op.a, u32::wrapping_neg)?;
    ctx.set_status(flags::sub::<T>(0, a, r));
    Ok(())
}

/// INC and DEC leave CF alone.
fn inc<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let (a, r) = ctx.update::<T>(op, op.a, |a| a.wrapping_add(1))?;
    ctx.set_flags(STATUS & !CF, flags::add::<T>(a, 1, r));
    Ok(())
}

fn dec<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let (a, r) = ctx.update::<T>(op, op.a, |a| a.wrapping_sub(1))?;
    ctx.set_flags(STATUS & !CF, flags::sub::<T>(a, 1, r));
    Ok(())
}

fn not<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.update::<T>(op, op.a, |a| !a)?;
    Ok(())
}

/// AF is undefined after AND, OR, XOR and TEST; silicon clears it.
fn and<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.get::<T>(op, op.b)?;
    let (_, r) = ctx.update::<T>(op, op.a, |a| a & b)?;
    ctx.set_status(flags::szp::<T>(r));
    Ok(())
}

fn or<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.get::<T>(op, op.b)?;
    let (_, r) = ctx.update::<T>(op, op.a, |a| a | b)?;
    ctx.set_status(flags::szp::<T>(r));
    Ok(())
}

fn xor<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.get::<T>(op, op.b)?;
    let (_, r) = ctx.update::<T>(op, op.a, |a| a ^ b)?;
    ctx.set_status(flags::szp::<T>(r));
    Ok(())
}

fn test<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let r = ctx.get::<T>(op, op.a)? & ctx.get::<T>(op, op.b)?;
    ctx.set_status(flags::szp::<T>(r));
    Ok(())
}

/// Exchange and add: the source register receives the old destination. It is written first, so that with both
/// operands the same register the sum remains.
fn xadd<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.get::<T>(op, op.b)?;
    let (a, r) = ctx.update::<T>(op, op.a, |a| a.wrapping_add(b))?;
    ctx.set::<T>(op, op.b, a)?;
    if op.a == op.b {
        ctx.set::<T>(op, op.a, r)?;
    }
    ctx.set_status(flags::add::<T>(a, b, r));
    Ok(())
}

/// Compares the accumulator with the destination. On a mismatch the destination is written too, with itself: it must
/// be writable either way (SDM vol. 2A, CMPXCHG).
fn cmpxchg<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let acc = ctx.gpr::<T>(0);
    let new = ctx.get::<T>(op, op.b)?;
    let (old, _) = ctx.update::<T>(op, op.a, |old| if old == acc { new } else { old })?;
    if old != acc {
        ctx.set_gpr::<T>(0, old);
    }
    ctx.set_status(flags::sub::<T>(acc, old, acc.wrapping_sub(old) & T::MASK));
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    all(Add, widths!(add)),
    all(Adc, widths!(adc)),
    all(Sub, widths!(sub)),
    all(Sbb, widths!(sbb)),
    all(Cmp, widths!(cmp)),
    all(Neg, widths!(neg)),
    all(Inc, widths!(inc)),
    all(Dec, widths!(dec)),
    all(Not, widths!(not)),
    all(And, widths!(and)),
    all(Or, widths!(or)),
    all(Xor, widths!(xor)),
    all(Test, widths!(test)),
    all(Xadd, widths!(xadd)),
    all(Cmpxchg, widths!(cmpxchg)),
];
