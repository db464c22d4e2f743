//! Instructions on EFLAGS itself.

use crate::ctx::{Ctx, Exec};
use crate::flags::when;
use crate::op::Op;
use crate::table::{Row, all, any};
use crate::width::Width;
use iced_x86::Mnemonic::*;
use xlat86_arch::eflags::*;
use xlat86_arch::{Fault, Mode};

impl Ctx<'_> {
    /// I/O privilege level.
    pub(super) fn iopl(&self) -> u8 {
        ((self.cpu.eflags & IOPL) >> IOPL_SHIFT) as u8
    }

    /// EFLAGS bits that POPF and IRET may change at this privilege level (SDM vol. 2B, POPF, table 4-21).
    pub(crate) fn writable_flags<T: Width>(&self) -> u32 {
        let base = STATUS | TF | DF | NT | AC | ID;
        let by_level = when(self.cpu.cpl <= self.iopl(), IF) | when(self.cpu.cpl == 0, IOPL);
        (base | by_level) & T::MASK
    }

    /// PUSHF, POPF, INT n, IRET, CLI and STI in virtual-8086 mode need IOPL 3 (without CR4.VME, which no model has).
    pub(crate) fn require_v86_iopl(&self) -> Exec {
        if self.mode.has(Mode::VM86) && self.iopl() < 3 { Err(Fault::gp(0).into()) } else { Ok(()) }
    }
}

fn pushf<T: Width>(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.require_v86_iopl()?;
    Ok(ctx.push::<T>(ctx.cpu.eflags & !(VM | RF))?)
}

fn popf<T: Width>(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.require_v86_iopl()?;
    let mut stack = ctx.stack();
    let v = stack.pop::<T>(ctx)?;
    let mask = ctx.writable_flags::<T>();
    ctx.commit(stack);
    ctx.set_flags(mask | RF & T::MASK, v & !RF);
    ctx.mode_changed();
    Ok(())
}

fn lahf(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    let ah = ctx.cpu.eflags & (SF | ZF | AF | PF | CF) | FIXED_1;
    ctx.set_gpr::<u16>(0, ah << 8 | ctx.gpr::<u8>(0));
    Ok(())
}

fn sahf(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.set_flags(SF | ZF | AF | PF | CF, ctx.gpr::<u16>(0) >> 8);
    Ok(())
}

/// SALC (undocumented by Intel until lately): AL becomes FFH or 0 by CF.
fn salc(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.set_gpr::<u8>(0, if ctx.flag(CF) { 0xff } else { 0 });
    Ok(())
}

fn clc(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.set_flags(CF, 0);
    Ok(())
}
fn stc(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.set_flags(CF, CF);
    Ok(())
}
fn cmc(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.set_flags(CF, !ctx.cpu.eflags);
    Ok(())
}
fn cld(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.set_flags(DF, 0);
    Ok(())
}
fn std(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.set_flags(DF, DF);
    Ok(())
}

/// CLI and STI need CPL <= IOPL (real mode has CPL 0, virtual-8086 mode CPL 3).
fn require_interrupt_control(ctx: &Ctx<'_>) -> Exec {
    if ctx.cpu.cpl <= ctx.iopl() { Ok(()) } else { Err(Fault::gp(0).into()) }
}

fn cli(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    require_interrupt_control(ctx)?;
    ctx.set_flags(IF, 0);
    Ok(())
}

/// Interrupts wait for one more instruction when STI is what enables them.
fn sti(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    require_interrupt_control(ctx)?;
    ctx.cpu.interrupt_shadow = !ctx.flag(IF);
    ctx.set_flags(IF, IF);
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    all(Pushf, any(pushf::<u16>)),
    all(Pushfd, any(pushf::<u32>)),
    all(Popf, any(popf::<u16>)),
    all(Popfd, any(popf::<u32>)),
    all(Lahf, any(lahf)),
    all(Sahf, any(sahf)),
    all(Salc, any(salc)),
    all(Clc, any(clc)),
    all(Stc, any(stc)),
    all(Cmc, any(cmc)),
    all(Cld, any(cld)),
    all(Std, any(std)),
    all(Cli, any(cli)),
    all(Sti, any(sti)),
];
