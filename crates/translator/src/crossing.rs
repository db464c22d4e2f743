//! Instructions that change segments or the privilege level, without leaving: what they came to the last time is compared and taken over
//! (see [`xlat86_host::Crossing`]). Where anything differs they leave ([`crate::Quick`]), and what that comes to is noted.
//!
//! A world other than the one that the unit was made for has code of its own, which is reached through its jump table.

use crate::emit::{Emitter, Next};
use crate::operand::{HostMem, R8, R12};
use crate::reencode::Rm;
use crate::stubs;
use crate::tlb::Access;
use crate::unit::{Exit, ExitKind, Quick};
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use xlat86_arch::eflags;
use xlat86_decoder::Insn;
use xlat86_host::{Crossing, Frame, RETURN_KEEPS, Returns};

const BASES: i32 = offset_of!(Frame, seg_base) as i32;
const WORLD: i32 = offset_of!(Frame, world) as i32;
const TABLE: i32 = offset_of!(Frame, table) as i32;
const RETURN_TOP: i32 = offset_of!(Frame, return_top) as i32;
const IF: i32 = offset_of!(Frame, interrupt_flag) as i32;
const AWAITED: i32 = offset_of!(Frame, interrupt_awaited) as i32;
const WINDOW: i32 = offset_of!(Frame, window) as i32;

const KEY: i32 = offset_of!(Crossing, key) as i32;
const TO: i32 = offset_of!(Crossing, to) as i32;
const TO_TABLE: i32 = offset_of!(Crossing, table) as i32;
const STACK: i32 = offset_of!(Crossing, stack) as i32;
const KEPT: i32 = offset_of!(Crossing, kept_flags) as i32;
const ZERO_FLAG: i32 = offset_of!(Crossing, zero_flag) as i32;

/// Offset in the frame of the return stack of CPL 0 (0) or 3 (1).
const fn returns(which: usize) -> i32 {
    (offset_of!(Frame, returns) + which * size_of::<Returns>()) as i32
}
const SP: i32 = offset_of!(Returns, sp) as i32;
const TOP: i32 = offset_of!(Returns, top) as i32;
const MADE_FOR: i32 = offset_of!(Returns, table) as i32;

/// Comparisons of one instruction, which leaves if one fails. While it compares, R9 keeps ECX.
struct Comparing {
    /// Offset from the frame of the record.
    record: i32,
    /// Ends of the displacements of jumps to where it leaves.
    failed: Vec<usize>,
}

impl Comparing {
    /// Begins, with the world and the address.
    fn new(e: &mut Emitter<'_>, insn: &Insn, outer: bool) -> Comparing {
        let mut this = Comparing { record: Crossing::offset(insn.eip(), outer), failed: Vec::new() };
        dynasm!(e.buf ; .arch x64
            ; mov r9d, ecx
            ; mov rcx, [r14 + WORLD]
            ; mov r10, [r14 + this.record + KEY]
            ; lea rcx, [rcx + r10 + insn.eip() as i32]
        );
        this.must_be_zero(e);
        this
    }

    /// Fails unless RCX is 0.
    fn must_be_zero(&mut self, e: &mut Emitter<'_>) {
        jump_unless_zero(e);
        self.failed.push(e.buf.pos());
    }

    /// RCX holds a selector: it and its descriptor must be those of load `which`.
    fn selector(&mut self, e: &mut Emitter<'_>, which: usize) {
        let (selector, at, value) = Crossing::load(which);
        let record = self.record;
        dynasm!(e.buf ; .arch x64 ; mov r10, [r14 + record + selector] ; lea rcx, [rcx + r10]);
        self.must_be_zero(e);
        dynasm!(e.buf ; .arch x64
            ; mov rcx, [r14 + record + at]
            ; mov rcx, [rcx]
            ; mov r10, [r14 + record + value]
            ; lea rcx, [rcx + r10]
        );
        self.must_be_zero(e);
    }

    /// Ends: jumps over the leaving code to what follows.
    fn end(self, e: &mut Emitter<'_>, insn: &Insn, what: Quick) {
        e.buf.bytes.extend_from_slice(&[0xeb, 0]);
        let over = e.buf.pos();
        for at in self.failed {
            e.buf.set32(at - 4, (over - at) as u32);
        }
        dynasm!(e.buf ; .arch x64 ; mov ecx, r9d);
        stubs::leave(&mut e.buf);
        let kind = ExitKind::Quick { what, next: insn.next_eip() };
        e.exits.push(Exit { site: e.buf.pos() as u32, eip: insn.eip(), kind });
        e.buf.bytes[over - 1] = (e.buf.pos() - over) as u8;
    }
}

/// Appends a jump to be taken unless RCX is 0; its displacement comes last.
fn jump_unless_zero(e: &mut Emitter<'_>) {
    // jrcxz over it
    e.buf.bytes.extend_from_slice(&[0xe3, 5, 0xe9, 0, 0, 0, 0]);
}

/// The world that the record leads to becomes the frame's. XMM8 and XMM9 aren't the guest's.
fn enter_world(e: &mut Emitter<'_>, record: i32) {
    dynasm!(e.buf ; .arch x64
        ; movups xmm8, [r14 + record + TO]
        ; movups xmm9, [r14 + record + TO + 16]
        ; movups [r14 + BASES], xmm8
        ; movups [r14 + BASES + 16], xmm9
    );
}

/// Goes on at the guest address in R11, with the jump table in R9.
fn go_on(e: &mut Emitter<'_>) {
    dynasm!(e.buf ; .arch x64 ; mov r15, r9 ; mov [r14 + TABLE], r9);
    stubs::jump_through_table(&mut e.buf);
}

/// MOV or POP to a data segment register; the selector is in R11.
pub(crate) fn load(e: &mut Emitter<'_>, insn: &Insn, what: Quick, pop: bool) -> Next {
    e.sync_esp();
    let mut c = Comparing::new(e, insn, false);
    let record = c.record;
    dynasm!(e.buf ; .arch x64 ; mov ecx, r11d);
    c.selector(e, 0);
    c.end(e, insn, what);
    enter_world(e, record);
    if pop {
        dynasm!(e.buf ; .arch x64 ; lea r12d, [r12 + 4]);
    }
    // Other code only if FS or GS can be used now that couldn't, or the other way round: is the table another?
    dynasm!(e.buf ; .arch x64
        ; mov r8d, r9d
        ; mov r9, [r14 + record + TO_TABLE]
        ; mov rcx, r15
        ; not rcx
        ; lea rcx, [rcx + r9 + 1]
    );
    e.buf.bytes.extend_from_slice(&[0xe3, 0]);
    let from = e.buf.pos();
    // What the other code returns to isn't this code's.
    dynasm!(e.buf ; .arch x64 ; mov ecx, r8d ; mov rsp, [r14 + RETURN_TOP] ; mov r11d, insn.next_eip() as i32);
    go_on(e);
    e.buf.bytes[from - 1] = (e.buf.pos() - from) as u8;
    dynasm!(e.buf ; .arch x64 ; mov ecx, r8d);
    Next::FallThrough
}

/// VERW of the selector in R11.
pub(crate) fn verw(e: &mut Emitter<'_>, insn: &Insn) -> Next {
    e.sync_esp();
    let mut c = Comparing::new(e, insn, false);
    let record = c.record;
    dynasm!(e.buf ; .arch x64 ; mov ecx, r11d);
    c.selector(e, 0);
    c.end(e, insn, Quick::Verw);
    // ZF changes and no other flag: by way of AH, the bit taken out without flags.
    dynasm!(e.buf ; .arch x64
        ; mov ecx, r9d
        ; mov r8d, eax
        ; lahf
        ; mov r9d, !(eflags::ZF << 8) as i32
        ; pext r10d, eax, r9d
        ; pdep r10d, r10d, r9d
        ; mov r11d, [r14 + record + ZERO_FLAG]
        ; lea eax, [r10 + r11]
        ; sahf
        ; mov eax, r8d
    );
    Next::FallThrough
}

/// SYSENTER.
pub(crate) fn sysenter(e: &mut Emitter<'_>, insn: &Insn) -> Next {
    e.sync_esp();
    let c = Comparing::new(e, insn, false);
    let record = c.record;
    c.end(e, insn, Quick::Sysenter);
    enter_world(e, record);
    dynasm!(e.buf ; .arch x64
        ; mov ecx, r9d
        ; mov [r14 + returns(1) + SP], rsp
        ; mov [r14 + returns(1) + MADE_FOR], r15
        // The kernel begins anew.
        ; mov rsp, [r14 + returns(0) + TOP]
        ; mov [r14 + RETURN_TOP], rsp
        ; mov DWORD [r14 + IF], 0
        ; mov r12d, [r14 + record + STACK]
        ; mov r11d, [r14 + record + STACK + 4]
        ; mov r9, [r14 + record + TO_TABLE]
    );
    go_on(e);
    Next::Elsewhere
}

/// Takes the return stack of CPL 3 into use, for the code of the table in the record, which goes into R9. Clobbers RCX, R10.
fn return_to_program(e: &mut Emitter<'_>, record: i32) {
    dynasm!(e.buf ; .arch x64
        ; mov r10, [r14 + returns(0) + TOP]
        ; mov [r14 + returns(0) + SP], r10
        ; mov r9, [r14 + record + TO_TABLE]
        ; mov rsp, [r14 + returns(1) + SP]
        ; mov r10, [r14 + returns(1) + TOP]
        ; mov [r14 + RETURN_TOP], r10
        ; mov rcx, [r14 + returns(1) + MADE_FOR]
        ; not rcx
        ; lea rcx, [rcx + r9 + 1]
    );
    // jrcxz over what drops what other code would return to
    e.buf.bytes.extend_from_slice(&[0xe3, 3]);
    dynasm!(e.buf ; .arch x64 ; mov rsp, r10);
}

/// SYSEXIT.
pub(crate) fn sysexit(e: &mut Emitter<'_>, insn: &Insn) -> Next {
    e.sync_esp();
    let c = Comparing::new(e, insn, false);
    let record = c.record;
    c.end(e, insn, Quick::Sysexit);
    enter_world(e, record);
    dynasm!(e.buf ; .arch x64 ; mov r8d, r9d);
    return_to_program(e, record);
    dynasm!(e.buf ; .arch x64 ; mov ecx, r8d ; mov r12d, ecx ; mov r11d, edx);
    go_on(e);
    Next::Elsewhere
}

/// IRETD at CPL 0, to CPL 0 or 3.
pub(crate) fn iret(e: &mut Emitter<'_>, insn: &Insn) -> Next {
    e.sync_esp();
    // Of a return to the same level the last two words aren't read, but looking them up does no harm: what isn't there leaves.
    match e.reach(HostMem::at(R12, 0), Access { size: 20, write: false }) {
        Rm::Host(HostMem { base: Some(R8), index: Some((index, 0)), disp: 0 }) => {
            dynasm!(e.buf ; .arch x64 ; lea r8, [r8 + Rq(index)]);
        }
        // Through a window: what can't be read faults here, while the registers are the guest's.
        _ => dynasm!(e.buf ; .arch x64
            ; mov r8, [r14 + WINDOW]
            ; lea r8, [r8 + r12]
            ; mov r10b, [r8]
            ; mov r10b, [r8 + 19]
        ),
    }
    dynasm!(e.buf ; .arch x64
        // CPL 3 has bit 0 of CS set; other levels fail at the comparison.
        ; mov r9d, ecx
        ; mov ecx, [r8 + 4]
        ; mov r10d, 1
        ; pext ecx, ecx, r10d
    );
    jump_unless_zero(e);
    let to_outer = e.buf.pos();
    for outer in [false, true] {
        if outer {
            let here = e.buf.pos();
            e.buf.set32(to_outer - 4, (here - to_outer) as u32);
        }
        dynasm!(e.buf ; .arch x64 ; mov ecx, r9d);
        let mut c = Comparing::new(e, insn, outer);
        let record = c.record;
        dynasm!(e.buf ; .arch x64 ; movzx ecx, WORD [r8 + 4]);
        c.selector(e, 0);
        if outer {
            dynasm!(e.buf ; .arch x64 ; movzx ecx, WORD [r8 + 16]);
            c.selector(e, 1);
        }
        dynasm!(e.buf ; .arch x64
            ; mov r11d, [r8 + 8]
            ; mov r10d, RETURN_KEEPS as i32
            ; pext ecx, r11d, r10d
            ; mov r10, [r14 + record + KEPT]
            ; lea rcx, [rcx + r10]
        );
        c.must_be_zero(e);
        // Somebody may be waiting for the interrupt flag.
        dynasm!(e.buf ; .arch x64 ; pext ecx, r11d, [r14 + AWAITED]);
        c.must_be_zero(e);
        c.end(e, insn, Quick::Iret);
        enter_world(e, record);
        dynasm!(e.buf ; .arch x64
            ; mov r10d, eflags::IF as i32
            ; pext ecx, r11d, r10d
            ; pdep ecx, ecx, r10d
            ; mov [r14 + IF], ecx
            ; mov r10d, eflags::LIVE as i32
            ; pext ecx, r11d, r10d
            ; pdep ecx, ecx, r10d
            ; push rcx
            ; popfq
            ; mov r11d, [r8]
        );
        if outer {
            dynasm!(e.buf ; .arch x64 ; mov r12d, [r8 + 12] ; mov r8d, r9d);
            return_to_program(e, record);
            dynasm!(e.buf ; .arch x64 ; mov ecx, r8d);
        } else {
            dynasm!(e.buf ; .arch x64 ; mov ecx, r9d ; lea r12d, [r12 + 12] ; mov r9, [r14 + record + TO_TABLE]);
        }
        go_on(e);
    }
    Next::Elsewhere
}
