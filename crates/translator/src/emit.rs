//! One guest instruction after the other into a unit's code.
//!
//! Rules every expansion keeps: loads and stores that can fault come before any guest register changes (or a [`Fix`] says how to repair
//! it), flags change only as the guest instruction changes them, and only R8 to R11 are free.

use crate::branch::{self, Addresses, Fold};
use crate::buf::CodeBuf;
use crate::checked::{self, Constant, Snapshot};
use crate::esp;
use crate::flags;
use crate::group::Groups;
use crate::line;
use crate::operand;
use crate::reencode::{self, reencode};
use crate::replayed;
use crate::shape::shape_of;
use crate::stack;
use crate::stubs;
use crate::tlb::Slow;
use crate::unit::{Exit, ExitKind, Fix, Mark, Source, Unit};
use crate::{AddressForm, Config};
use crate::{sensitive, string};
use core::cell::RefCell;
use core::mem::take;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};
use xlat86_arch::{Mode, PAGE_SIZE};
use xlat86_decoder::{Insn, Kind, MAX_INSN_LEN, Unit as FpUnit, unit_of};
use xlat86_host::Frame;

/// What happens to control after an instruction was emitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// The host falls through to the code of the next guest instruction.
    FallThrough,
    /// It never gets there.
    Elsewhere,
}

/// A jump to a guest address, to be resolved when the unit is complete.
pub(crate) struct PendingJump {
    /// Offset of the displacement.
    pub(crate) patch: usize,
    /// Guest EIP to reach.
    pub(crate) target: u32,
    /// Guest EIP of the jump.
    pub(crate) eip: u32,
    /// A call: it must push its landing's address, so it can't be folded into the unit by a short form.
    pub(crate) call: bool,
    /// The displacement is one byte: it leads forward in the unit, not far if all goes well.
    short: bool,
}

/// The state of one translation.
pub(crate) struct Emitter<'a> {
    pub(crate) buf: CodeBuf,
    pub(crate) config: &'a Config,
    /// The same, but that memory is reached by looking pages up.
    pub(crate) looking_up: &'a Config,
    pub(crate) source: &'a mut dyn Source,
    pub(crate) insns: &'a [Insn],
    /// The mode that the code is for.
    pub(crate) mode: Mode,
    /// What its direct jumps reach in it.
    targets: Addresses,
    /// Index of the instruction being emitted.
    pub(crate) at: usize,
    /// Jumps forward in the unit over less than this many guest bytes are short.
    near: u32,
    /// What to add to R12 to get guest ESP: see [`crate::esp`].
    pub(crate) esp: i32,
    /// Index of the first instruction at whose start the status flags are the guest's again.
    stale_until: usize,
    /// Index of the latest instruction before whose completion there are no interrupts; 0 is none.
    shadowed: usize,
    marks: Vec<Mark>,
    pub(crate) exits: Vec<Exit>,
    pub(crate) landings: Vec<u32>,
    /// Where the code is in cache lines matters: see [`crate::line`].
    pub(crate) lined: bool,
    jumps: Vec<PendingJump>,
    /// Slow ways of checked accesses.
    pub(crate) slow: Vec<Slow>,
    /// Folded calls of thunks on other pages.
    pub(crate) folds: Vec<Fold>,
    /// Look-ups that accesses share.
    pub(crate) groups: Groups,
    /// Code before this offset holds displacements that are settled already: it can't be moved.
    settled: usize,
    /// The unit checks itself: see [`crate::checked`].
    pub(crate) checked: bool,
    /// It doesn't compare 32-bit immediates, but loads them.
    loads_immediates: bool,
    /// Index of an indirect jump that is close behind the landing before: see [`crate::line`].
    pub(crate) indirect: Option<usize>,
    /// What the check compares with, to be placed behind the code.
    pub(crate) constants: Vec<Constant>,
}

/// Can control reach the instruction after `insn` from it? (A call counts: it returns.)
pub(crate) fn falls_through(insn: &Insn) -> bool {
    if insn.kind == Kind::Invalid {
        return false;
    }
    match insn.iced.flow_control() {
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return => false,
        FlowControl::Exception => false,
        _ => insn.iced.mnemonic() != Mnemonic::Hlt,
    }
}

/// Does `i` select a bit, by a register, of any size of memory?
fn is_bit_string(i: &Instruction) -> bool {
    let bit = matches!(i.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    bit && i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register
}

/// Jumps forward over no more guest bytes are made short.
const NEAR: u32 = 32;

/// What is translated, and how.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// Guest address of the first instruction.
    pub(crate) eip: u32,
    /// They lie one after the other in `bytes`.
    pub(crate) insns: &'a [Insn],
    pub(crate) bytes: &'a [u8],
    pub(crate) mode: Mode,
    /// The code may change unnoticed, and is to check itself.
    pub(crate) checked: bool,
    pub(crate) config: &'a Config,
}

/// Lists of units that have been placed, empty, for the memory that they have: asking for it each time is a tenth of translation.
#[derive(Default)]
struct Spare {
    code: Vec<u8>,
    marks: Vec<Mark>,
    exits: Vec<Exit>,
    landings: Vec<u32>,
    jumps: Vec<PendingJump>,
    constants: Vec<Constant>,
    snapshot: Option<Box<Snapshot>>,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// See [`Unit::recycle`].
pub(crate) fn recycle(unit: Unit) {
    let Unit { mut code, mut marks, mut exits, mut landings, snapshot, .. } = unit;
    code.clear();
    marks.clear();
    exits.clear();
    landings.clear();
    SPARE.with_borrow_mut(|s| {
        (s.code, s.marks, s.exits, s.landings) = (code, marks, exits, landings);
        s.snapshot = snapshot.or(s.snapshot.take());
    });
}

/// Translates `input`.
pub(crate) fn emit(input: Input<'_>, source: &mut dyn Source) -> Unit {
    // How far a jump forward leads is known when it is there: once in a while too far for a short one.
    // Code that looks up its pages is long.
    let near = if input.config.address_form == AddressForm::Tlb { 0 } else { NEAR };
    let unit = [near, 0].into_iter().find_map(|near| emit_with(input, source, near));
    unit.expect("long jumps reach everything")
}

/// Translates `input`, with short jumps over at most `near` guest bytes; `None` if one didn't reach its target.
fn emit_with(input: Input<'_>, source: &mut dyn Source, near: u32) -> Option<Unit> {
    let Input { eip, insns, bytes, mode, checked, config } = input;
    let insns = if checked { &insns[..checked::span(insns)] } else { insns };
    let insns = if config.replayed { &insns[..replayed::span(insns)] } else { insns };
    // What some instructions do beside a window, too.
    let looking_up = Config { address_form: AddressForm::Tlb, shared_checks: false, ..*config };
    let (targets, loop_heads) = branch::targets(insns);
    let Spare { code, marks, exits, landings, jumps, constants, snapshot: spare } = SPARE.take();
    let snapshot = checked.then(|| {
        let mut snapshot = spare.unwrap_or_default();
        snapshot.renew(eip, insns, bytes, source.found_changed(eip));
        snapshot
    });
    let loads_immediates = snapshot.as_ref().is_some_and(|s| s.loads());
    let mut e = Emitter {
        buf: CodeBuf { bytes: code },
        config,
        looking_up: &looking_up,
        source,
        insns,
        mode,
        targets,
        at: 0,
        near,
        esp: 0,
        stale_until: 0,
        shadowed: 0,
        marks,
        exits,
        landings,
        lined: false,
        jumps,
        slow: Vec::new(),
        folds: Vec::new(),
        groups: Groups::default(),
        settled: 0,
        checked,
        loads_immediates,
        indirect: None,
        constants,
    };
    e.buf.bytes.reserve(bytes.len() * if checked { 6 } else { 3 } + 256);
    e.marks.reserve(insns.len() + 4);
    // There most instructions stay what they are.
    let low = config.address_form == AddressForm::Low;
    let windowed = config.paged && config.address_form == AddressForm::Gs;
    e.groups.targets = targets;
    let (mut next, mut end) = (Next::FallThrough, eip);
    for (i, insn) in insns.iter().enumerate() {
        e.at = i;
        if windowed {
            let looks_up = e.source.keeps_faulting(insn.eip());
            e.config = if looks_up { &looking_up } else { config };
        }
        let target = targets.contains(insn.eip());
        if e.esp != 0 && (target || e.is_before_jcc() || config.paged && string::is_repeated(insn)) {
            // Jumps find ESP in R12, as does an instruction that goes on from its own start; and nothing may come between a compare and
            // its jump.
            e.sync_esp();
        }
        if target {
            e.groups.drop_all();
            if loop_heads.contains(insn.eip()) {
                e.align_loop_head();
            }
        }
        e.place_boundary();
        e.mark(insn.eip());
        if let (0, Some(snapshot)) = (i, &snapshot) {
            checked::compare(&mut e, snapshot);
        }
        let from = insn.eip().wrapping_sub(eip) as usize;
        let own = &bytes[from..from + insn.len()];
        if low && insn.kind == Kind::Plain && (e.loaded(insn) || e.copied(insn, own)) {
            (end, next) = (insn.next_eip(), Next::FallThrough);
            continue;
        }
        let exits = e.exits.len();
        next = e.insn(insn, own);
        e.groups.after(insn, i);
        if e.exits.len() != exits {
            // Whatever was executed outside may have changed mappings.
            e.groups.drop_all();
        }
        end = insn.next_eip();
        if checked && e.exits.last().is_some_and(|x| x.kind.is_leave()) {
            // It is entered again behind this instruction, thus as another unit.
            e.insns = &insns[..=i];
            break;
        }
    }
    if next == Next::FallThrough {
        e.sync_esp();
        e.jump_to(end, end);
    }
    e.finish(eip, end.wrapping_sub(eip), snapshot)
}

impl Emitter<'_> {
    fn insn(&mut self, insn: &Insn, bytes: &[u8]) -> Next {
        // A code segment can't be written to, but host operands have no segments: rare, so the interpreter looks into it. Reads are
        // told apart where kernels make them, and it is known that they may.
        let nop = insn.iced.mnemonic() == Mnemonic::Nop;
        let write = || shape_of(insn.code()).access(&insn.iced).write;
        if insn.iced.memory_segment() == Register::CS
            && insn.kind != Kind::Branch
            && !nop
            && (!self.config.paged || write())
        {
            return self.interpret(insn);
        }
        if self.mode.has(Mode::FPU_OFF) && unit_of(insn.code()) != FpUnit::Integer {
            return self.interpret(insn);
        }
        // The bit offset counts before a 16-bit address is truncated; no host operand does both.
        let odd = operand::is_16_bit(&insn.iced) && is_bit_string(&insn.iced);
        if odd || self.unusable_segment(insn) {
            return self.interpret(insn);
        }
        let divides = matches!(insn.iced.mnemonic(), Mnemonic::Div | Mnemonic::Idiv);
        if divides && self.config.paged && self.source.keeps_faulting(insn.eip()) {
            // A divide error of the host costs a signal.
            return self.interpret(insn);
        }
        self.check_segment(insn);
        match insn.kind {
            Kind::Plain | Kind::Fpu => match insn.iced.mnemonic() {
                Mnemonic::Nop => Next::FallThrough,
                // Hints: a page looked up for one would be one too many.
                Mnemonic::Prefetchnta | Mnemonic::Prefetcht0 | Mnemonic::Prefetcht1 | Mnemonic::Prefetcht2
                    if self.looks_up() =>
                {
                    Next::FallThrough
                }
                Mnemonic::Reservednop if self.looks_up() => Next::FallThrough,
                // Hints of later processors. Those of 0F 18 are prefetches.
                Mnemonic::Reservednop if !bytes.windows(2).any(|w| w == [0x0f, 0x18]) => Next::FallThrough,
                _ => self.plain(insn, bytes),
            },
            Kind::Stack => stack::emit(self, insn, bytes),
            Kind::String => string::emit(self, insn, bytes),
            Kind::Branch => branch::emit(self, insn),
            Kind::Sensitive => sensitive::emit(self, insn, bytes),
            Kind::Invalid => self.interpret(insn),
        }
    }

    /// Emits the plain instruction `insn` with its immediate loaded from guest memory, if the unit does so and it has one; true when it was.
    fn loaded(&mut self, insn: &Insn) -> bool {
        self.loads_immediates && checked::load_immediate(self, insn)
    }

    /// In the low window: copies the plain instruction `insn`, whose bytes are `bytes`, if it stays what it is; true when it was.
    #[inline(always)]
    fn copied(&mut self, insn: &Insn, bytes: &[u8]) -> bool {
        let same = reencode::is_same(insn, bytes);
        if same {
            self.buf.copy(bytes);
        }
        same
    }

    /// A plain instruction: re-encoded, unless the host's 64-bit mode lacks it.
    pub(crate) fn plain(&mut self, insn: &Insn, bytes: &[u8]) -> Next {
        if self.loaded(insn) {
            return Next::FallThrough;
        }
        if esp::names_esp(insn) {
            if self.lazy_esp(insn) {
                return Next::FallThrough;
            }
            self.sync_esp();
            // It may be changed in a way that isn't followed.
            self.groups.drop_esp();
        }
        if !shape_of(insn.code()).direct {
            if crate::legacy::emit(self, insn, bytes) {
                return Next::FallThrough;
            }
            if insn.code() == Code::Ldmxcsr_m32 {
                sensitive::ldmxcsr(self, insn);
                return Next::FallThrough;
            }
            if sensitive::needs_interpreter(insn, self.config.address_form) {
                return self.interpret(insn);
            }
        }
        if let Some((at, r)) = reencode(self, insn, bytes) {
            let fix = Fix { esp: self.esp, swapped: Some(r), pinned: false, shadow: self.in_shadow() };
            let (host, eip) = (at as u32, insn.eip());
            self.marks.push(Mark { host, eip, fix, boundary: false, exact: false, clobbers: false });
        }
        Next::FallThrough
    }

    /// Does `insn` go through FS or GS while that segment can't be used, or not without checks? In unpaged guests the segment's base
    /// takes care of it.
    fn unusable_segment(&self, insn: &Insn) -> bool {
        let open = match insn.iced.segment_prefix() {
            Register::FS => Mode::FS_OPEN,
            Register::GS => Mode::GS_OPEN,
            _ => return false,
        };
        self.config.paged && !self.mode.has(open) && insn.iced.mnemonic() != Mnemonic::Lea
    }

    /// In user programs, has an access through FS or GS fault while that segment can't be used.
    fn check_segment(&mut self, insn: &Insn) {
        let i = &insn.iced;
        let segment = match i.memory_segment() {
            Register::FS => 0,
            Register::GS => 8,
            _ => return,
        };
        if !self.config.paged && i.mnemonic() != Mnemonic::Lea && i.op_kinds().any(|k| k == OpKind::Memory) {
            dynasm!(self.buf ; .arch x64
                ; mov r8, [BYTE r14 + (Frame::USABLE + segment) as i8]
                ; mov r8b, [r8]
            );
        }
    }

    /// Leaves, for the interpreter to execute `insn`.
    pub(crate) fn interpret(&mut self, insn: &Insn) -> Next {
        self.leave(insn, ExitKind::Interpret)
    }

    /// Leaves at `insn`.
    pub(crate) fn leave(&mut self, insn: &Insn, kind: ExitKind) -> Next {
        self.leave_by(stubs::leave, insn, kind)
    }

    /// Calls out at `insn`, which leaves if nobody deals with it there.
    pub(crate) fn call_out(&mut self, insn: &Insn, kind: ExitKind) -> Next {
        self.leave_by(stubs::call_out, insn, kind)
    }

    fn leave_by(&mut self, way: fn(&mut CodeBuf), insn: &Insn, kind: ExitKind) -> Next {
        self.sync_esp();
        way(&mut self.buf);
        let site = self.buf.pos() as u32;
        self.exits.push(Exit { site, eip: insn.eip(), kind });
        if falls_through(insn) { Next::FallThrough } else { Next::Elsewhere }
    }

    /// May the status flags be left in any state after the current instruction? If so, notes until when they are.
    pub(crate) fn flags_are_dead(&mut self) -> bool {
        let rest = &self.insns[self.at + 1..];
        let Some(n) = flags::dead_before(rest, true).filter(|_| self.config.flag_liveness) else { return false };
        self.stale_until = self.stale_until.max(self.at + 1 + n);
        true
    }

    /// May the status flags be left in any state before the current instruction? If so, notes until when they are. The frame of a page fault
    /// may show them: a kernel only hands them back, and where they are looked up before each access keeping them would cost too much.
    pub(crate) fn flags_are_dead_here(&mut self) -> bool {
        let rest = &self.insns[self.at..];
        let Some(n) = flags::dead_before(rest, false).filter(|_| self.config.flag_liveness) else { return false };
        self.stale_until = self.stale_until.max(self.at + n);
        if let Some(m) = self.marks.iter_mut().rfind(|m| m.boundary) {
            m.clobbers = true;
        }
        true
    }

    /// Is a conditional jump next?
    fn is_before_jcc(&self) -> bool {
        self.insns.get(self.at + 1).is_some_and(|n| n.kind == Kind::Branch && n.iced.is_jcc_short_or_near())
    }

    /// Is the current instruction the unit's last?
    pub(crate) fn is_last(&self) -> bool {
        self.at + 1 == self.insns.len()
    }

    /// The current instruction holds interrupts off until the next one has completed: translated code isn't to be stopped in between, and where it
    /// leaves all the same, that is known.
    pub(crate) fn hold_off_interrupts(&mut self) {
        self.shadowed = self.at + 1;
        self.no_stop_next();
    }

    /// Translated code isn't to be stopped before the next instruction has run.
    pub(crate) fn no_stop_next(&mut self) {
        self.stale_until = self.stale_until.max(self.at + 2);
    }

    /// Does the instruction before the current one hold interrupts off?
    pub(crate) fn in_shadow(&self) -> bool {
        self.shadowed != 0 && self.at == self.shadowed
    }

    /// What guest ESP was more than R12 at the start of the current instruction.
    pub(crate) fn boundary_esp(&self) -> i32 {
        self.marks.iter().rfind(|m| m.boundary).map_or(0, |m| m.fix.esp)
    }

    /// Offset of the boundary of the instruction at `eip`.
    pub(crate) fn boundary_of(&self, eip: u32) -> Option<u32> {
        let i = self.marks.partition_point(|m| m.eip < eip);
        self.marks.get(i).filter(|m| m.eip == eip && m.boundary).map(|m| m.host)
    }

    /// From here on, code belongs to the guest instruction at `eip`.
    fn mark(&mut self, eip: u32) {
        let host = self.buf.pos() as u32;
        let pinned = self.groups.pinned(self.at);
        let fix = Fix { esp: self.esp, swapped: None, pinned, shadow: self.in_shadow() };
        let exact = self.at >= self.stale_until && !pinned;
        self.marks.push(Mark { host, eip, fix, boundary: true, exact, clobbers: false });
    }

    /// Here, still in the code of the current instruction, the registers are the guest's as if it were about to begin, though not the host's:
    /// code may be stopped, not entered.
    pub(crate) fn mark_under_way(&mut self) {
        let Some(last) = self.marks.last() else { return };
        let fix = Fix { esp: self.esp, pinned: true, shadow: self.in_shadow(), ..Fix::default() };
        let (host, eip, exact) = (self.buf.pos() as u32, last.eip, self.at >= self.stale_until);
        self.marks.push(Mark { host, eip, fix, boundary: false, exact, clobbers: false });
    }

    /// Notes what guest ESP is more than R12 from here on, still in the code of the current instruction.
    pub(crate) fn mark_esp(&mut self) {
        let host = self.buf.pos() as u32;
        if let Some(last) = self.marks.last() {
            let fix = Fix { esp: self.esp, shadow: self.in_shadow(), ..Fix::default() };
            self.marks.push(Mark { host, eip: last.eip, fix, boundary: false, exact: false, clobbers: false });
        }
    }

    /// Offset of the code for the guest instruction at `eip`, if it has been emitted already and jumps inside the unit are direct.
    pub(crate) fn emitted(&self, eip: u32) -> Option<u32> {
        if !self.jumps_inside(eip) {
            return None;
        }
        crate::unit::entry(&self.marks, eip)
    }

    /// Is there an instruction of this unit at `eip`, to which a jump will go directly?
    pub(crate) fn is_inside(&self, eip: u32) -> bool {
        self.jumps_inside(eip) && self.insns.binary_search_by_key(&eip, Insn::eip).is_ok()
    }

    /// May a jump to `eip` stay in the unit, as far as the address tells? A unit that checks itself does so at its start: there every jump to it goes.
    fn jumps_inside(&self, eip: u32) -> bool {
        self.targets.contains(eip) && self.config.chaining && (!self.checked || self.insns[0].eip() == eip)
    }

    /// Aligns the head of a loop: a small loop that straddles a cache line can run at half speed. Falling into it
    /// executes the padding once.
    fn align_loop_head(&mut self) {
        let at = self.buf.pos();
        let lined = self.lines() && line::leads_to_call(&self.insns[self.at..]);
        self.lined |= lined;
        let align = if lined { line::LINE } else { 32 };
        self.buf.nop(at.next_multiple_of(align) - at);
    }

    /// Is `target` on another page, and may that page's mapping change?
    pub(crate) fn is_far(&self, target: u32) -> bool {
        self.config.paged && self.insns.first().is_some_and(|i| (i.eip() ^ target) >> 12 != 0)
    }

    /// Do jumps to `target` look it up? Direct ones stay as they are while mappings change. So they don't leave the page, nor lead to where an
    /// instruction may begin that goes on on the next page.
    fn is_looked_up(&self, target: u32) -> bool {
        const MAY_CROSS: u32 = PAGE_SIZE - MAX_INSN_LEN as u32;
        self.is_far(target) || self.config.paged && target % PAGE_SIZE > MAY_CROSS
    }

    /// `jmp` to the guest address `target`, on behalf of the instruction at `eip`.
    pub(crate) fn jump_to(&mut self, target: u32, eip: u32) {
        if self.is_looked_up(target) && !self.is_inside(target) {
            dynasm!(self.buf ; .arch x64 ; mov r11d, target as i32);
            stubs::jump_through_table(&mut self.buf);
            return;
        }
        if self.pending_short(0xeb, target, eip) {
            return;
        }
        self.buf.align_patch(1);
        self.buf.bytes.push(0xe9);
        self.pending(target, eip, false);
    }

    /// Appends the short jump `opcode` to `target`, if that is a little further on in the unit.
    pub(crate) fn pending_short(&mut self, opcode: u8, target: u32, eip: u32) -> bool {
        // The jump itself is no target ahead.
        let short = target.wrapping_sub(eip.wrapping_add(1)) < self.near && self.is_inside(target);
        if short {
            self.buf.bytes.extend_from_slice(&[opcode, 0]);
            let patch = self.buf.pos() - 1;
            self.jumps.push(PendingJump { patch, target, eip, call: false, short });
        }
        short
    }

    /// Appends a displacement that will reach the translation of `target`.
    pub(crate) fn pending(&mut self, target: u32, eip: u32, call: bool) {
        self.jumps.push(PendingJump { patch: self.buf.pos(), target, eip, call, short: false });
        self.buf.bytes.extend_from_slice(&[0; 4]);
    }

    /// Moves the last `n` code bytes up so that a 4-byte field at `ahead` bytes from the end can be patched atomically, padding
    /// in front of them: a compare and its jump stay neighbours, which the host fuses into one operation.
    pub(crate) fn align_patch_before(&mut self, start: usize, ahead: usize) {
        let at = (self.buf.pos() + ahead) % 8;
        if at <= 4 {
            return;
        }
        let pad = 8 - at;
        let tail = self.buf.bytes.split_off(start);
        self.buf.nop(pad);
        self.buf.bytes.extend_from_slice(&tail);
        for m in self.marks.iter_mut().rev().take_while(|m| m.host as usize >= start) {
            m.host += pad as u32;
        }
        for s in self.slow.iter_mut().rev().take_while(|s| s.patch >= start) {
            s.patch += pad;
        }
    }

    /// The code so far holds the displacement of a jump inside the unit.
    pub(crate) fn settle(&mut self) {
        self.settled = self.buf.pos();
    }

    /// Offset at which the code of the previous guest instruction starts, if this one follows it directly and nothing else points into it.
    pub(crate) fn previous_start(&self) -> Option<usize> {
        let [.., previous, current] = self.marks[..] else { return None };
        let fusible = previous.boundary && current.host as usize == self.buf.pos();
        let quiet = self.settled <= previous.host as usize
            && self.exits.last().is_none_or(|x| x.site <= previous.host)
            && self.jumps.last().is_none_or(|j| j.patch < previous.host as usize)
            && self.landings.last().is_none_or(|&l| l < previous.host);
        (fusible && quiet).then_some(previous.host as usize)
    }

    /// Resolves jumps: inside the unit directly, others through an exit behind the code, which chaining bypasses.
    fn finish(&mut self, eip: u32, len: u32, snapshot: Option<Box<Snapshot>>) -> Option<Unit> {
        let body = self.buf.pos() as u32;
        self.emit_slow_ways();
        self.emit_folds();
        let mut jumps = take(&mut self.jumps);
        for j in jumps.drain(..) {
            let inside = self.emitted(j.target).filter(|_| !j.call);
            if j.short {
                let distance = i8::try_from(i64::from(inside?) - (j.patch as i64 + 1)).ok()?;
                self.buf.bytes[j.patch] = distance as u8;
                continue;
            }
            let to = match inside {
                Some(host) => host as usize,
                None if self.is_looked_up(j.target) => {
                    let stub = self.buf.pos();
                    dynasm!(self.buf ; .arch x64 ; mov r11d, j.target as i32);
                    stubs::jump_through_table(&mut self.buf);
                    stub
                }
                None => {
                    let stub = self.buf.pos();
                    stubs::leave(&mut self.buf);
                    let kind = ExitKind::Link { target: j.target, patch: j.patch as u32 };
                    self.exits.push(Exit { site: self.buf.pos() as u32, eip: j.eip, kind });
                    stub
                }
            };
            self.buf.set32(j.patch, (to as u32).wrapping_sub(j.patch as u32 + 4));
        }
        checked::place_constants(self);
        let constants = take(&mut self.constants);
        SPARE.with_borrow_mut(|s| (s.jumps, s.constants) = (jumps, constants));
        Some(Unit {
            eip,
            len,
            insns: self.insns.len() as u32,
            body,
            code: take(&mut self.buf.bytes),
            marks: take(&mut self.marks),
            exits: take(&mut self.exits),
            landings: take(&mut self.landings),
            lined: self.lined,
            snapshot,
        })
    }
}
