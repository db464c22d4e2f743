//! PUSH and POP of everything but segment registers, PUSHA and POPA, ENTER and LEAVE.

use crate::ctx::{Ctx, Exec};
use crate::op::{Op, Operand};
use crate::table::{Row, all, any, one, wide};
use crate::width::Width;
use iced_x86::{Code, Mnemonic::*};
use xlat86_arch::{Gva, Reg, Seg};

fn push<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = ctx.get::<T>(op, op.a)?;
    Ok(ctx.push::<T>(v)?)
}

/// A memory operand based on ESP uses its value after the pop (SDM vol. 2B, POP). POP ESP keeps the popped value.
fn pop<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let before = ctx.stack();
    let mut stack = before;
    let v = stack.pop::<T>(ctx)?;
    ctx.commit(stack);
    if op.a == Operand::Mem
        && let Err(stop) = ctx.set::<T>(op, op.a, v)
    {
        ctx.commit(before);
        return Err(stop);
    }
    if op.a != Operand::Mem { ctx.set::<T>(op, op.a, v) } else { Ok(()) }
}

/// Linear address of the lowest of `n` bytes to be pushed.
fn stack_bytes(ctx: &Ctx<'_>, n: u32) -> Gva {
    let offset = ctx.cpu.reg(Reg::Esp).wrapping_sub(n) & ctx.stack_mask;
    Gva(ctx.cpu.segment(Seg::Ss).base.wrapping_add(offset))
}

fn pusha<T: Width>(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    let mut stack = ctx.stack();
    let size = 8 * T::SIZE as u32;
    ctx.mmu.probe_guard(stack_bytes(ctx, size), size)?;
    for r in 0..8 {
        stack.push::<T>(ctx, ctx.cpu.gpr[r])?;
    }
    ctx.commit(stack);
    Ok(())
}

/// The saved stack pointer is skipped.
fn popa<T: Width>(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    let mut stack = ctx.stack();
    let mut v = [0; 8];
    for r in (0..8).rev() {
        v[r] = stack.pop::<T>(ctx)?;
    }
    for r in (0..8u8).filter(|&r| r != Reg::Esp as u8) {
        ctx.set_gpr::<T>(r, v[r as usize]);
    }
    ctx.commit(stack);
    Ok(())
}

/// SDM vol. 2A, ENTER. The frame pointers of the enclosing levels are copied from below the old EBP; the new stack
/// top must be writable, or nothing happens.
fn enter<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let level = op.imm2 & 31;
    let size = T::SIZE as u32 * (u32::from(level) + 1) + (op.imm & 0xffff);
    for at in [stack_bytes(ctx, T::SIZE as u32), stack_bytes(ctx, size)] {
        ctx.mmu.probe_guard(at, T::SIZE as u32)?;
    }
    let mut stack = ctx.stack();
    let mut ebp = ctx.cpu.reg(Reg::Ebp);
    stack.push::<T>(ctx, ebp)?;
    let frame = stack.esp;
    for _ in 1..level {
        ebp = ebp & !ctx.stack_mask | ebp.wrapping_sub(T::SIZE as u32) & ctx.stack_mask;
        let v: T = ctx.read(Seg::Ss, ebp & ctx.stack_mask)?;
        stack.push::<T>(ctx, v.into())?;
    }
    if level > 0 {
        stack.push::<T>(ctx, frame)?;
    }
    stack.add(ctx, (op.imm & 0xffff).wrapping_neg());
    let at = ctx.linear(Seg::Ss, stack.esp & ctx.stack_mask, T::SIZE as u32, crate::memory::Access::Write)?;
    ctx.mmu.probe_write(at, T::SIZE as u32)?;
    ctx.set_gpr::<T>(Reg::Ebp as u8, frame);
    ctx.commit(stack);
    Ok(())
}

fn leave<T: Width>(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    let mut stack = ctx.stack();
    stack.esp = stack.esp & !ctx.stack_mask | ctx.cpu.reg(Reg::Ebp) & ctx.stack_mask;
    let v = stack.pop::<T>(ctx)?;
    ctx.commit(stack);
    ctx.set_gpr::<T>(Reg::Ebp as u8, v);
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    all(Push, wide!(push)),
    one(Code::Push_imm16, any(push::<u16>)),
    one(Code::Pushw_imm8, any(push::<u16>)),
    one(Code::Pushd_imm32, any(push::<u32>)),
    one(Code::Pushd_imm8, any(push::<u32>)),
    all(Pop, wide!(pop)),
    all(Pusha, any(pusha::<u16>)),
    all(Pushad, any(pusha::<u32>)),
    all(Popa, any(popa::<u16>)),
    all(Popad, any(popa::<u32>)),
    all(Enter, wide!(enter)),
    all(Leave, wide!(leave)),
];
