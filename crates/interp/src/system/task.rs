//! Task switches (SDM vol. 3A, 7.3): the whole state goes into one TSS and comes from another.

use crate::ctx::{Ctx, Exec};
use crate::system::frame::Frame;
use crate::system::interrupt::types;
use crate::system::segment::{Descriptor, error_code, is_null, rpl};
use xlat86_arch::eflags::{FIXED_1, NT, VM};
use xlat86_arch::{Fault, Gva, Seg, SegAttr, Segment, Vector, cr0, eflags};

/// How a task switch came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    Jump,
    /// CALL, exception or interrupt: the new task is nested in the old one.
    Call,
    /// IRET with NT set.
    Return,
}

/// Where a TSS keeps things. `regs` begins with EIP, EFLAGS and the eight general registers; selectors follow.
struct Layout {
    cr3: Option<u32>,
    regs: u32,
    selectors: u32,
    /// Selectors ES, CS, SS, DS (and FS, GS).
    count: usize,
    ldt: u32,
    /// Bytes per slot.
    slot: u32,
    /// The smallest legal limit.
    limit: u32,
}

const LAYOUT16: Layout = Layout { cr3: None, regs: 14, selectors: 34, count: 4, ldt: 42, slot: 2, limit: 0x2b };
const LAYOUT32: Layout = Layout { cr3: Some(28), regs: 32, selectors: 72, count: 6, ldt: 96, slot: 4, limit: 0x67 };

const BUSY: u16 = 2;

fn layout(attr: SegAttr) -> &'static Layout {
    if attr.typ() & 8 != 0 { &LAYOUT32 } else { &LAYOUT16 }
}

impl Ctx<'_> {
    fn tss_read(&mut self, base: u32, at: u32, size: u32) -> Result<u32, Fault> {
        let at = Gva(base.wrapping_add(at));
        if size == 4 { self.mmu.read_system::<u32>(at) } else { Ok(self.mmu.read_system::<u16>(at)?.into()) }
    }

    fn tss_write(&mut self, base: u32, at: u32, size: u32, v: u32) -> Result<(), Fault> {
        let at = Gva(base.wrapping_add(at));
        if size == 4 { self.mmu.write_system(at, v) } else { self.mmu.write_system(at, v as u16) }
    }

    /// A task gate in the IDT.
    pub(crate) fn switch_by_interrupt(&mut self, selector: u16, error: Option<u32>, ext: u32) -> Exec {
        self.switch_task(selector, Cause::Call, Vector::GP, ext)?;
        if let Some(error) = error {
            let mut frame = Frame::current(self);
            let wide = self.cpu.tr.attr.typ() & 8 != 0;
            frame.push_sized(self, wide, error)?;
            frame.install(self);
        }
        Ok(())
    }

    /// Switches to the task whose TSS `selector` names. `bad`: what an unusable descriptor raises.
    ///
    /// Faults up to the point where the new state is complete belong to the old task and leave it unchanged; a bad
    /// segment in the new TSS is the new task's #TS.
    pub(crate) fn switch_task(&mut self, selector: u16, cause: Cause, bad: Vector, ext: u32) -> Exec {
        let violation = Fault::with_error(bad, error_code(selector) + ext);
        let new = if selector & 4 == 0 { self.descriptor(selector)? } else { None }.ok_or(violation)?;
        let attr = new.segment.attr;
        let busy = attr.0 & BUSY != 0;
        let is_tss = !attr.s() && matches!(attr.typ() & !(BUSY as u8), types::TSS16 | types::TSS32);
        if !is_tss || busy != (cause == Cause::Return) {
            return Err(violation.into());
        }
        if !attr.present() {
            return Err(Fault::with_error(Vector::NP, error_code(selector) + ext).into());
        }
        let to = layout(attr);
        if new.segment.limit < to.limit {
            return Err(Fault::with_error(Vector::TS, error_code(selector) + ext).into());
        }

        // Read everything before anything is written.
        let base = new.segment.base;
        let mut regs = [0; 10];
        for (i, r) in regs.iter_mut().enumerate() {
            *r = self.tss_read(base, to.regs + i as u32 * to.slot, to.slot)?;
        }
        let mut selectors = [0u16; 6];
        for (i, s) in selectors.iter_mut().enumerate().take(to.count) {
            *s = self.tss_read(base, to.selectors + i as u32 * to.slot, 2)? as u16;
        }
        let ldt = self.tss_read(base, to.ldt, 2)? as u16;
        let cr3 = to.cr3.map(|at| self.tss_read(base, at, 4)).transpose()?;
        let trap = to.slot == 4 && self.tss_read(base, 100, 2)? & 1 != 0;

        self.save_task(cause)?;
        if cause == Cause::Call {
            self.tss_write(base, 0, 2, self.cpu.tr.selector.into())?;
        }
        self.set_busy(&new, true)?;
        if cause != Cause::Call {
            let old = self.cpu.tr.selector;
            if let Some(d) = self.descriptor(old)? {
                self.set_busy(&d, false)?;
            }
        }

        // From here on it is the new task.
        self.switched = true;
        self.cpu.tr = Segment { attr: SegAttr(attr.0 | BUSY), ..new.segment };
        self.cpu.cr0 |= cr0::TS;
        if let Some(cr3) = cr3.filter(|_| self.cpu.cr0 & cr0::PG != 0) {
            self.set_cr3(cr3)?;
        }
        let nested = if cause == Cause::Call { NT } else { 0 };
        self.cpu.eip = regs[0];
        self.cpu.eflags = regs[1] & eflags::DEFINED | FIXED_1 | nested;
        for (r, v) in regs[2..].iter().enumerate() {
            self.cpu.gpr[r] = if to.slot == 2 { v | 0xffff_0000 } else { *v };
        }
        self.cpu.dr[7] &= !0x155;
        for (s, &selector) in selectors.iter().enumerate() {
            self.cpu.seg[s] = Segment::null(selector);
        }
        self.cpu.ldtr = Segment::null(ldt);
        self.load_task_segments(ldt, selectors)?;
        self.mode_changed();
        if self.cpu.eip > self.cpu.segment(Seg::Cs).limit {
            return Err(Fault::gp(ext).into());
        }
        if trap {
            return Err(Fault { vector: Vector::DB, error: None, addr: Gva(1 << 15) }.into());
        }
        Ok(())
    }

    /// Writes the old task's state into its TSS.
    fn save_task(&mut self, cause: Cause) -> Result<(), Fault> {
        let tr = self.cpu.tr;
        let from = layout(tr.attr);
        let flags = self.cpu.eflags & !if cause == Cause::Return { NT } else { 0 };
        let mut regs = [0; 10];
        regs[..2].copy_from_slice(&[self.cpu.eip, flags]);
        regs[2..].copy_from_slice(&self.cpu.gpr);
        self.mmu.probe_write_system(Gva(tr.base), from.limit + 1)?;
        for (i, v) in regs.iter().enumerate() {
            self.tss_write(tr.base, from.regs + i as u32 * from.slot, from.slot, *v)?;
        }
        for i in 0..from.count {
            let selector = self.cpu.seg[i].selector.into();
            self.tss_write(tr.base, from.selectors + i as u32 * from.slot, 2, selector)?;
        }
        Ok(())
    }

    fn set_busy(&mut self, d: &Descriptor, busy: bool) -> Result<(), Fault> {
        let attr = if busy { d.segment.attr.0 | BUSY } else { d.segment.attr.0 & !BUSY };
        match d.at {
            Some(at) => self.mmu.write_system(at.wrapping_add(5), attr as u8),
            None => Ok(()),
        }
    }

    /// Loads LDTR and the segments of a new task; its privilege level is CS's RPL (SDM vol. 3A, table 7-1).
    fn load_task_segments(&mut self, ldt: u16, selectors: [u16; 6]) -> Result<(), Fault> {
        let ts = |selector| Fault::with_error(Vector::TS, error_code(selector));
        if self.cpu.eflags & VM != 0 {
            self.cpu.cpl = 3;
            for s in Seg::ALL {
                self.cpu.seg[s as usize] = Segment { attr: SegAttr(0xf3), ..Segment::real(selectors[s as usize]) };
            }
        }
        if !is_null(ldt) {
            let d = if ldt & 4 == 0 { self.descriptor(ldt)? } else { None }.ok_or(ts(ldt))?;
            if d.segment.attr.s() || d.segment.attr.typ() != 2 || !d.segment.attr.present() {
                return Err(ts(ldt));
            }
            self.cpu.ldtr = d.segment;
        }
        if self.cpu.eflags & VM != 0 {
            return Ok(());
        }
        let cs = selectors[Seg::Cs as usize];
        self.cpu.cpl = rpl(cs);
        let d = self.descriptor(cs)?.ok_or(ts(cs))?;
        let (attr, level) = (d.segment.attr, rpl(cs));
        if !attr.code() || if attr.conforming() { attr.dpl() > level } else { attr.dpl() != level } {
            return Err(ts(cs));
        }
        if !attr.present() {
            return Err(Fault::with_error(Vector::NP, error_code(cs)));
        }
        self.cpu.seg[Seg::Cs as usize] = self.mark_accessed(d)?;
        let ss = selectors[Seg::Ss as usize];
        self.cpu.seg[Seg::Ss as usize] = self.stack_segment(ss, level, Vector::TS, 0)?;
        self.mode_changed();
        for s in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let selector = selectors[s as usize];
            self.cpu.seg[s as usize] = self.fetch_segment(s, selector).map_err(|f| match f.vector {
                Vector::GP => ts(selector),
                _ => f,
            })?;
        }
        Ok(())
    }
}
