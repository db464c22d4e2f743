//! The checked form of memory accesses: each looks its page up in the software TLB, inline.
//!
//! ```text
//! lea  r8d, [operand]            the guest address
//! mov  r9d, r8d
//! shr  r9d, 12                   its page: the index
//! lea  r10d, [r8 + size - 1]
//! shr  r10d, 12                  the last byte's page
//! cmp  r10d, [r14 + r9*8 + tag]  an access that crosses pages never compares equal
//! jne  slow
//! mov  r9, [r14 + r9*8 + addend]
//! ...  [r8 + r9]
//! ```
//!
//! Where the guest's flags are needed afterwards, the same is done without flags. The slow way leaves with all guest registers as they
//! were at the start of the instruction (but for [`Fix`]), so that it can be executed again from there.

use crate::config::AddressForm;
use crate::emit::Emitter;
use crate::operand::{self, HostMem, R8, R9, R10, R12};
use crate::reencode::Rm;
use crate::stubs;
use crate::unit::{Exit, ExitKind, Fix};
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::Instruction;
use xlat86_arch::Mode;
use xlat86_decoder::Insn;
use xlat86_host::{Frame, TlbView};

/// What an instruction does with its memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Access {
    /// Bytes.
    pub(crate) size: u32,
    /// Needs write permission.
    pub(crate) write: bool,
}

impl Access {
    pub(crate) const fn write(size: u32) -> Self {
        Access { size, write: true }
    }
}

/// An access's slow way, to be emitted behind the unit's code.
#[derive(Clone, Copy)]
pub(crate) struct Slow {
    /// Offset of the displacement that leads there.
    pub(crate) patch: usize,
    eip: u32,
    access: Access,
    /// What has to be added to R12.
    esp: i32,
    /// Where what has to be restored has been put, if anything has.
    saved: Option<Saved>,
    /// The instruction may be started again from its boundary: R12 is what it was there.
    again: bool,
    /// Several accesses share the look-up.
    shared: bool,
    /// See [`Fix::shadow`].
    shadow: bool,
}

/// Where a look-up without flags keeps ECX.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Saved {
    R11,
    Frame,
    /// Nothing: the flags may be clobbered, because the frame has them.
    Flags,
}

impl Emitter<'_> {
    /// Emits what has to precede an access to the guest memory `mem`, and gives the operand to access it by. Uses R8, R9 and R10 in the
    /// checked form, R11 too.
    pub(crate) fn reach(&mut self, mem: HostMem, access: Access) -> Rm {
        self.reach_with(mem, access, Saved::R11)
    }

    /// The same, leaving R11 alone.
    pub(crate) fn reach_beside(&mut self, mem: HostMem, access: Access) -> Rm {
        self.reach_with(mem, access, Saved::Frame)
    }

    /// The same where the flags are in the frame.
    pub(crate) fn reach_clobbering(&mut self, mem: HostMem, access: Access) -> Rm {
        self.reach_with(mem, access, Saved::Flags)
    }

    fn reach_with(&mut self, mem: HostMem, access: Access, save: Saved) -> Rm {
        match self.config.address_form {
            AddressForm::Low | AddressForm::Gs => Rm::Mem(mem),
            AddressForm::Tlb => match self.grouped(mem, access, save) {
                Some(host) => Rm::Host(host),
                None => Rm::Host(self.look_up(mem, access, save, false)),
            },
        }
    }

    /// Does every access look its page up?
    pub(crate) fn looks_up(&self) -> bool {
        self.config.address_form == AddressForm::Tlb
    }

    /// A look-up for this access and others.
    pub(crate) fn look_up_shared(&mut self, mem: HostMem, access: Access, save: Saved) -> HostMem {
        self.look_up(mem, access, save, true)
    }

    fn look_up(&mut self, mem: HostMem, access: Access, save: Saved, shared: bool) -> HostMem {
        let view = if self.mode.has(Mode::USER) { TlbView::User } else { TlbView::Supervisor };
        let tags = if access.write { view.write_tags() } else { view.read_tags() };
        let last = access.size as i32 - 1;
        let free = save == Saved::Flags || self.flags_are_dead_here();
        if mem != HostMem::at(R8, 0) {
            operand::lea(&mut self.buf, R8, &mem);
        }
        if free {
            dynasm!(self.buf ; .arch x64 ; mov r9d, r8d ; shr r9d, 12);
            if last == 0 {
                dynasm!(self.buf ; .arch x64 ; cmp r9d, [r14 + r9 * 8 + tags]);
            } else {
                operand::lea(&mut self.buf, R10, &HostMem::at(R8, last));
                dynasm!(self.buf ; .arch x64 ; shr r10d, 12 ; cmp r10d, [r14 + r9 * 8 + tags]);
            }
            self.buf.bytes.extend_from_slice(&[0x0f, 0x85]);
            self.slow_way(access, (save == Saved::Flags).then_some(save), shared);
        } else {
            match save {
                Saved::R11 => dynasm!(self.buf ; .arch x64 ; mov r11d, ecx),
                Saved::Frame | Saved::Flags => dynasm!(self.buf ; .arch x64 ; mov [r14 + SPILL], ecx),
            }
            dynasm!(self.buf ; .arch x64 ; mov ecx, 12 ; shrx r9d, r8d, ecx);
            operand::lea(&mut self.buf, R10, &HostMem::at(R8, last));
            dynasm!(self.buf ; .arch x64
                ; shrx r10d, r10d, ecx
                ; not r10d
                ; mov ecx, [r14 + r9 * 8 + tags]
                ; lea ecx, [rcx + r10 + 1]
            );
            // jrcxz over the jump to the slow way
            self.buf.bytes.extend_from_slice(&[0xe3, 5, 0xe9]);
            self.slow_way(access, Some(save), shared);
            restore(self, save);
        }
        dynasm!(self.buf ; .arch x64 ; mov r9, [r14 + r9 * 8 + view.addends()]);
        HostMem { base: Some(R8), index: Some((R9, 0)), disp: 0 }
    }

    /// Appends the displacement of a jump to the slow way.
    fn slow_way(&mut self, access: Access, saved: Option<Saved>, shared: bool) {
        let (patch, eip) = (self.buf.pos(), self.insns[self.at].eip());
        let again = self.boundary_esp() == self.esp;
        let shadow = self.in_shadow();
        self.slow.push(Slow { patch, eip, access, esp: self.esp, saved, again, shared, shadow });
        self.buf.bytes.extend_from_slice(&[0; 4]);
    }

    /// Emits the slow ways of all accesses.
    pub(crate) fn emit_slow_ways(&mut self) {
        for s in core::mem::take(&mut self.slow) {
            let to = self.buf.pos();
            self.buf.set32(s.patch, (to - s.patch - 4) as u32);
            if let Some(save) = s.saved {
                restore(self, save);
            }
            if s.shared {
                self.leave_for_careful(&s);
                continue;
            }
            stubs::leave(&mut self.buf);
            let again = self.boundary_of(s.eip).filter(|_| s.again);
            let fix = Fix { esp: s.esp, shadow: s.shadow, ..Fix::default() };
            let kind = ExitKind::Access { size: s.access.size as u16, write: s.access.write, again, fix };
            self.exits.push(Exit { site: self.buf.pos() as u32, eip: s.eip, kind });
        }
    }

    /// A jump that leaves, and may be chained to a translation that checks each access.
    fn leave_for_careful(&mut self, s: &Slow) {
        if s.esp != 0 {
            operand::lea(&mut self.buf, R12, &HostMem::at(R12, s.esp));
        }
        self.buf.align_patch(1);
        self.buf.bytes.push(0xe9);
        let patch = self.buf.pos();
        self.buf.bytes.extend_from_slice(&[0; 4]);
        stubs::leave(&mut self.buf);
        let (size, write) = (s.access.size as u16, s.access.write);
        let kind = ExitKind::Careful { target: s.eip, patch: patch as u32, size, write };
        self.exits.push(Exit { site: self.buf.pos() as u32, eip: s.eip, kind });
    }

    /// The operands of BT and kin whose bit offset is in a register: its upper bits choose the unit of memory, wrapping at 4 GB as the
    /// host's own addition to a host address wouldn't.
    pub(crate) fn bit_operand(&mut self, insn: &Insn, access: Access) -> (Rm, u8) {
        let i: &Instruction = &insn.iced;
        let mem = operand::prepare(&mut self.buf, i, self.esp);
        operand::lea(&mut self.buf, R8, &mem);
        let reg = operand::host_reg(i.op1_register().number() as u8);
        let wide = access.size == 4;
        if wide {
            dynasm!(self.buf ; .arch x64 ; mov r11d, Rd(reg) ; mov r10d, 5 ; sarx r9d, r11d, r10d ; lea r8d, [r8 + r9 * 4]);
        } else {
            dynasm!(self.buf ; .arch x64 ; movsx r11d, Rw(reg) ; mov r10d, 4 ; sarx r9d, r11d, r10d ; lea r8d, [r8 + r9 * 2]);
        }
        let rm = self.reach_beside(HostMem::at(R8, 0), access);
        dynasm!(self.buf ; .arch x64 ; mov r10d, if wide { 31 } else { 15 } ; pext r10d, r11d, r10d);
        (rm, R10)
    }
}

/// Offsets in the frame of room for a register and for the flags.
pub(crate) const SPILL: i32 = offset_of!(Frame, spill) as i32;
pub(crate) const FLAGS: i32 = offset_of!(Frame, spilled_flags) as i32;

fn restore(e: &mut Emitter<'_>, from: Saved) {
    match from {
        Saved::R11 => dynasm!(e.buf ; .arch x64 ; mov ecx, r11d),
        Saved::Frame => dynasm!(e.buf ; .arch x64 ; mov ecx, [r14 + SPILL]),
        Saved::Flags => dynasm!(e.buf ; .arch x64 ; push QWORD [r14 + FLAGS] ; popfq),
    }
}
