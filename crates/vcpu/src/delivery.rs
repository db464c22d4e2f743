//! Interrupts and exceptions through the IDT without the interpreter, in the usual case: a 32-bit interrupt or trap gate to flat code of ring 0, from
//! flat code of ring 0 or 3. Anything unusual, a fault above all, is left undone, and the interpreter does it ([`xlat86_interp::Interp::deliver`]).

use crate::Vcpu;
use xlat86_arch::{Gva, Reg, Seg, Segment, Vector, cr0, eflags};
use xlat86_interp::Event;

/// Gate types (SDM vol. 3A, table 3-2).
const INTERRUPT32: u8 = 14;
const TRAP32: u8 = 15;
/// Enable bits of DR7.
const BREAKPOINTS: u32 = 0xff;

impl Vcpu {
    /// Delivers `event`. False: nothing was done.
    pub(crate) fn deliver_at_once(&mut self, event: Event) -> bool {
        /// What makes a delivery unusual.
        const SPECIAL: u32 = eflags::TF | eflags::NT | eflags::VM;
        let (vector, software) = match event {
            Event::External(v) => (v, false),
            Event::Fault(f) => (f.vector, false),
            Event::Software(v) => (v, true),
        };
        let (error, sets_rf) = match event {
            Event::Fault(f) => (f.error, !matches!(f.vector, Vector::DB | Vector::BP | Vector::OF)),
            _ => (None, false),
        };
        let s = &self.state;
        let (inner, at) = (s.cpl != 0, u32::from(vector.0) * 8);
        let usual = s.cr0 & cr0::PE != 0
            && s.eflags & SPECIAL == 0
            && matches!(s.cpl, 0 | 3)
            && s.dr[7] & BREAKPOINTS == 0
            && !s.interrupt_shadow
            && at + 7 <= s.idtr.limit.into();
        if !usual {
            return false;
        }
        let Ok(gate) = self.mmu.read_system::<u64>(Gva(self.state.idtr.base.wrapping_add(at))) else { return false };
        // P, DPL, S and the type.
        let access = (gate >> 40) as u8;
        let (kind, dpl) = (access & 0x1f, access >> 5 & 3);
        if access & 0x80 == 0 || !matches!(kind, INTERRUPT32 | TRAP32) || software && dpl < self.state.cpl {
            return false;
        }
        let Some(code) = self.gdt_segment((gate >> 16) as u16) else { return false };
        if !code.attr.code() || code.attr.conforming() || code.attr.dpl() != 0 || !code.is_flat() {
            return false;
        }
        let Some((stack, esp)) = (if inner { self.ring0_stack() } else { self.same_stack() }) else { return false };
        let s = &self.state;
        let image = s.eflags | if sets_rf { eflags::RF } else { 0 };
        let mut words = [0; 6];
        let mut n = 0;
        let outer = [s.segment(Seg::Ss).selector.into(), s.reg(Reg::Esp)];
        let frame = [image, s.segment(Seg::Cs).selector.into(), s.eip];
        for word in outer.into_iter().filter(|_| inner).chain(frame).chain(error) {
            words[n] = word;
            n += 1;
        }
        let size = 4 * n as u32;
        let Some(to) = esp.checked_sub(size) else { return false };
        if self.mmu.probe_write_system(Gva(to), size).is_err() {
            return false;
        }
        for (i, &word) in words[..n].iter().enumerate() {
            // It was found to be writable; a watched or code page has stopped the delivery above.
            let _ = self.mmu.write_system(Gva(esp - 4 * (i as u32 + 1)), word);
        }
        let s = &mut self.state;
        s.seg[Seg::Ss as usize] = stack;
        s.set_reg(Reg::Esp, to);
        s.cpl = 0;
        s.halted = false;
        s.seg[Seg::Cs as usize] = Segment { selector: code.selector & !3, ..code };
        s.eip = (gate >> 32) as u32 & 0xffff_0000 | gate as u32 & 0xffff;
        let masked = if kind == INTERRUPT32 { eflags::IF } else { 0 };
        s.eflags &= !(SPECIAL | eflags::RF | masked);
        self.mmu.sync(&self.state);
        true
    }

    /// The current stack, if it is flat.
    fn same_stack(&self) -> Option<(Segment, u32)> {
        let ss = *self.state.segment(Seg::Ss);
        (ss.is_flat() && ss.attr.db() && ss.attr.writable()).then(|| (ss, self.state.reg(Reg::Esp)))
    }

    /// The stack of ring 0 that a 32-bit TSS holds, if it is flat (SDM vol. 3A, 7.2.1).
    fn ring0_stack(&mut self) -> Option<(Segment, u32)> {
        const ESP0: u32 = 4;
        const SS0: u32 = 8;
        let tr = self.state.tr;
        if tr.attr.typ() & 8 == 0 || tr.limit < SS0 + 1 {
            return None;
        }
        let esp = self.mmu.read_system::<u32>(Gva(tr.base.wrapping_add(ESP0))).ok()?;
        let selector = self.mmu.read_system::<u16>(Gva(tr.base.wrapping_add(SS0))).ok()?;
        let ss = self.gdt_segment(selector).filter(|_| selector & 3 == 0)?;
        (ss.is_flat() && ss.attr.db() && ss.attr.writable() && ss.attr.dpl() == 0).then_some((ss, esp))
    }
}
