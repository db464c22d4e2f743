//! String instructions. Each iteration completes by itself, registers included, so a fault or an interrupt in the middle
//! leaves a state from which the same instruction continues.

use crate::Stop;
use crate::ctx::{Ctx, Exec};
use crate::flags;
use crate::op::Op;
use crate::run::single_step;
use crate::system::debug::debug_exception;
use crate::table::{Row, all, any, one};
use crate::width::Width;
use iced_x86::{Code, Mnemonic::*};
use xlat86_arch::eflags::{DF, ZF};
use xlat86_arch::{Gva, Mode, Reg, Seg};

/// Iterations between two looks at the interrupt flag.
const PATIENCE: u32 = 1024;

impl Ctx<'_> {
    /// SI, DI or CX, or their 32-bit forms, by address size.
    #[inline(always)]
    fn address_reg(&self, op: &Op, r: Reg) -> u32 {
        if op.mem.addr16 { self.cpu.reg(r) & 0xffff } else { self.cpu.reg(r) }
    }

    /// Moves an address register by `by`.
    #[inline(always)]
    fn advance(&mut self, op: &Op, r: Reg, by: u32) {
        let v = self.cpu.reg(r).wrapping_add(by);
        if op.mem.addr16 { self.set_gpr::<u16>(r as u8, v) } else { self.set_gpr::<u32>(r as u8, v) }
    }

    /// How far one element of width `T` is, by DF.
    #[inline(always)]
    fn step<T: Width>(&self) -> u32 {
        let size = T::SIZE as u32;
        if self.flag(DF) { size.wrapping_neg() } else { size }
    }

    /// Offset of the source.
    #[inline(always)]
    fn source_offset(&self, op: &Op) -> u32 {
        self.address_reg(op, Reg::Esi)
    }

    /// Offset of the destination, in ES whatever the prefixes.
    #[inline(always)]
    pub(super) fn destination_offset(&self, op: &Op) -> u32 {
        self.address_reg(op, Reg::Edi)
    }

    /// Does `once` once, or as often as the prefix and (E)CX say. `until`: also stop when ZF differs from what
    /// REPE (set) or REPNE (clear) asks for.
    #[inline(always)]
    pub(super) fn repeat(&mut self, op: &Op, until: bool, once: impl Fn(&mut Self) -> Exec) -> Exec {
        if !op.rep && !op.repne {
            return once(self);
        }
        let mut patience = PATIENCE;
        while self.address_reg(op, Reg::Ecx) != 0 {
            once(self)?;
            self.advance(op, Reg::Ecx, u32::MAX);
            if until && self.flag(ZF) == op.repne {
                break;
            }
            // A single step is one iteration; EIP leaves the instruction with the last (SDM vol. 2B, REP; Zen 4).
            if self.mode.has(Mode::TRAP) && self.address_reg(op, Reg::Ecx) != 0 {
                return Err(single_step());
            }
            if self.debugging && self.mmu.was_hit() && self.address_reg(op, Reg::Ecx) != 0 {
                return Err(debug_exception(0));
            }
            patience -= 1;
            if patience == 0 {
                patience = PATIENCE;
                if self.interrupted() && self.address_reg(op, Reg::Ecx) != 0 {
                    return Err(Stop::Interrupted);
                }
            }
        }
        Ok(())
    }
}

/// Iterations worth doing at once.
const BULK: u32 = 8;

impl Ctx<'_> {
    /// Elements of width `T` that a repeated instruction may move at once, upwards, without leaving the page of any of the linear addresses `at`; 0
    /// where each has to be looked at.
    fn bulk<T: Width>(&self, op: &Op, at: &[u32]) -> u32 {
        let each = self.mode.has(Mode::TRAP) || self.debugging || self.flag(DF) || op.mem.addr16;
        let room = at.iter().map(|a| (0x1000 - (a & 0xfff)) / T::SIZE as u32);
        // The last one remains.
        let n = room.min().unwrap_or(0).min(self.cpu.reg(Reg::Ecx).saturating_sub(1));
        if each || n < BULK { 0 } else { n }
    }

    /// Moves ECX on by `n` iterations and `regs` by as many elements of width `T`.
    fn advance_bulk<T: Width>(&mut self, regs: &[Reg], n: u32) {
        self.cpu.set_reg(Reg::Ecx, self.cpu.reg(Reg::Ecx) - n);
        for &r in regs {
            self.cpu.set_reg(r, self.cpu.reg(r).wrapping_add(n * T::SIZE as u32));
        }
    }
}

/// Pages at a time where nothing stands against it; what remains is done by element.
fn movs_bulk<T: Width>(ctx: &mut Ctx<'_>, op: &Op) {
    while op.rep && ctx.is_plain(op.mem.seg, false) && ctx.is_plain(Seg::Es, true) && !ctx.interrupted() {
        let (from, to) = (ctx.source_offset(op), ctx.destination_offset(op));
        let n = ctx.bulk::<T>(op, &[from, to]);
        if n == 0 || !ctx.mmu.copy_plain(Gva(to), Gva(from), n as usize * T::SIZE) {
            return;
        }
        ctx.advance_bulk::<T>(&[Reg::Esi, Reg::Edi], n);
    }
}

fn stos_bulk<T: Width>(ctx: &mut Ctx<'_>, op: &Op, v: T) {
    while op.rep && ctx.is_plain(Seg::Es, true) && !ctx.interrupted() {
        let to = ctx.destination_offset(op);
        let n = ctx.bulk::<T>(op, &[to]);
        if n == 0 || !ctx.mmu.fill_plain(Gva(to), v, n as usize * T::SIZE) {
            return;
        }
        ctx.advance_bulk::<T>(&[Reg::Edi], n);
    }
}

fn movs<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.repeat(op, false, |ctx| {
        movs_bulk::<T>(ctx, op);
        let v: T = ctx.read(op.mem.seg, ctx.source_offset(op))?;
        ctx.write(Seg::Es, ctx.destination_offset(op), v)?;
        let step = ctx.step::<T>();
        ctx.advance(op, Reg::Esi, step);
        ctx.advance(op, Reg::Edi, step);
        Ok(())
    })
}

fn stos<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = T::low(ctx.gpr::<T>(0));
    ctx.repeat(op, false, |ctx| {
        stos_bulk::<T>(ctx, op, v);
        ctx.write(Seg::Es, ctx.destination_offset(op), v)?;
        let step = ctx.step::<T>();
        ctx.advance(op, Reg::Edi, step);
        Ok(())
    })
}

fn lods<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.repeat(op, false, |ctx| {
        let v: T = ctx.read(op.mem.seg, ctx.source_offset(op))?;
        ctx.set_gpr::<T>(0, v.into());
        let step = ctx.step::<T>();
        ctx.advance(op, Reg::Esi, step);
        Ok(())
    })
}

/// When both operands fault, the destination's fault is reported: silicon's choice without a repeat prefix.
fn cmps<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.repeat(op, true, |ctx| {
        let b: u32 = ctx.read::<T>(Seg::Es, ctx.destination_offset(op))?.into();
        let a: u32 = ctx.read::<T>(op.mem.seg, ctx.source_offset(op))?.into();
        ctx.set_status(flags::sub::<T>(a, b, a.wrapping_sub(b) & T::MASK));
        let step = ctx.step::<T>();
        ctx.advance(op, Reg::Esi, step);
        ctx.advance(op, Reg::Edi, step);
        Ok(())
    })
}

fn scas<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let a = ctx.gpr::<T>(0);
    ctx.repeat(op, true, |ctx| {
        let b: u32 = ctx.read::<T>(Seg::Es, ctx.destination_offset(op))?.into();
        ctx.set_status(flags::sub::<T>(a, b, a.wrapping_sub(b) & T::MASK));
        let step = ctx.step::<T>();
        ctx.advance(op, Reg::Edi, step);
        Ok(())
    })
}

/// INS checks that the destination may be written before it reads the port: reading may have an effect.
fn ins<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let port = ctx.gpr::<u16>(2) as u16;
    ctx.require_io(port, T::SIZE as u32)?;
    ctx.repeat(op, false, |ctx| {
        let at = ctx.linear(Seg::Es, ctx.destination_offset(op), T::SIZE as u32, crate::memory::Access::Write)?;
        ctx.mmu.probe_write(at, T::SIZE as u32)?;
        ctx.note_io(port, T::SIZE as u32);
        let v = ctx.outside(op).port_in(port, T::SIZE as u8);
        ctx.mmu.write(at, T::low(v))?;
        let step = ctx.step::<T>();
        ctx.advance(op, Reg::Edi, step);
        Ok(())
    })
}

fn outs<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let port = ctx.gpr::<u16>(2) as u16;
    ctx.require_io(port, T::SIZE as u32)?;
    ctx.repeat(op, false, |ctx| {
        let v: T = ctx.read(op.mem.seg, ctx.source_offset(op))?;
        ctx.note_io(port, T::SIZE as u32);
        ctx.outside(op).port_out(port, T::SIZE as u8, v.into());
        let step = ctx.step::<T>();
        ctx.advance(op, Reg::Esi, step);
        Ok(())
    })
}

pub(crate) const ROWS: &[Row] = &[
    all(Movsb, any(movs::<u8>)),
    all(Movsw, any(movs::<u16>)),
    one(Code::Movsd_m32_m32, any(movs::<u32>)),
    all(Stosb, any(stos::<u8>)),
    all(Stosw, any(stos::<u16>)),
    all(Stosd, any(stos::<u32>)),
    all(Lodsb, any(lods::<u8>)),
    all(Lodsw, any(lods::<u16>)),
    all(Lodsd, any(lods::<u32>)),
    all(Cmpsb, any(cmps::<u8>)),
    all(Cmpsw, any(cmps::<u16>)),
    one(Code::Cmpsd_m32_m32, any(cmps::<u32>)),
    all(Scasb, any(scas::<u8>)),
    all(Scasw, any(scas::<u16>)),
    all(Scasd, any(scas::<u32>)),
    all(Insb, any(ins::<u8>)),
    all(Insw, any(ins::<u16>)),
    all(Insd, any(ins::<u32>)),
    all(Outsb, any(outs::<u8>)),
    all(Outsw, any(outs::<u16>)),
    all(Outsd, any(outs::<u32>)),
];
