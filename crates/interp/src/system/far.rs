//! Far JMP, CALL and RET, IRET, SYSENTER and SYSEXIT (SDM vol. 3A, 5.8, 6.12 and 22.2).

use crate::ctx::{Ctx, Exec};
use crate::op::{Op, Operand};
use crate::system::frame::Frame;
use crate::system::interrupt::{Gate, types};
use crate::system::segment::{Descriptor, gp, is_null, np, rpl};
use crate::system::task::Cause;
use crate::table::{Row, all, any, one};
use crate::width::Width;
use iced_x86::{Code, Mnemonic::*};
use xlat86_arch::eflags::{IF, IOPL, NT, RF, VIF, VIP, VM};
use xlat86_arch::{Fault, Gva, Mode, Reg, Seg, SegAttr, Segment, Vector};

/// #GP(0) unless `eip` is inside `cs`.
fn within(cs: &Segment, eip: u32) -> Result<u32, Fault> {
    if eip > cs.limit { Err(Fault::gp(0)) } else { Ok(eip) }
}

impl Ctx<'_> {
    /// CS for a direct far JMP or CALL: privilege doesn't change.
    fn same_level_cs(&mut self, selector: u16, d: Descriptor) -> Result<Segment, Fault> {
        let (attr, cpl) = (d.segment.attr, self.cpu.cpl);
        let allowed = if attr.conforming() { attr.dpl() <= cpl } else { rpl(selector) <= cpl && attr.dpl() == cpl };
        if !allowed {
            return Err(gp(selector));
        }
        if !attr.present() {
            return Err(np(selector));
        }
        let cs = self.mark_accessed(d)?;
        Ok(Segment { selector: selector & !3 | u16::from(cpl), ..cs })
    }

    /// Makes `cs:eip` the next instruction, at privilege level `cpl`.
    fn go(&mut self, cs: Segment, eip: u32, cpl: u8) {
        self.cpu.seg[Seg::Cs as usize] = cs;
        self.cpu.eip = eip;
        self.cpu.cpl = cpl;
        self.mode_changed();
    }

    fn is_real(&self) -> bool {
        !self.protected()
    }

    /// Target of a far JMP or CALL: an immediate or a pointer in memory.
    fn far_target(&mut self, op: &Op) -> Result<(u32, u16), Fault> {
        if op.a == Operand::Imm { Ok((op.imm, op.imm2)) } else { self.far_pointer(op) }
    }

    /// Checks of a gate or TSS named by a far JMP or CALL.
    fn check_system(&self, selector: u16, attr: SegAttr) -> Result<(), Fault> {
        if attr.dpl() < self.cpu.cpl.max(rpl(selector)) {
            return Err(gp(selector));
        }
        if attr.present() { Ok(()) } else { Err(np(selector)) }
    }

    /// The code segment that a call gate leads to.
    fn gate_target(&mut self, gate: &Gate, jump: bool) -> Result<Descriptor, Fault> {
        if is_null(gate.selector) {
            return Err(Fault::gp(0));
        }
        let d = self.descriptor(gate.selector)?.ok_or(gp(gate.selector))?;
        let (attr, cpl) = (d.segment.attr, self.cpu.cpl);
        let level = if jump && !attr.conforming() { attr.dpl() == cpl } else { attr.dpl() <= cpl };
        if !attr.code() || !level {
            return Err(gp(gate.selector));
        }
        if attr.present() { Ok(d) } else { Err(np(gate.selector)) }
    }

    /// A far JMP or CALL to something that isn't a code segment.
    fn far_system<T: Width>(&mut self, selector: u16, d: Descriptor, jump: bool) -> Exec {
        let cause = if jump { Cause::Jump } else { Cause::Call };
        let attr = d.segment.attr;
        match attr.typ() {
            types::CALL16 | types::CALL32 => {
                self.check_system(selector, attr)?;
                let gate = Gate::new(d.raw);
                let target = self.gate_target(&gate, jump)?;
                let inner = !jump && !target.segment.attr.conforming() && target.segment.attr.dpl() < self.cpu.cpl;
                let level = if inner { target.segment.attr.dpl() } else { self.cpu.cpl };
                let eip = within(&target.segment, gate.offset)?;
                if !jump {
                    self.push_call_frame(&gate, inner.then_some(level))?;
                }
                let cs = self.mark_accessed(target)?;
                self.go(Segment { selector: gate.selector & !3 | u16::from(level), ..cs }, eip, level);
                Ok(())
            }
            types::TASK => {
                self.check_system(selector, attr)?;
                self.switch_task(Gate::new(d.raw).selector, cause, Vector::GP, 0)
            }
            types::TSS16 | types::TSS32 => {
                self.check_system(selector, attr)?;
                self.switch_task(selector, cause, Vector::GP, 0)
            }
            _ => Err(gp(selector).into()),
        }
    }

    /// The frame of a call through `gate`; to an inner level the parameters are copied to its stack.
    fn push_call_frame(&mut self, gate: &Gate, inner: Option<u8>) -> Result<(), Fault> {
        let wide = gate.wide();
        let mut frame = Frame::current(self);
        if let Some(level) = inner {
            let mut old = frame;
            let (ss, esp) = (self.cpu.segment(Seg::Ss).selector, self.cpu.reg(Reg::Esp));
            let mut parameters = [0; 32];
            for p in parameters.iter_mut().take(gate.count as usize) {
                *p = if wide { old.pop::<u32>(self)? } else { old.pop::<u16>(self)? };
            }
            frame = self.inner_stack(level, 0)?;
            frame.push_sized(self, wide, ss.into())?;
            frame.push_sized(self, wide, esp)?;
            for p in parameters[..gate.count as usize].iter().rev() {
                frame.push_sized(self, wide, *p)?;
            }
        }
        frame.push_sized(self, wide, self.cpu.segment(Seg::Cs).selector.into())?;
        frame.push_sized(self, wide, self.cpu.eip)?;
        frame.install(self);
        Ok(())
    }

    fn far_jump_or_call<T: Width>(&mut self, op: &Op, jump: bool) -> Exec {
        let (offset, selector) = self.far_target(op)?;
        let real = self.is_real();
        let (cs, level) = if real {
            let old = *self.cpu.segment(Seg::Cs);
            (Segment { selector, base: u32::from(selector) << 4, ..old }, self.cpu.cpl)
        } else {
            if is_null(selector) {
                return Err(Fault::gp(0).into());
            }
            let d = self.descriptor(selector)?.ok_or(gp(selector))?;
            if !d.segment.attr.code() {
                if d.segment.attr.s() {
                    return Err(gp(selector).into());
                }
                return self.far_system::<T>(selector, d, jump);
            }
            (self.same_level_cs(selector, d)?, self.cpu.cpl)
        };
        let eip = within(&cs, offset & T::MASK)?;
        if !jump {
            let mut stack = self.stack();
            stack.push::<T>(self, self.cpu.segment(Seg::Cs).selector.into())?;
            stack.push::<T>(self, self.cpu.eip)?;
            self.commit(stack);
        }
        self.go(cs, eip, level);
        Ok(())
    }

    /// CS for a far return or IRET to `selector`: never to an inner level.
    fn return_cs(&mut self, selector: u16) -> Result<Segment, Fault> {
        if is_null(selector) {
            return Err(Fault::gp(0));
        }
        let d = self.descriptor(selector)?.ok_or(gp(selector))?;
        let (attr, level) = (d.segment.attr, rpl(selector));
        let allowed = if attr.conforming() { attr.dpl() <= level } else { attr.dpl() == level };
        if !attr.code() || level < self.cpu.cpl || !allowed {
            return Err(gp(selector));
        }
        if !attr.present() {
            return Err(np(selector));
        }
        self.mark_accessed(d)
    }

    /// Data segments that the outer level may not use become null (SDM vol. 2B, RET).
    fn hide_segments(&mut self) {
        for s in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let attr = self.cpu.segment(s).attr;
            if attr.dpl() < self.cpu.cpl && !attr.conforming() {
                self.cpu.seg[s as usize] = Segment::null(0);
            }
        }
    }

    /// The rest of a return in protected mode: `frame` is past CS:EIP (and EFLAGS). `release`: bytes of parameters.
    fn finish_return<T: Width>(&mut self, mut frame: Frame, selector: u16, eip: u32, release: u32) -> Exec {
        let cs = self.return_cs(selector)?;
        let level = rpl(selector);
        frame.add(release);
        if level == self.cpu.cpl {
            within(&cs, eip)?;
            frame.install(self);
            self.go(cs, eip, level);
            return Ok(());
        }
        let esp = frame.pop::<T>(self)?;
        let ss = frame.pop::<T>(self)? as u16;
        let ss = self.stack_segment(ss, level, Vector::GP, 0)?;
        within(&cs, eip)?;
        let mut outer = Frame::new(ss, esp, 0);
        outer.add(release);
        // The whole register is loaded where the frame has it whole.
        if T::BITS == 32 {
            self.cpu.set_reg(Reg::Esp, esp);
        }
        outer.install(self);
        self.go(cs, eip, level);
        self.hide_segments();
        self.mode_changed();
        Ok(())
    }
}

fn jmp_far<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.far_jump_or_call::<T>(op, true)
}

fn call_far<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.far_jump_or_call::<T>(op, false)
}

fn retf<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let release = op.imm & 0xffff;
    let mut frame = Frame::current(ctx);
    let eip = frame.pop::<T>(ctx)?;
    let selector = frame.pop::<T>(ctx)? as u16;
    if !ctx.is_real() {
        return ctx.finish_return::<T>(frame, selector, eip, release);
    }
    within(ctx.cpu.segment(Seg::Cs), eip)?;
    frame.add(release);
    frame.install(ctx);
    ctx.set_real_cs(selector);
    ctx.cpu.eip = eip;
    Ok(())
}

fn iret<T: Width>(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    if ctx.protected() && ctx.flag(NT) {
        ctx.cpu.nmi_masked = false;
        let link: u16 = ctx.mmu.read_system(Gva(ctx.cpu.tr.base))?;
        return ctx.switch_task(link, Cause::Return, Vector::TS, 0);
    }
    ctx.require_v86_iopl()?;
    let mut frame = Frame::current(ctx);
    let eip = frame.pop::<T>(ctx)?;
    let selector = frame.pop::<T>(ctx)? as u16;
    let flags = frame.pop::<T>(ctx)?;
    // Also when it faults from here on (SDM vol. 3A, 6.7.1).
    ctx.cpu.nmi_masked = false;
    let mut mask = ctx.writable_flags::<T>() | RF & T::MASK;
    if ctx.is_real() {
        within(ctx.cpu.segment(Seg::Cs), eip)?;
        frame.install(ctx);
        ctx.set_real_cs(selector);
        ctx.cpu.eip = eip;
    } else if T::BITS == 32 && flags & VM != 0 && ctx.cpu.cpl == 0 {
        return return_to_v86(ctx, frame, selector, eip, flags);
    } else {
        if ctx.cpu.cpl == 0 {
            mask |= (VIF | VIP) & T::MASK;
        }
        ctx.finish_return::<T>(frame, selector, eip, 0)?;
    }
    ctx.set_flags(mask, flags);
    ctx.mode_changed();
    Ok(())
}

/// IRET to virtual-8086 mode: the frame goes on with ESP, SS, ES, DS, FS and GS.
fn return_to_v86(ctx: &mut Ctx<'_>, mut frame: Frame, cs: u16, eip: u32, flags: u32) -> Exec {
    let esp = frame.pop::<u32>(ctx)?;
    let mut selectors = [0; 6];
    for s in [Seg::Ss, Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        selectors[s as usize] = frame.pop::<u32>(ctx)? as u16;
    }
    selectors[Seg::Cs as usize] = cs;
    for s in Seg::ALL {
        ctx.cpu.seg[s as usize] = Segment { attr: SegAttr(0xf3), ..Segment::real(selectors[s as usize]) };
    }
    ctx.cpu.set_reg(Reg::Esp, esp);
    ctx.cpu.eip = eip & 0xffff;
    let mask = ctx.writable_flags::<u32>() | RF | VM | IF | IOPL | VIF | VIP;
    ctx.set_flags(mask, flags);
    ctx.cpu.cpl = 3;
    ctx.mode_changed();
    Ok(())
}

/// A flat segment as SYSENTER and SYSEXIT make it, without reading a descriptor.
fn flat(selector: u16, attr: SegAttr, level: u8) -> Segment {
    Segment::flat(selector & !3 | u16::from(level), attr.with_dpl(level))
}

fn sysenter(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    let cs = ctx.cpu.msr.sysenter_cs as u16;
    if !ctx.mode.has(Mode::PROTECTED) || is_null(cs) {
        return Err(Fault::gp(0).into());
    }
    ctx.set_flags(VM | IF | RF, 0);
    ctx.cpu.set_reg(Reg::Esp, ctx.cpu.msr.sysenter_esp);
    ctx.cpu.seg[Seg::Ss as usize] = flat(cs.wrapping_add(8), SegAttr::DATA32, 0);
    ctx.go(flat(cs, SegAttr::CODE32, 0), ctx.cpu.msr.sysenter_eip, 0);
    Ok(())
}

fn sysexit(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    let cs = ctx.cpu.msr.sysenter_cs as u16;
    if !ctx.mode.has(Mode::PROTECTED) || is_null(cs) || ctx.cpu.cpl != 0 {
        return Err(Fault::gp(0).into());
    }
    let (eip, esp) = (ctx.cpu.reg(Reg::Edx), ctx.cpu.reg(Reg::Ecx));
    ctx.cpu.set_reg(Reg::Esp, esp);
    ctx.cpu.seg[Seg::Ss as usize] = flat(cs.wrapping_add(24), SegAttr::DATA32, 3);
    ctx.go(flat(cs.wrapping_add(16), SegAttr::CODE32, 3), eip, 3);
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    one(Code::Jmp_ptr1616, any(jmp_far::<u16>)),
    one(Code::Jmp_ptr1632, any(jmp_far::<u32>)),
    one(Code::Jmp_m1616, any(jmp_far::<u16>)),
    one(Code::Jmp_m1632, any(jmp_far::<u32>)),
    one(Code::Call_ptr1616, any(call_far::<u16>)),
    one(Code::Call_ptr1632, any(call_far::<u32>)),
    one(Code::Call_m1616, any(call_far::<u16>)),
    one(Code::Call_m1632, any(call_far::<u32>)),
    one(Code::Retfw, any(retf::<u16>)),
    one(Code::Retfd, any(retf::<u32>)),
    one(Code::Retfw_imm16, any(retf::<u16>)),
    one(Code::Retfd_imm16, any(retf::<u32>)),
    all(Iret, any(iret::<u16>)),
    all(Iretd, any(iret::<u32>)),
    all(Sysenter, any(sysenter)),
    all(Sysexit, any(sysexit)),
];
