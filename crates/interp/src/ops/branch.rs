//! Near jumps, calls and returns, LOOP, JCXZ; and what else tests a condition: SETcc and CMOVcc.

use crate::ctx::{Ctx, Exec};
use crate::flags::condition;
use crate::op::Op;
use crate::table::{Row, all, any, one, wide};
use crate::width::Width;
use iced_x86::{Code, Mnemonic::*};
use xlat86_arch::{Fault, Reg, Seg, eflags::ZF};

impl Ctx<'_> {
    /// Continues at offset `to` in CS, which must be within its limit (#GP(0) at the branch, not at the target).
    #[inline(always)]
    pub(crate) fn jump<T: Width>(&mut self, to: u32) -> Result<(), Fault> {
        let to = to & T::MASK;
        if to > self.cpu.segment(Seg::Cs).limit {
            return Err(Fault::gp(0));
        }
        self.cpu.eip = to;
        Ok(())
    }
}

fn jmp<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let to = ctx.get::<T>(op, op.a)?;
    Ok(ctx.jump::<T>(to)?)
}

fn call<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let to = ctx.get::<T>(op, op.a)?;
    let mut stack = ctx.stack();
    stack.push::<T>(ctx, op.next)?;
    ctx.jump::<T>(to)?;
    ctx.commit(stack);
    Ok(())
}

fn ret<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let mut stack = ctx.stack();
    let to = stack.pop::<T>(ctx)?;
    ctx.jump::<T>(to)?;
    stack.add(ctx, op.imm & 0xffff);
    ctx.commit(stack);
    Ok(())
}

fn jcc<const CC: u8, T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    if condition(CC, ctx.cpu.eflags) { Ok(ctx.jump::<T>(op.imm)?) } else { Ok(()) }
}

fn setcc<const CC: u8>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.set::<u8>(op, op.a, condition(CC, ctx.cpu.eflags).into())
}

/// The source is read whether or not the condition holds.
fn cmovcc<const CC: u8, T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = ctx.get::<T>(op, op.b)?;
    if condition(CC, ctx.cpu.eflags) { ctx.set::<T>(op, op.a, v) } else { Ok(()) }
}

/// CX or ECX, by address size.
fn counter(ctx: &Ctx<'_>, op: &Op) -> u32 {
    let cx = ctx.cpu.reg(Reg::Ecx);
    if op.mem.addr16 { cx & 0xffff } else { cx }
}

fn loop_if<T: Width>(ctx: &mut Ctx<'_>, op: &Op, more: bool) -> Exec {
    let left = counter(ctx, op).wrapping_sub(1);
    let taken = more && if op.mem.addr16 { left & 0xffff != 0 } else { left != 0 };
    if taken {
        ctx.jump::<T>(op.imm)?;
    }
    if op.mem.addr16 {
        ctx.set_gpr::<u16>(1, left)
    } else {
        ctx.set_gpr::<u32>(1, left)
    }
    Ok(())
}

fn r#loop<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    loop_if::<T>(ctx, op, true)
}

fn loope<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    loop_if::<T>(ctx, op, ctx.flag(ZF))
}

fn loopne<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    loop_if::<T>(ctx, op, !ctx.flag(ZF))
}

fn jcxz<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    if counter(ctx, op) == 0 { Ok(ctx.jump::<T>(op.imm)?) } else { Ok(()) }
}

/// The three rows of condition `$cc`.
macro_rules! conditions {
    ($($cc:literal $j:ident $set:ident $cmov:ident;)*) => { &[$(
        all($j, $crate::table::Meaning::ByWidth([None, Some(jcc::<$cc, u16>), Some(jcc::<$cc, u32>)])),
        all($set, any(setcc::<$cc>)),
        all($cmov, $crate::table::Meaning::ByWidth([None, Some(cmovcc::<$cc, u16>), Some(cmovcc::<$cc, u32>)])),
    )*] };
}

#[rustfmt::skip]
pub(crate) const CONDITIONS: &[Row] = conditions! {
    0 Jo Seto Cmovo;    1 Jno Setno Cmovno;
    2 Jb Setb Cmovb;    3 Jae Setae Cmovae;
    4 Je Sete Cmove;    5 Jne Setne Cmovne;
    6 Jbe Setbe Cmovbe; 7 Ja Seta Cmova;
    8 Js Sets Cmovs;    9 Jns Setns Cmovns;
    10 Jp Setp Cmovp;   11 Jnp Setnp Cmovnp;
    12 Jl Setl Cmovl;   13 Jge Setge Cmovge;
    14 Jle Setle Cmovle; 15 Jg Setg Cmovg;
};

pub(crate) const ROWS: &[Row] = &[
    one(Code::Jmp_rel8_16, any(jmp::<u16>)),
    one(Code::Jmp_rel8_32, any(jmp::<u32>)),
    one(Code::Jmp_rel16, any(jmp::<u16>)),
    one(Code::Jmp_rel32_32, any(jmp::<u32>)),
    one(Code::Jmp_rm16, any(jmp::<u16>)),
    one(Code::Jmp_rm32, any(jmp::<u32>)),
    one(Code::Call_rel16, any(call::<u16>)),
    one(Code::Call_rel32_32, any(call::<u32>)),
    one(Code::Call_rm16, any(call::<u16>)),
    one(Code::Call_rm32, any(call::<u32>)),
    all(Ret, wide!(ret)),
    all(Loop, wide!(r#loop)),
    all(Loope, wide!(loope)),
    all(Loopne, wide!(loopne)),
    all(Jcxz, wide!(jcxz)),
    all(Jecxz, wide!(jcxz)),
];
