//! What a handler works on: the CPU's state, its memory and surroundings, and access to operands.

use crate::op::{Op, Operand};
use crate::system::debug;
use crate::width::Width;
use crate::{Platform, Stop};
use std::sync::atomic::{AtomicBool, Ordering};
use xlat86_arch::{CpuModel, CpuState, Fault, Mode, Seg, cr0, eflags};
use xlat86_softmmu::Mmu;

/// A handler's result: done, or why not. With [`Stop::Fault`] nothing has been done.
pub(crate) type Exec = Result<(), Stop>;

/// One CPU at work.
pub(crate) struct Ctx<'a> {
    pub(crate) cpu: &'a mut CpuState,
    pub(crate) mmu: &'a mut Mmu,
    pub(crate) platform: &'a mut dyn Platform,
    /// Instructions retired before the current block, and where the block is.
    retired: u64,
    block: usize,
    pub(crate) model: &'static CpuModel,
    interrupt: &'a AtomicBool,
    /// `cpu.mode()`, kept by [`Ctx::mode_changed`].
    pub(crate) mode: Mode,
    /// Bit *s*: segment register *s* is flat and readable, and no access needs a closer look (alignment checks).
    flat_read: u8,
    /// The same for writing.
    flat_write: u8,
    /// Accesses must be aligned: CPL 3, CR0.AM and EFLAGS.AC.
    pub(crate) check_alignment: bool,
    /// Some breakpoint is enabled.
    pub(crate) debugging: bool,
    /// DR6 bits of the I/O breakpoints hit.
    pub(crate) io_hits: u32,
    /// The instruction went through a gate: its single step is over.
    pub(crate) untrapped: bool,
    /// The state is another task's: a fault is that one's, and nothing is taken back.
    pub(crate) switched: bool,
    /// Bits of ESP that address the stack: 32 or 16 of them, by SS.B.
    pub(crate) stack_mask: u32,
}

impl<'a> Ctx<'a> {
    pub(crate) fn new(
        cpu: &'a mut CpuState,
        mmu: &'a mut Mmu,
        platform: &'a mut dyn Platform,
        model: &'static CpuModel,
        interrupt: &'a AtomicBool,
    ) -> Self {
        let mut ctx = Ctx {
            cpu,
            mmu,
            platform,
            retired: 0,
            block: 0,
            model,
            interrupt,
            mode: Mode::default(),
            flat_read: 0,
            flat_write: 0,
            check_alignment: false,
            debugging: false,
            io_hits: 0,
            untrapped: false,
            switched: false,
            stack_mask: 0,
        };
        ctx.mode_changed();
        ctx
    }

    /// Recomputes what is derived from segments, CPL, CR0, CR3, CR4, EFER, DR0-7 and EFLAGS.TF, VM, AC. To be called after
    /// changing any.
    pub(crate) fn mode_changed(&mut self) {
        self.mmu.sync(self.cpu);
        self.mode = self.cpu.mode();
        self.debugging = self.cpu.dr[7] & debug::ENABLES != 0;
        self.stack_mask = if self.mode.has(Mode::STACK32) { u32::MAX } else { 0xffff };
        self.check_alignment = self.cpu.cpl == 3 && self.cpu.cr0 & cr0::AM != 0 && self.cpu.eflags & eflags::AC != 0;
        (self.flat_read, self.flat_write) = (0, 0);
        for s in Seg::ALL {
            let segment = self.cpu.segment(s);
            let flat = segment.is_flat() && !self.check_alignment;
            self.flat_read |= u8::from(flat & segment.attr.readable()) << s as u8;
            self.flat_write |= u8::from(flat & segment.attr.writable()) << s as u8;
        }
    }

    /// Is `seg` flat and readable (`write`: writable), so that offsets are linear addresses?
    #[inline(always)]
    pub(crate) fn is_plain(&self, seg: Seg, write: bool) -> bool {
        (if write { self.flat_write } else { self.flat_read }) >> (seg as u8) & 1 != 0
    }

    /// True when the embedder wants the CPU's attention: long instructions pause between iterations.
    #[inline]
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    /// `block` is next, before which `retired` instructions were.
    #[inline(always)]
    pub(crate) fn begin(&mut self, block: &[Op], retired: u64) {
        (self.block, self.retired) = (block.as_ptr().addr(), retired);
    }

    /// What the CPU is plugged into, which is told where in time `op` of the current block is.
    pub(crate) fn outside(&mut self, op: &Op) -> &mut dyn Platform {
        let before = (core::ptr::from_ref(op).addr() - self.block) / size_of::<Op>();
        self.platform.retired(self.retired + before as u64);
        self.platform
    }

    // --- Flags.

    /// EFLAGS bit or bits `bit`: any set?
    #[inline(always)]
    pub(crate) fn flag(&self, bit: u32) -> bool {
        self.cpu.eflags & bit != 0
    }

    /// Replaces the flags in `mask` by those of `value`. Not for flags that change the mode.
    #[inline(always)]
    pub(crate) fn set_flags(&mut self, mask: u32, value: u32) {
        self.cpu.eflags = self.cpu.eflags & !mask | value & mask;
    }

    /// Replaces the six status flags.
    #[inline(always)]
    pub(crate) fn set_status(&mut self, value: u32) {
        self.set_flags(eflags::STATUS, value);
    }

    // --- Registers.

    /// General register `r` as `T`, zero-extended; never AH to BH.
    #[inline(always)]
    pub(crate) fn gpr<T: Width>(&self, r: u8) -> u32 {
        self.cpu.gpr[(r & 7) as usize] & T::MASK
    }

    /// Sets the low bits of general register `r`; never AH to BH.
    #[inline(always)]
    pub(crate) fn set_gpr<T: Width>(&mut self, r: u8, v: u32) {
        let cell = &mut self.cpu.gpr[(r & 7) as usize];
        *cell = *cell & !T::MASK | v & T::MASK;
    }

    // --- Operands.

    /// The value of operand `o` of `op`, zero-extended.
    #[inline(always)]
    pub(crate) fn get<T: Width>(&mut self, op: &Op, o: Operand) -> Result<u32, Stop> {
        match o {
            Operand::Gpr(r) => Ok(self.gpr::<T>(r)),
            Operand::Imm => Ok(op.imm & T::MASK),
            Operand::Mem => Ok(self.load::<T>(op)?.into()),
            Operand::High(r) => Ok(self.cpu.gpr[(r & 3) as usize] >> 8 & 0xff),
            Operand::Imm2 => Ok(u32::from(op.imm2) & T::MASK),
            _ => Err(Stop::Unimplemented(op.code)),
        }
    }

    /// Sets operand `o` of `op`: for memory the write comes first and may fault.
    #[inline(always)]
    pub(crate) fn set<T: Width>(&mut self, op: &Op, o: Operand, v: u32) -> Exec {
        match o {
            Operand::Gpr(r) => self.set_gpr::<T>(r, v),
            Operand::High(r) => self.set_high(r, v),
            Operand::Mem => self.store::<T>(op, T::low(v))?,
            _ => return Err(Stop::Unimplemented(op.code)),
        }
        Ok(())
    }

    #[inline(always)]
    fn set_high(&mut self, r: u8, v: u32) {
        let cell = &mut self.cpu.gpr[(r & 3) as usize];
        *cell = *cell & !0xff00 | (v & 0xff) << 8;
    }

    /// Reads operand `o`, applies `f` and writes the result back: as one atomic step when the instruction is
    /// locked. Gives the old and the new value, so that flags are set once nothing can fault any more.
    #[inline(always)]
    pub(crate) fn update<T: Width>(&mut self, op: &Op, o: Operand, f: impl Fn(u32) -> u32) -> Result<(u32, u32), Stop> {
        match o {
            Operand::Gpr(r) => {
                let old = self.gpr::<T>(r);
                let new = f(old) & T::MASK;
                self.set_gpr::<T>(r, new);
                Ok((old, new))
            }
            Operand::High(r) => {
                let old = self.cpu.gpr[(r & 3) as usize] >> 8 & 0xff;
                let new = f(old) & 0xff;
                self.set_high(r, new);
                Ok((old, new))
            }
            Operand::Mem => {
                let at = self.address(op);
                self.update_at::<T>(op, op.mem.seg, at, f)
            }
            _ => Err(Stop::Unimplemented(op.code)),
        }
    }

    // --- Faults.

    /// The current privilege level must be 0: #GP(0) otherwise.
    pub(crate) fn require_cpl0(&self) -> Exec {
        if self.cpu.cpl == 0 { Ok(()) } else { Err(Fault::gp(0).into()) }
    }

    /// Protected mode without virtual-8086 mode: segment registers hold selectors of descriptors.
    #[inline]
    pub(crate) fn protected(&self) -> bool {
        self.mode.has(Mode::PROTECTED) && !self.mode.has(Mode::VM86)
    }
}
