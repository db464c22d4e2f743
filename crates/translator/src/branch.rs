//! Jumps, calls and returns.
//!
//! A guest call stores the guest return address on the guest stack and does a host call; a guest return pops the guest address into R11
//! and does a host return, which the host predicts. Where it lands, the *landing* loads from a place that exists only if R11 is the address it
//! stands for ([`crate::landing`]). If not, the load faults: the dispatcher drops the return stack,
//! goes on where R11 says, and has the landing checked without faulting from then on, which leaves the return stack alone.

use crate::emit::{Emitter, Next};
use crate::landing::Landing;
use crate::operand::{self, HostMem, R11, R12};
use crate::reencode::{Encoding, encode};
use crate::stubs;
use crate::tlb::Access;
use crate::unit::{Exit, ExitKind, Fix, LONGEST};
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Code, FlowControl, OpKind};
use xlat86_decoder::{Insn, Kind};

/// A set of guest addresses in one unit: a bit for each of its bytes, since every instruction asks.
#[derive(Clone, Copy, Default)]
pub(crate) struct Addresses {
    first: u32,
    bits: [u64; LONGEST.div_ceil(64) as usize],
}

impl Addresses {
    /// None, of the unit at `first`.
    fn none(first: u32) -> Self {
        Addresses { first, ..Addresses::default() }
    }

    /// Word and bit of `eip`.
    fn place(&self, eip: u32) -> (usize, u64) {
        let at = eip.wrapping_sub(self.first);
        ((at / 64) as usize, 1 << (at % 64))
    }

    fn insert(&mut self, eip: u32) {
        let (word, bit) = self.place(eip);
        self.bits[word] |= bit;
    }

    /// Is `eip`, which may be any address, one of them?
    pub(crate) fn contains(&self, eip: u32) -> bool {
        let (word, bit) = self.place(eip);
        self.bits.get(word).is_some_and(|w| w & bit != 0)
    }
}

/// Guest addresses in `insns` that its direct jumps reach; those that a backward jump reaches are loop heads, the second set.
pub(crate) fn targets(insns: &[Insn]) -> (Addresses, Addresses) {
    let (Some(first), Some(last)) = (insns.first(), insns.last()) else { return Default::default() };
    let (mut all, mut heads) = (Addresses::none(first.eip()), Addresses::none(first.eip()));
    for i in insns.iter().filter(|i| i.kind == Kind::Branch) {
        let call = matches!(i.iced.flow_control(), FlowControl::Call);
        if call || i.iced.op0_kind() != OpKind::NearBranch32 {
            continue;
        }
        let target = i.iced.near_branch32();
        if (first.eip()..=last.eip()).contains(&target) {
            all.insert(target);
            if target <= i.eip() {
                heads.insert(target);
            }
        }
    }
    (all, heads)
}

/// Emits a near branch.
pub(crate) fn emit(e: &mut Emitter<'_>, insn: &Insn) -> Next {
    let i = &insn.iced;
    if i.op0_kind() == OpKind::NearBranch16 {
        // The 16-bit forms truncate EIP; nobody uses them in 32-bit code.
        return e.interpret(insn);
    }
    if !matches!(insn.code(), Code::Call_rel32_32 | Code::Call_rm32 | Code::Jmp_rm32 | Code::Retnd | Code::Retnd_imm16)
    {
        e.sync_esp();
    }
    match insn.code() {
        Code::Jmp_rel8_32 | Code::Jmp_rel32_32 => {
            e.jump_to(i.near_branch32(), insn.eip());
            Next::Elsewhere
        }
        Code::Call_rel32_32 => call_direct(e, insn),
        Code::Call_rm32 => call_indirect(e, insn),
        Code::Jmp_rm32 => {
            load_target(e, insn);
            e.sync_esp();
            stubs::jump_through_table(&mut e.buf);
            Next::Elsewhere
        }
        Code::Retnd => ret(e, 0),
        Code::Retnd_imm16 => ret(e, i32::from(i.immediate16())),
        Code::Jecxz_rel8_32 => short(e, insn, 0xe3),
        Code::Loop_rel8_32_ECX => short(e, insn, 0xe2),
        Code::Loope_rel8_32_ECX => short(e, insn, 0xe1),
        Code::Loopne_rel8_32_ECX => short(e, insn, 0xe0),
        _ if i.is_jcc_short_or_near() => {
            conditional(e, insn);
            Next::FallThrough
        }
        _ => e.interpret(insn),
    }
}

fn conditional(e: &mut Emitter<'_>, insn: &Insn) {
    // The condition code of iced counts from "overflow" as the encoding does, after "none".
    let cc = insn.iced.condition_code() as u8 - 1;
    let target = insn.iced.near_branch32();
    if let Some(back) = e.emitted(target) {
        // A loop: never patched, so it may be short.
        let distance = back as i64 - (e.buf.pos() as i64 + 2);
        if let Ok(short) = i8::try_from(distance) {
            e.buf.bytes.extend_from_slice(&[0x70 | cc, short as u8]);
        } else {
            e.buf.bytes.extend_from_slice(&[0x0f, 0x80 | cc]);
            e.buf.bytes.extend_from_slice(&(distance as i32 - 4).to_le_bytes());
        }
        e.settle();
        return;
    }
    if e.pending_short(0x70 | cc, target, insn.eip()) {
        return;
    }
    if !e.is_inside(target) {
        let start = e.previous_start().unwrap_or(e.buf.pos());
        e.align_patch_before(start, 2);
    }
    e.buf.bytes.extend_from_slice(&[0x0f, 0x80 | cc]);
    e.pending(target, insn.eip(), false);
}

/// JECXZ and the LOOPs have only a short form: jump over a jump.
fn short(e: &mut Emitter<'_>, insn: &Insn, opcode: u8) -> Next {
    // 67 op +2; jmp over; taken: jmp target; over:
    e.buf.bytes.extend_from_slice(&[0x67, opcode, 2, 0xeb, 0]);
    let from = e.buf.pos();
    e.jump_to(insn.iced.near_branch32(), insn.eip());
    e.buf.bytes[from - 1] = (e.buf.pos() - from) as u8;
    Next::FallThrough
}

/// Loads the operand of an indirect jump or call into R11.
fn load_target(e: &mut Emitter<'_>, insn: &Insn) {
    let i = &insn.iced;
    if i.op0_kind() == OpKind::Register {
        let r = operand::host_reg(i.op0_register().number() as u8);
        if r == R12 {
            e.sync_esp();
        }
        dynasm!(e.buf ; .arch x64 ; mov r11d, Rd(r));
    } else {
        let mem = operand::prepare(&mut e.buf, i, e.esp);
        e.load(R11, mem);
    }
}

/// Stores the return address below ESP and moves ESP: the store first, since it may fault.
fn push_return(e: &mut Emitter<'_>, address: u32) {
    e.store_imm(e.stack(-4), address);
    e.move_esp(-4);
}

/// The same, and moves R12 too.
fn push_return_now(e: &mut Emitter<'_>, address: u32) {
    if !e.looks_up() {
        // R12 first: then the store needs no displacement. A mark says what ESP is where it faults.
        e.move_esp_ahead(-4);
    }
    push_return(e, address);
    e.sync_esp();
}

fn call_direct(e: &mut Emitter<'_>, insn: &Insn) -> Next {
    let (target, next) = (insn.iced.near_branch32(), insn.next_eip());
    if target == next {
        // CALL to the next instruction: a way to read EIP. Nothing ever returns from it.
        push_return(e, next);
        return Next::FallThrough;
    }
    match called(e, insn, target) {
        Some(Called::Thunk(reg)) => {
            // The thunk's own effect: the return address is stored and fetched again.
            e.source.depend(target);
            e.store_imm(e.stack(-4), next);
            if e.is_far(target) {
                e.check_thunk(target);
            }
            dynasm!(e.buf ; .arch x64 ; mov Rd(reg), next as i32);
            return Next::FallThrough;
        }
        Some(Called::Retpoline(reg)) => {
            // The return address is replaced where it has been stored, and returned to.
            e.source.depend(target);
            e.store(e.stack(-4), reg);
            e.sync_esp();
            dynasm!(e.buf ; .arch x64 ; mov r11d, Rd(reg));
            stubs::jump_through_table(&mut e.buf);
            return Next::Elsewhere;
        }
        None => {}
    }
    push_return_now(e, next);
    if !e.config.return_pairing {
        e.jump_to(target, insn.eip());
        return Next::Elsewhere;
    }
    // The displacement and the landing can both be replaced at once.
    e.buf.nop((e.buf.pos() + 5).wrapping_neg() % 8);
    e.buf.bytes.push(0xe8);
    e.pending(target, insn.eip(), true);
    landing(e, next);
    Next::FallThrough
}

/// What is at the target of a call that doesn't need one.
enum Called {
    /// `mov reg, [esp]; ret`: position-independent code calls it to learn its own address.
    Thunk(u8),
    /// `mov [esp], reg; ret`: a jump to where the register says, which as a return would never go back to its call.
    Retpoline(u8),
}

/// See [`Called`].
fn called(e: &mut Emitter<'_>, insn: &Insn, target: u32) -> Option<Called> {
    const ESP: u8 = 4;
    let mut code = [0; 4];
    let far = e.is_far(target);
    if far && !may_fold(e, insn, target) || e.source.peek(target, &mut code) < 4 {
        return None;
    }
    // A comparison covers the unit's own bytes, and the call itself may write to the thunk.
    if e.checked || e.source.is_volatile(target) {
        return None;
    }
    let [opcode, modrm, 0x24, 0xc3] = code else { return None };
    let reg = modrm >> 3;
    match opcode {
        _ if modrm & 0xc7 != 4 || reg == ESP => None,
        // The check clobbers flags.
        0x8b if !far || e.flags_are_dead() => Some(Called::Thunk(reg)),
        0x89 if !far => Some(Called::Retpoline(reg)),
        _ => None,
    }
}

/// May a call at `insn` of a thunk on another page be folded, as far as can be told without reading it? The check needs the thunk in the jump table, where
/// nothing must be for a replay to know how far code can go.
fn may_fold(e: &Emitter<'_>, insn: &Insn, target: u32) -> bool {
    let crosses = (insn.eip() ^ insn.next_eip().wrapping_sub(1)) >> 12 != 0;
    !e.config.replayed && !crosses && e.source.has_run(target) && !e.source.keeps_faulting(insn.eip())
}

fn call_indirect(e: &mut Emitter<'_>, insn: &Insn) -> Next {
    let next = insn.next_eip();
    load_target(e, insn);
    push_return_now(e, next);
    if !e.config.return_pairing {
        stubs::jump_through_table(&mut e.buf);
        return Next::Elsewhere;
    }
    dynasm!(e.buf ; .arch x64
        ; mov r10d, [r15 + r11 * 4]
        ; lea r10, [r10 + r13]
    );
    e.place_call(3);
    dynasm!(e.buf ; .arch x64 ; call r10);
    landing(e, next);
    Next::FallThrough
}

/// Where a host return arrives: goes on only if the guest returned to `address`.
fn landing(e: &mut Emitter<'_>, address: u32) {
    let at = Landing::of(e.config.address_form).emit(&mut e.buf, address);
    e.landings.push(at);
}

fn ret(e: &mut Emitter<'_>, extra: i32) -> Next {
    e.load(R11, e.stack(0));
    e.move_esp(4 + extra);
    e.sync_esp();
    if e.config.return_pairing {
        dynasm!(e.buf ; .arch x64 ; ret);
    } else {
        stubs::jump_through_table(&mut e.buf);
    }
    Next::Elsewhere
}

/// A folded call's check, whose way out is to be emitted behind the unit's code.
pub(crate) struct Fold {
    /// Offset of the displacement that leads there.
    jump: usize,
    /// Offset of the jump table's entry that was found.
    patch: usize,
    target: u32,
    eip: u32,
    esp: i32,
}

impl Emitter<'_> {
    /// Leaves unless the jump table's entry for the thunk at `target`, which is on another page, is what it was when that was last looked at. It
    /// isn't once the page is mapped elsewhere, and never was at first.
    fn check_thunk(&mut self, target: u32) {
        dynasm!(self.buf ; .arch x64 ; mov r11d, target as i32 ; mov r10d, [r15 + r11 * 4]);
        self.buf.align_patch(3);
        dynasm!(self.buf ; .arch x64 ; cmp r10d, DWORD -1);
        let patch = self.buf.pos() - 4;
        self.buf.bytes.extend_from_slice(&[0x0f, 0x85, 0, 0, 0, 0]);
        let jump = self.buf.pos() - 4;
        self.folds.push(Fold { jump, patch, target, eip: self.insns[self.at].eip(), esp: self.esp });
    }

    /// Emits where the checks of folded calls leave.
    pub(crate) fn emit_folds(&mut self) {
        for f in core::mem::take(&mut self.folds) {
            let to = self.buf.pos();
            self.buf.set32(f.jump, (to - f.jump - 4) as u32);
            stubs::leave(&mut self.buf);
            let again = self.boundary_of(f.eip).expect("its boundary");
            let fix = Fix { esp: f.esp, ..Fix::default() };
            let kind = ExitKind::Thunk { target: f.target, patch: f.patch as u32, again, fix };
            self.exits.push(Exit { site: self.buf.pos() as u32, eip: f.eip, kind });
        }
    }

    /// Loads 32 bits of guest memory into host register `reg`.
    pub(crate) fn load(&mut self, reg: u8, mem: HostMem) {
        self.access(0x8b, reg, mem, false);
    }

    /// Stores host register `reg` to 32 bits of guest memory.
    pub(crate) fn store(&mut self, mem: HostMem, reg: u8) {
        self.access(0x89, reg, mem, false);
    }

    /// A MOV with opcode `opcode` between `reg` (R11, or one that is the guest's) and guest memory, 16 bits wide if `word`.
    pub(crate) fn access(&mut self, opcode: u8, reg: u8, mem: HostMem, word: bool) {
        let access = Access { size: if word { 2 } else { 4 }, write: opcode == 0x89 };
        let store_r11 = access.write && reg == R11;
        let rm = if store_r11 { self.reach_beside(mem, access) } else { self.reach(mem, access) };
        let e = Encoding { lock: false, p66: word, rep: 0, opcode: &[opcode], reg, rm, imm: &[] };
        encode(&mut self.buf, self.config.address_form, &e);
    }

    /// Stores the constant `value` to 32 bits of guest memory.
    pub(crate) fn store_imm(&mut self, mem: HostMem, value: u32) {
        let imm = value.to_le_bytes();
        let rm = self.reach_beside(mem, Access::write(4));
        let e = Encoding { lock: false, p66: false, rep: 0, opcode: &[0xc7], reg: 0, rm, imm: &imm };
        encode(&mut self.buf, self.config.address_form, &e);
    }
}
