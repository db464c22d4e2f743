//! Multiplication and division.

use crate::ctx::{Ctx, Exec};
use crate::flags::when;
use crate::op::{Op, Operand};
use crate::table::{Row, all, widths};
use crate::width::Width;
use iced_x86::Mnemonic::*;
use xlat86_arch::Fault;
use xlat86_arch::eflags::{AF, CF, OF, PF, SF, ZF};

impl Ctx<'_> {
    /// The double-width accumulator: AX, DX:AX or EDX:EAX.
    fn wide_acc<T: Width>(&self) -> u64 {
        match T::BITS {
            8 => self.gpr::<u16>(0).into(),
            _ => u64::from(self.gpr::<T>(2)) << T::BITS | u64::from(self.gpr::<T>(0)),
        }
    }

    fn set_wide_acc<T: Width>(&mut self, low: u32, high: u32) {
        if T::BITS == 8 {
            self.set_gpr::<u16>(0, high << 8 | low & 0xff);
        } else {
            self.set_gpr::<T>(0, low);
            self.set_gpr::<T>(2, high);
        }
    }

    /// CF and OF: the product doesn't fit its low half. The others are undefined; silicon leaves them.
    fn set_product_flags(&mut self, overflow: bool) {
        self.set_flags(CF | OF, when(overflow, CF | OF));
    }
}

fn mul<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.get::<T>(op, op.a)?;
    let p = u64::from(ctx.gpr::<T>(0)) * u64::from(b);
    let high = (p >> T::BITS) as u32;
    ctx.set_wide_acc::<T>(p as u32, high);
    ctx.set_product_flags(high != 0);
    Ok(())
}

/// One operand: into the double-width accumulator. Two: destination times source. Three: second times third.
fn imul<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let (x, y) = match (op.b, op.c) {
        (Operand::None, _) => (ctx.gpr::<T>(0), ctx.get::<T>(op, op.a)?),
        (b, Operand::None) => (ctx.get::<T>(op, op.a)?, ctx.get::<T>(op, b)?),
        (b, c) => (ctx.get::<T>(op, b)?, ctx.get::<T>(op, c)?),
    };
    let p = i64::from(T::signed(x)) * i64::from(T::signed(y));
    if op.b == Operand::None {
        ctx.set_wide_acc::<T>(p as u32, (p >> T::BITS) as u32);
    } else {
        ctx.set::<T>(op, op.a, p as u32)?;
    }
    ctx.set_product_flags(p != i64::from(T::signed(p as u32)));
    Ok(())
}

/// All flags are undefined after a division. AMD's leave CF and OF, clear SF, ZF and PF and set AF.
fn set_quotient_flags(ctx: &mut Ctx<'_>) {
    ctx.set_flags(SF | ZF | AF | PF, AF);
}

fn div<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = u64::from(ctx.get::<T>(op, op.a)?);
    let a = ctx.wide_acc::<T>();
    let quotient = a.checked_div(b).filter(|&q| q <= T::MASK.into()).ok_or(Fault::de())?;
    ctx.set_wide_acc::<T>(quotient as u32, (a % b) as u32);
    set_quotient_flags(ctx);
    Ok(())
}

fn idiv<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = i64::from(T::signed(ctx.get::<T>(op, op.a)?));
    let unused = 64 - 2 * T::BITS;
    let a = (ctx.wide_acc::<T>() << unused) as i64 >> unused;
    let fits = |q: &i64| *q == i64::from(T::signed(*q as u32));
    let quotient = a.checked_div(b).filter(fits).ok_or(Fault::de())?;
    ctx.set_wide_acc::<T>(quotient as u32, a.wrapping_rem(b) as u32);
    set_quotient_flags(ctx);
    Ok(())
}

pub(crate) const ROWS: &[Row] =
    &[all(Mul, widths!(mul)), all(Imul, widths!(imul)), all(Div, widths!(div)), all(Idiv, widths!(idiv))];
