//! Checked accesses that share a look-up.
//!
//! Compiled code reaches its stack frame again and again through EBP or ESP. The first such access in a straight run of code looks up the
//! whole range that the run will reach through that register, and keeps where it is in host memory in the frame; the others need no check.
//! Between the first and the last of them code can't be entered or stopped (their boundaries are *pinned*), and nothing that could change a mapping is
//! executed.
//!
//! A range that crosses pages, or isn't all there, is the business of another translation of the same code, which checks each access
//! ([`Mode::CAREFUL`]).

use crate::branch::Addresses;
use crate::emit::Emitter;
use crate::operand::{HostMem, R9, R12};
use crate::tlb::{Access, Saved};
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Code, Mnemonic, OpKind, Register};
use xlat86_arch::{Mode, Reg};
use xlat86_decoder::{Insn, Kind};
use xlat86_host::Frame;

/// Longest range in bytes: a longer one crosses pages too often.
const LONGEST: i32 = 192;
/// Instructions looked at.
const HORIZON: usize = 40;

/// The registers through which accesses are grouped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Base {
    Ebp,
    Esp,
}

/// A range that has been looked up. Offsets count from the base register; from what R12 was when the unit began in the case of ESP.
#[derive(Clone, Copy, Debug)]
struct Group {
    from: i32,
    to: i32,
    /// Writes have been looked up too.
    write: bool,
    /// Index of the last instruction that uses it.
    last: usize,
}

/// The groups in force.
#[derive(Default)]
pub(crate) struct Groups {
    all: [Option<Group>; 2],
    /// What has been added to R12 since the unit began.
    moved: i32,
    /// Addresses that jumps inside the unit reach.
    pub(crate) targets: Addresses,
}

impl Groups {
    /// Nothing looked up before holds any more.
    pub(crate) fn drop_all(&mut self) {
        self.all = [None; 2];
    }

    /// R12 has been given another value.
    pub(crate) fn drop_esp(&mut self) {
        self.all[Base::Esp as usize] = None;
    }

    /// R12 has moved by `n`.
    pub(crate) fn esp_moved(&mut self, n: i32) {
        self.moved = self.moved.wrapping_add(n);
    }

    /// Is the boundary of instruction number `at` inside a group?
    pub(crate) fn pinned(&self, at: usize) -> bool {
        // Asked at every boundary, and mostly there are none.
        let inside = |g: &Option<Group>| g.as_ref().is_some_and(|g| at <= g.last);
        inside(&self.all[0]) || inside(&self.all[1])
    }

    /// Instruction number `at` has been emitted.
    pub(crate) fn after(&mut self, insn: &Insn, at: usize) {
        if self.all.iter().all(Option::is_none) {
            return;
        }
        if ends_run(insn) {
            self.drop_all();
        }
        if writes(insn, Base::Ebp) {
            self.all[Base::Ebp as usize] = None;
        }
        if writes(insn, Base::Esp) {
            self.drop_esp();
        }
        for g in &mut self.all {
            *g = g.filter(|g| g.last > at);
        }
    }
}

/// Does straight code end with `insn`, for what has been looked up before?
fn ends_run(insn: &Insn) -> bool {
    match insn.kind {
        Kind::Plain | Kind::Fpu | Kind::Stack => false,
        Kind::String => insn.iced.has_rep_prefix() || insn.iced.has_repne_prefix(),
        Kind::Branch => !insn.iced.is_jcc_short_or_near(),
        Kind::Sensitive | Kind::Invalid => true,
    }
}

/// Does `insn` change the base register, other than ESP by a constant?
fn writes(insn: &Insn, base: Base) -> bool {
    let (full, half) = match base {
        Base::Ebp => (Register::EBP, Register::BP),
        Base::Esp => (Register::ESP, Register::SP),
    };
    let i = &insn.iced;
    let names = |n: u32| i.op_kind(n) == OpKind::Register && (i.op_register(n) == full || i.op_register(n) == half);
    match i.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push | Mnemonic::Bt => false,
        Mnemonic::Leave | Mnemonic::Popad | Mnemonic::Popa | Mnemonic::Enter => true,
        Mnemonic::Pushad | Mnemonic::Pusha => base == Base::Esp,
        Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Cmpxchg => (0..i.op_count()).any(names),
        _ => i.op_count() > 0 && names(0) && (base == Base::Ebp || constant_move(insn).is_none()),
    }
}

/// By how much `insn` moves ESP, if that is a constant and all that it does with it.
fn constant_move(insn: &Insn) -> Option<i32> {
    let i = &insn.iced;
    let esp = i.op_count() > 0 && i.op0_kind() == OpKind::Register && i.op0_register() == Register::ESP;
    match insn.code() {
        Code::Add_rm32_imm8 | Code::Add_rm32_imm32 if esp => Some(i.immediate(1) as i32),
        Code::Sub_rm32_imm8 | Code::Sub_rm32_imm32 if esp => Some((i.immediate(1) as i32).wrapping_neg()),
        Code::Lea_r32_m if esp && i.memory_base() == Register::ESP && i.memory_index() == Register::None => {
            Some(i.memory_displacement32() as i32)
        }
        Code::Push_r32 | Code::Push_rm32 | Code::Pushd_imm32 | Code::Pushd_imm8 => Some(-4),
        Code::Pop_r32 if !esp => Some(4),
        _ => None,
    }
}

/// A range of offsets.
#[derive(Clone, Copy)]
struct Range {
    from: i32,
    to: i32,
}

impl Emitter<'_> {
    /// The operand for an access to `mem` that shares its look-up with others, if it is one.
    pub(crate) fn grouped(&mut self, mem: HostMem, access: Access, save: Saved) -> Option<HostMem> {
        let base = match mem {
            HostMem { base: Some(R12), index: None, .. } => Base::Esp,
            HostMem { base: Some(b), index: None, .. } if b == Reg::Ebp as u8 => Base::Ebp,
            _ => return None,
        };
        if !self.config.shared_checks || self.mode.has(Mode::CAREFUL) || save == Saved::Flags {
            return None;
        }
        if self.in_shadow() {
            // The careful code knows nothing of that.
            return None;
        }
        let slot = offset_of!(Frame, shared) as i32 + 8 * base as i32;
        let origin = if base == Base::Esp { self.groups.moved } else { 0 };
        let at = mem.disp.wrapping_add(origin);
        let end = at.wrapping_add(access.size as i32);
        let host = HostMem::at(R9, at);
        if let Some(g) = self.groups.all[base as usize].filter(|g| g.from <= at && end <= g.to) {
            if access.write && !g.write {
                // The range is in one page: what holds for this write does for the others.
                let rm = self.look_up_shared(mem, access, save);
                self.groups.all[base as usize] = Some(Group { write: true, ..g });
                return Some(rm);
            }
            dynasm!(self.buf ; .arch x64 ; mov r9, [r14 + slot]);
            return Some(host);
        }
        let (range, last) = self.run(base, Range { from: at, to: end })?;
        let whole = Access { size: (range.to - range.from) as u32, ..access };
        let first = HostMem { disp: range.from.wrapping_sub(origin), ..mem };
        self.look_up_shared(first, whole, save);
        // lea r9, [r8 + r9 - from]: 64 bits wide.
        self.buf.bytes.extend_from_slice(&[0x4f, 0x8d, 0x8c, 0x08]);
        self.buf.bytes.extend_from_slice(&range.from.wrapping_neg().to_le_bytes());
        dynasm!(self.buf ; .arch x64 ; mov [r14 + slot], r9);
        let g = Group { from: range.from, to: range.to, write: access.write, last };
        self.groups.all[base as usize] = Some(g);
        Some(host)
    }

    /// The range that the code from the current instruction on reaches through `base`, `first` included, and the last instruction that
    /// does; `None` unless there are others.
    fn run(&self, base: Base, first: Range) -> Option<(Range, usize)> {
        let (mut all, mut last, mut uses) = (first, self.at, 0);
        let mut esp = self.groups.moved.wrapping_add(self.esp);
        for (n, insn) in self.insns.iter().enumerate().skip(self.at).take(HORIZON) {
            if n > self.at && self.groups.targets.contains(insn.eip()) {
                break;
            }
            let (mut of_insn, mut count) = (all, 0);
            for r in reached(insn, base, if base == Base::Esp { esp } else { 0 }).into_iter().flatten() {
                of_insn = Range { from: of_insn.from.min(r.from), to: of_insn.to.max(r.to) };
                count += 1;
            }
            if of_insn.to.wrapping_sub(of_insn.from) > LONGEST {
                break;
            }
            if count > 0 {
                (all, last) = (of_insn, n);
                uses += count;
            }
            if ends_run(insn) || writes(insn, base) {
                break;
            }
            esp = esp.wrapping_add(constant_move(insn).unwrap_or(0));
        }
        (uses > 1).then_some((all, last))
    }
}

/// What `insn` reaches through `base`, whose offset is `origin`.
fn reached(insn: &Insn, base: Base, origin: i32) -> [Option<Range>; 2] {
    let i = &insn.iced;
    let range =
        |at: i32, size: i32| Range { from: origin.wrapping_add(at), to: origin.wrapping_add(at).wrapping_add(size) };
    let register = if base == Base::Ebp { Register::EBP } else { Register::ESP };
    let explicit = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory)
        && i.memory_base() == register
        && i.memory_index() == Register::None
        && !matches!(i.segment_prefix(), Register::FS | Register::GS)
        && !matches!(i.mnemonic(), Mnemonic::Lea | Mnemonic::Pop | Mnemonic::Nop)
        && matches!(insn.kind, Kind::Plain | Kind::Fpu | Kind::Stack | Kind::Branch);
    let size = i.memory_size().size().clamp(1, 16) as i32;
    let operand = explicit.then(|| range(i.memory_displacement32() as i32, size));
    let implicit = match (base, insn.code()) {
        (Base::Esp, Code::Push_r32 | Code::Push_rm32 | Code::Pushd_imm32 | Code::Pushd_imm8) => Some(range(-4, 4)),
        (Base::Esp, Code::Call_rel32_32 | Code::Call_rm32) => Some(range(-4, 4)),
        (Base::Esp, Code::Pop_r32 | Code::Retnd | Code::Retnd_imm16) => Some(range(0, 4)),
        (Base::Ebp, Code::Leaved) => Some(range(0, 4)),
        _ => None,
    };
    [operand, implicit]
}
