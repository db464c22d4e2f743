//! Interrupts and exceptions through the IDT (SDM vol. 3A, 6.12; real mode: 21.1.4; virtual-8086 mode: 22.3).

use crate::Stop;
use crate::ctx::{Ctx, Exec};
use crate::op::Op;
use crate::system::frame::Frame;
use crate::system::segment::{Descriptor, error_code, is_null, rpl};
use crate::table::{Row, all, any};
use iced_x86::Mnemonic::*;
use xlat86_arch::eflags::{AC, IF, NT, RF, TF, VM};
use xlat86_arch::{Fault, Gva, Mode, Seg, SegAttr, Segment, Vector};

/// What is to be delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An interrupt from outside: EIP is where to return to.
    External(Vector),
    /// An exception.
    Fault(Fault),
    /// INT n, INT3, INTO: the gate's DPL is checked.
    Software(Vector),
}

impl Event {
    fn vector(self) -> Vector {
        match self {
            Event::External(v) | Event::Software(v) => v,
            Event::Fault(f) => f.vector,
        }
    }

    /// Bit 0 of error codes raised during delivery: the event came from outside the program (SDM vol. 3A, 6.13).
    fn ext(self) -> u32 {
        u32::from(!matches!(self, Event::Software(_)))
    }

    /// Faults push EFLAGS with RF set, so that returning doesn't hit the same instruction breakpoint again. #DB, #BP and
    /// #OF are traps (an instruction breakpoint's #DB sets RF itself).
    fn sets_rf(self) -> bool {
        matches!(self, Event::Fault(f) if !matches!(f.vector, Vector::DB | Vector::BP | Vector::OF))
    }
}

/// Gate and segment descriptor types (SDM vol. 3A, table 3-2).
pub(crate) mod types {
    pub(crate) const TSS16: u8 = 1;
    pub(crate) const CALL16: u8 = 4;
    pub(crate) const TASK: u8 = 5;
    pub(crate) const INT16: u8 = 6;
    pub(crate) const TRAP16: u8 = 7;
    pub(crate) const TSS32: u8 = 9;
    pub(crate) const CALL32: u8 = 12;
    pub(crate) const INT32: u8 = 14;
    pub(crate) const TRAP32: u8 = 15;
}

/// The parts of a gate.
pub(crate) struct Gate {
    pub(crate) selector: u16,
    pub(crate) offset: u32,
    pub(crate) attr: SegAttr,
    /// Parameters that a call gate copies.
    pub(crate) count: u32,
}

impl Gate {
    pub(crate) fn new(raw: u64) -> Gate {
        let attr = SegAttr((raw >> 40) as u16 & 0xff);
        let high = if attr.typ() & 8 != 0 { (raw >> 32) as u32 & 0xffff_0000 } else { 0 };
        Gate { selector: (raw >> 16) as u16, offset: raw as u32 & 0xffff | high, attr, count: (raw >> 32) as u32 & 31 }
    }

    /// A 386 gate: its frames are of 32-bit values.
    pub(crate) fn wide(&self) -> bool {
        self.attr.typ() & 8 != 0
    }
}

impl Ctx<'_> {
    /// Delivers `event`; a fault met on the way comes back with nothing changed (but accessed bits).
    pub(crate) fn deliver(&mut self, event: Event) -> Exec {
        if self.mode.has(Mode::PROTECTED) { self.deliver_protected(event) } else { self.deliver_real(event) }
    }

    fn deliver_real(&mut self, event: Event) -> Exec {
        let entry = u32::from(event.vector().0) * 4;
        if entry + 3 > self.cpu.idtr.limit.into() {
            return Err(Fault::gp(0).into());
        }
        let target: u32 = self.mmu.read_system(Gva(self.cpu.idtr.base.wrapping_add(entry)))?;
        let mut frame = Frame::current(self);
        for v in [self.cpu.eflags, self.cpu.segment(Seg::Cs).selector.into(), self.cpu.eip] {
            frame.push::<u16>(self, v)?;
        }
        frame.install(self);
        self.set_flags(IF | TF | AC | RF, 0);
        self.set_real_cs((target >> 16) as u16);
        self.cpu.eip = target & 0xffff;
        self.mode_changed();
        Ok(())
    }

    /// Loads CS in real or virtual-8086 mode.
    pub(crate) fn set_real_cs(&mut self, selector: u16) {
        let cs = &mut self.cpu.seg[Seg::Cs as usize];
        (cs.selector, cs.base) = (selector, u32::from(selector) << 4);
    }

    fn deliver_protected(&mut self, event: Event) -> Exec {
        let vector = u32::from(event.vector().0);
        let ext = event.ext();
        let in_idt = vector * 8 + 2 + ext;
        if vector * 8 + 7 > self.cpu.idtr.limit.into() {
            return Err(Fault::gp(in_idt).into());
        }
        let gate = Gate::new(self.mmu.read_system(Gva(self.cpu.idtr.base.wrapping_add(vector * 8)))?);
        let typ = gate.attr.typ();
        let known = matches!(typ, types::TASK | types::INT16 | types::TRAP16 | types::INT32 | types::TRAP32);
        let denied = matches!(event, Event::Software(_)) && gate.attr.dpl() < self.cpu.cpl;
        if gate.attr.s() || !known || denied {
            return Err(Fault::gp(in_idt).into());
        }
        if !gate.attr.present() {
            return Err(Fault::with_error(Vector::NP, in_idt).into());
        }
        let error = match event {
            Event::Fault(f) => f.error,
            _ => None,
        };
        if typ == types::TASK {
            if event.sets_rf() {
                self.cpu.eflags |= RF;
            }
            return self.switch_by_interrupt(gate.selector, error, ext);
        }
        let cs = self.handler_segment(gate.selector, ext)?;
        let inner = !cs.attr.conforming() && cs.attr.dpl() < self.cpu.cpl;
        let v86 = self.mode.has(Mode::VM86);
        if v86 && !(inner && cs.attr.dpl() == 0) {
            return Err(Fault::gp(error_code(gate.selector) + ext).into());
        }
        let level = if inner { cs.attr.dpl() } else { self.cpu.cpl };
        if gate.offset > cs.limit {
            return Err(Fault::gp(ext).into());
        }
        let wide = gate.wide();
        let mut frame = if inner { self.inner_stack(level, ext)? } else { Frame::current(self) };
        if inner {
            if v86 {
                for s in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                    frame.push_sized(self, wide, self.cpu.segment(s).selector.into())?;
                }
            }
            frame.push_sized(self, wide, self.cpu.segment(Seg::Ss).selector.into())?;
            frame.push_sized(self, wide, self.cpu.reg(xlat86_arch::Reg::Esp))?;
        }
        let image = self.cpu.eflags | if event.sets_rf() { RF } else { 0 };
        for v in [image, self.cpu.segment(Seg::Cs).selector.into(), self.cpu.eip] {
            frame.push_sized(self, wide, v)?;
        }
        if let Some(error) = error {
            frame.push_sized(self, wide, error)?;
        }
        if v86 {
            for s in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                self.cpu.seg[s as usize] = Segment::null(0);
            }
        }
        frame.install(self);
        self.cpu.cpl = level;
        self.cpu.seg[Seg::Cs as usize] = Segment { selector: cs.selector & !3 | u16::from(level), ..cs };
        self.cpu.eip = gate.offset;
        let off = TF | NT | RF | VM | if matches!(typ, types::INT16 | types::INT32) { IF } else { 0 };
        self.set_flags(off, 0);
        self.mode_changed();
        Ok(())
    }

    /// The code segment of an interrupt or trap gate.
    fn handler_segment(&mut self, selector: u16, ext: u32) -> Result<Segment, Fault> {
        if is_null(selector) {
            return Err(Fault::gp(ext));
        }
        let bad = Fault::gp(error_code(selector) + ext);
        let d = self.descriptor(selector)?.ok_or(bad)?;
        if !d.segment.attr.code() || d.segment.attr.dpl() > self.cpu.cpl {
            return Err(bad);
        }
        if !d.segment.attr.present() {
            return Err(Fault::with_error(Vector::NP, error_code(selector) + ext));
        }
        self.mark_accessed(d)
    }

    /// The stack that the TSS holds for privilege level `level` (SDM vol. 3A, 5.8.5), checked.
    pub(crate) fn inner_stack(&mut self, level: u8, ext: u32) -> Result<Frame, Fault> {
        let tr = self.cpu.tr;
        let wide = tr.attr.typ() & 8 != 0;
        let (size, first) = if wide { (8, 4) } else { (4, 2) };
        let at = first + u32::from(level) * size;
        if at + size - 1 - if wide { 2 } else { 0 } > tr.limit {
            return Err(Fault::with_error(Vector::TS, error_code(tr.selector) + ext));
        }
        let at = Gva(tr.base.wrapping_add(at));
        let (esp, ss) = if wide {
            (self.mmu.read_system::<u32>(at)?, self.mmu.read_system::<u16>(at.wrapping_add(4))?)
        } else {
            (self.mmu.read_system::<u16>(at)?.into(), self.mmu.read_system::<u16>(at.wrapping_add(2))?)
        };
        let segment = self.stack_segment(ss, level, Vector::TS, ext)?;
        Ok(Frame::new(segment, esp, error_code(ss) + ext))
    }

    /// SS for privilege level `level`, where violations raise `violation` (#TS, or #GP for returns).
    pub(crate) fn stack_segment(&mut self, ss: u16, level: u8, violation: Vector, ext: u32) -> Result<Segment, Fault> {
        if is_null(ss) {
            return Err(Fault::with_error(violation, ext));
        }
        let bad = Fault::with_error(violation, error_code(ss) + ext);
        let d: Descriptor = self.descriptor(ss)?.ok_or(bad)?;
        if rpl(ss) != level || d.segment.attr.dpl() != level || !d.segment.attr.writable() {
            return Err(bad);
        }
        if !d.segment.attr.present() {
            return Err(Fault::ss(error_code(ss) + ext));
        }
        self.mark_accessed(d)
    }

    fn software_interrupt(&mut self, vector: u8) -> Exec {
        if self.platform.delivers_interrupts() {
            self.untrapped = true;
            self.deliver(Event::Software(Vector(vector)))
        } else {
            Err(Stop::SoftInt(vector))
        }
    }
}

fn int(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.require_v86_iopl()?;
    ctx.software_interrupt(op.imm as u8)
}

/// INT3 and INTO aren't IOPL-sensitive.
fn int3(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.software_interrupt(Vector::BP.0)
}

fn into(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    if ctx.flag(xlat86_arch::eflags::OF) { ctx.software_interrupt(Vector::OF.0) } else { Ok(()) }
}

/// INT1 raises #DB without a DPL check, as a trap, leaving DR6 alone.
fn int1(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    if ctx.platform.delivers_interrupts() {
        ctx.untrapped = true;
        return ctx.deliver(Event::External(Vector::DB));
    }
    Err(Stop::SoftInt(Vector::DB.0))
}

pub(crate) const ROWS: &[Row] = &[all(Int, any(int)), all(Int3, any(int3)), all(Into, any(into)), all(Int1, any(int1))];
