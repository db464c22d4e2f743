//! Descriptors, and loading segment registers with data segments (SDM vol. 3A, 3.4 and 5.5 to 5.7).

use crate::ctx::{Ctx, Exec};
use crate::op::{Op, Operand};
use crate::table::{Row, all, any, one};
use crate::width::Width;
use iced_x86::{Code, Mnemonic::*};
use xlat86_arch::{Fault, Gva, Mode, Seg, SegAttr, Segment, Vector};

/// A descriptor as found in its table.
#[derive(Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) raw: u64,
    pub(crate) segment: Segment,
    /// Where it is, when it is in guest memory.
    pub(crate) at: Option<Gva>,
}

/// Error code that names `selector`.
pub(crate) fn error_code(selector: u16) -> u32 {
    u32::from(selector & !3)
}

/// #GP that names `selector`.
pub(crate) fn gp(selector: u16) -> Fault {
    Fault::gp(error_code(selector))
}

/// #NP that names `selector`.
pub(crate) fn np(selector: u16) -> Fault {
    Fault::with_error(Vector::NP, error_code(selector))
}

/// Requested privilege level.
pub(crate) fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// A null selector: index 0 in the GDT.
pub(crate) fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

impl Ctx<'_> {
    /// The descriptor `selector` names; `None` when it lies outside its table or is null.
    pub(crate) fn descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Fault> {
        if is_null(selector) {
            return Ok(None);
        }
        if let Some(answer) = self.platform.descriptor(selector) {
            let of = |raw| Descriptor { raw, segment: Segment::from_descriptor(selector, raw), at: None };
            return Ok(answer.map(of));
        }
        let (base, limit) = if selector & 4 == 0 {
            (self.cpu.gdtr.base, u32::from(self.cpu.gdtr.limit))
        } else if self.cpu.ldtr.attr.present() && !is_null(self.cpu.ldtr.selector) {
            (self.cpu.ldtr.base, self.cpu.ldtr.limit)
        } else {
            return Ok(None);
        };
        let offset = u32::from(selector & !7);
        if offset + 7 > limit {
            return Ok(None);
        }
        let at = Gva(base.wrapping_add(offset));
        let raw = self.mmu.read_system(at)?;
        Ok(Some(Descriptor { raw, segment: Segment::from_descriptor(selector, raw), at: Some(at) }))
    }

    /// Sets the accessed bit of `d` in memory and in the segment it becomes.
    pub(crate) fn mark_accessed(&mut self, d: Descriptor) -> Result<Segment, Fault> {
        let mut segment = d.segment;
        if segment.attr.0 & 1 == 0 {
            segment.attr.0 |= 1;
            if let Some(at) = d.at {
                self.mmu.write_system(at.wrapping_add(5), segment.attr.0 as u8)?;
            }
        }
        Ok(segment)
    }

    /// What loading `selector` into `seg` (not CS) gives, with every check that a load makes.
    pub(crate) fn fetch_segment(&mut self, seg: Seg, selector: u16) -> Result<Segment, Fault> {
        if self.mode.has(Mode::VM86) {
            return Ok(Segment { attr: SegAttr(0xf3), ..Segment::real(selector) });
        }
        if !self.mode.has(Mode::PROTECTED) {
            // Real-address mode changes only the base: limits set in protected mode stay.
            return Ok(Segment { base: u32::from(selector) << 4, selector, ..*self.cpu.segment(seg) });
        }
        let (cpl, rpl) = (self.cpu.cpl, rpl(selector));
        if is_null(selector) {
            return if seg == Seg::Ss { Err(Fault::gp(0)) } else { Ok(Segment::null(selector)) };
        }
        let d = self.descriptor(selector)?.ok_or(gp(selector))?;
        let attr = d.segment.attr;
        if seg == Seg::Ss {
            if rpl != cpl || attr.dpl() != cpl || !attr.writable() {
                return Err(gp(selector));
            }
            if !attr.present() {
                return Err(Fault::ss(error_code(selector)));
            }
        } else {
            if !attr.readable() || (!attr.conforming() && attr.dpl() < rpl.max(cpl)) {
                return Err(gp(selector));
            }
            if !attr.present() {
                return Err(np(selector));
            }
        }
        self.mark_accessed(d)
    }

    /// Replaces segment register `seg`; a new SS holds interrupts off for one instruction.
    pub(crate) fn set_segment(&mut self, seg: Seg, to: Segment) {
        self.cpu.seg[seg as usize] = to;
        self.mode_changed();
    }

    fn load_segment(&mut self, seg: Seg, selector: u16) -> Exec {
        let segment = self.fetch_segment(seg, selector)?;
        self.set_segment(seg, segment);
        self.cpu.interrupt_shadow |= seg == Seg::Ss;
        Ok(())
    }
}

fn seg_of(o: Operand) -> Seg {
    match o {
        Operand::Seg(n) => Seg::ALL[n as usize % 6],
        _ => Seg::Ds,
    }
}

fn mov_to_seg(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let seg = seg_of(op.a);
    if seg == Seg::Cs {
        return Err(Fault::ud().into());
    }
    let selector = ctx.get::<u16>(op, op.b)?;
    ctx.load_segment(seg, selector as u16)
}

/// To a 32-bit register the selector is zero-extended; memory gets 16 bits whatever the operand size.
fn mov_from_seg(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = ctx.cpu.segment(seg_of(op.b)).selector.into();
    match op.a {
        Operand::Gpr(_) if op.code == Code::Mov_r32m16_Sreg => ctx.set::<u32>(op, op.a, v),
        _ => ctx.set::<u16>(op, op.a, v),
    }
}

fn push_seg<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let selector = ctx.cpu.segment(seg_of(op.a)).selector;
    Ok(ctx.push::<T>(selector.into())?)
}

fn pop_seg<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let mut stack = ctx.stack();
    let selector = stack.pop::<T>(ctx)? as u16;
    ctx.load_segment(seg_of(op.a), selector)?;
    ctx.commit(stack);
    Ok(())
}

/// LDS and kin: a far pointer from memory into a segment and a general register.
fn load_far<const SEG: usize>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let (offset, selector) = ctx.far_pointer(op)?;
    ctx.load_segment(Seg::ALL[SEG], selector)?;
    if is_wide_far(op.code) { ctx.set::<u32>(op, op.a, offset) } else { ctx.set::<u16>(op, op.a, offset) }
}

/// Does the far pointer that `code` takes from memory have a 32-bit offset?
fn is_wide_far(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        Lds_r32_m1632 | Les_r32_m1632 | Lss_r32_m1632 | Lfs_r32_m1632 | Lgs_r32_m1632 | Call_m1632 | Jmp_m1632
    )
}

impl Ctx<'_> {
    /// The far pointer in memory: offset and selector. A register operand is #UD.
    pub(crate) fn far_pointer(&mut self, op: &Op) -> Result<(u32, u16), Fault> {
        if op.a != Operand::Mem && op.b != Operand::Mem {
            return Err(Fault::ud());
        }
        let wide = is_wide_far(op.code);
        let at = self.address(op);
        let mut bytes = [0; 6];
        let bytes = &mut bytes[..if wide { 6 } else { 4 }];
        self.read_bytes(op.mem.seg, at, bytes)?;
        let (offset, selector) = bytes.split_at(bytes.len() - 2);
        let offset = offset.iter().rev().fold(0, |v, &b| v << 8 | u32::from(b));
        Ok((offset, u16::from_le_bytes([selector[0], selector[1]])))
    }
}

pub(crate) const ROWS: &[Row] = &[
    one(Code::Mov_Sreg_rm16, any(mov_to_seg)),
    one(Code::Mov_Sreg_r32m16, any(mov_to_seg)),
    one(Code::Mov_rm16_Sreg, any(mov_from_seg)),
    one(Code::Mov_r32m16_Sreg, any(mov_from_seg)),
    one(Code::Pushw_ES, any(push_seg::<u16>)),
    one(Code::Pushd_ES, any(push_seg::<u32>)),
    one(Code::Pushw_CS, any(push_seg::<u16>)),
    one(Code::Pushd_CS, any(push_seg::<u32>)),
    one(Code::Pushw_SS, any(push_seg::<u16>)),
    one(Code::Pushd_SS, any(push_seg::<u32>)),
    one(Code::Pushw_DS, any(push_seg::<u16>)),
    one(Code::Pushd_DS, any(push_seg::<u32>)),
    one(Code::Pushw_FS, any(push_seg::<u16>)),
    one(Code::Pushd_FS, any(push_seg::<u32>)),
    one(Code::Pushw_GS, any(push_seg::<u16>)),
    one(Code::Pushd_GS, any(push_seg::<u32>)),
    one(Code::Popw_ES, any(pop_seg::<u16>)),
    one(Code::Popd_ES, any(pop_seg::<u32>)),
    one(Code::Popw_SS, any(pop_seg::<u16>)),
    one(Code::Popd_SS, any(pop_seg::<u32>)),
    one(Code::Popw_DS, any(pop_seg::<u16>)),
    one(Code::Popd_DS, any(pop_seg::<u32>)),
    one(Code::Popw_FS, any(pop_seg::<u16>)),
    one(Code::Popd_FS, any(pop_seg::<u32>)),
    one(Code::Popw_GS, any(pop_seg::<u16>)),
    one(Code::Popd_GS, any(pop_seg::<u32>)),
    all(Les, any(load_far::<0>)),
    all(Lss, any(load_far::<2>)),
    all(Lds, any(load_far::<3>)),
    all(Lfs, any(load_far::<4>)),
    all(Lgs, any(load_far::<5>)),
];
