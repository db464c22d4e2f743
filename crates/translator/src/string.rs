//! String instructions: the host's own, at its own speed.
//!
//! With the address-size prefix they use ESI, EDI and ECX, wrap at 4 GB and are restartable per iteration, exactly
//! as in 32-bit mode. Where accesses are checked, ESI and EDI become host addresses for the time of the instruction; a repeated one goes on
//! page by page, each part an instruction that could have been interrupted there.
//!
//! Host string instructions can't be told to use GS for EDI. Beside a window, ESI and EDI become host addresses too, whose lower halves are the
//! guest's all the time, because windows begin at multiples of 4 GB: so the instruction can be stopped or fault in its midst. Behind a window's end,
//! where the guest's addresses wrap around, nothing is mapped. Long moves and fills look their pages up, though, since pages that appear in a window
//! for their sake alone cost too much; without paging they are all there.

use crate::config::AddressForm;
use crate::emit::{Emitter, Next};
use crate::operand::HostMem;
use crate::reencode::Parts;
use crate::shape::shape_of;
use crate::tlb::{Access, FLAGS, SPILL};
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{OpKind, Register};
use xlat86_arch::{Mode, Reg, eflags};
use xlat86_decoder::{Insn, Kind};
use xlat86_host::Frame;

/// Emits a string instruction.
pub(crate) fn emit(e: &mut Emitter<'_>, insn: &Insn, bytes: &[u8]) -> Next {
    let i = &insn.iced;
    let narrow = i.op_kinds().any(|k| matches!(k, OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI));
    let based = matches!(i.segment_prefix(), Register::FS | Register::GS);
    // 16-bit indexes and a source in a segment with a base are rare; ES:EDI can't be overridden, so in the GS form no string instruction reaches its
    // destination.
    if narrow || based || e.config.address_form == AddressForm::Gs && !e.config.paged {
        return e.interpret(insn);
    }
    if e.config.address_form == AddressForm::Low {
        return e.plain(insn, bytes);
    }
    let s = Shape::new(&Parts::new(shape_of(insn.code()), bytes));
    if !e.looks_up() {
        if is_repeated(insn) && e.mode.has(Mode::PAGING) && s.uses_di && !s.compares {
            short_or_long(e, insn, s);
        } else {
            windowed(e, insn, s);
        }
        return Next::FallThrough;
    }
    if !is_repeated(insn) {
        once(e, s);
    } else if s.uses_di {
        repeated(e, insn, s);
    } else {
        // LODS, of which nobody wants but the last.
        return e.interpret(insn);
    }
    Next::FallThrough
}

/// Does `insn` have a repeat prefix?
pub(crate) fn is_repeated(insn: &Insn) -> bool {
    insn.kind == Kind::String && (insn.iced.has_rep_prefix() || insn.iced.has_repne_prefix())
}

/// What a string instruction does.
#[derive(Clone, Copy)]
struct Shape {
    opcode: u8,
    /// log2 of the element's size in bytes.
    scale: u8,
    /// Takes elements from ESI.
    uses_si: bool,
    /// Accesses elements at EDI.
    uses_di: bool,
    writes: bool,
    /// Sets flags, on which a repetition may end.
    compares: bool,
}

impl Shape {
    fn new(parts: &Parts<'_>) -> Shape {
        let opcode = parts.opcode[0];
        let scale = match (opcode & 1, parts.p66) {
            (0, _) => 0,
            (_, true) => 1,
            (_, false) => 2,
        };
        // MOVS, CMPS, STOS, LODS, SCAS.
        let (uses_si, uses_di, writes, compares) = match opcode & !1 {
            0xa4 => (true, true, true, false),
            0xa6 => (true, true, false, true),
            0xaa => (false, true, true, false),
            0xac => (true, false, false, false),
            _ => (false, true, false, true),
        };
        Shape { opcode, scale, uses_si, uses_di, writes, compares }
    }

    fn source(self) -> Access {
        Access { size: 1 << self.scale, write: false }
    }

    fn destination(self) -> Access {
        Access { write: self.writes, ..self.source() }
    }

    /// The registers that it goes through, in the order in which the operands are accessed: what comes first faults first. CMPS begins with
    /// its second operand (tried on Intel).
    fn order(self) -> (u8, u8) {
        if self.compares { (EDI, ESI) } else { (ESI, EDI) }
    }

    /// The access through `register`.
    fn access(self, register: u8) -> Access {
        if register == EDI { self.destination() } else { self.source() }
    }

    /// The host's instruction, on RSI and RDI.
    fn execute(self, e: &mut Emitter<'_>, prefix: Option<u8>) {
        e.buf.bytes.extend((self.scale == 1).then_some(0x66));
        e.buf.bytes.extend(prefix);
        e.buf.bytes.push(self.opcode);
    }
}

const ESI: u8 = Reg::Esi as u8;
const EDI: u8 = Reg::Edi as u8;

/// One element. The host does the arithmetic on the addresses, by its direction flag.
fn once(e: &mut Emitter<'_>, s: Shape) {
    match (s.uses_si, s.uses_di) {
        (true, true) => {
            let (first, second) = s.order();
            e.reach(HostMem::at(first, 0), s.access(first));
            dynasm!(e.buf ; .arch x64 ; lea r11, [r8 + r9]);
            e.reach_beside(HostMem::at(second, 0), s.access(second));
            dynasm!(e.buf ; .arch x64 ; mov r10d, Rd(first) ; lea Rq(second), [r8 + r9] ; mov Rq(first), r11);
            s.execute(e, None);
            // Back: by the addend, and by how far it has come.
            dynasm!(e.buf ; .arch x64
                ; not r9
                ; lea Rd(second), [Rq(second) + r9 + 1]
                ; not r11
                ; lea Rq(first), [Rq(first) + r11 + 1]
                ; lea Rd(first), [Rq(first) + r10]
            );
        }
        (true, false) => {
            e.reach(HostMem::at(ESI, 0), s.source());
            dynasm!(e.buf ; .arch x64 ; lea rsi, [r8 + r9]);
            s.execute(e, None);
            dynasm!(e.buf ; .arch x64 ; not r9 ; lea esi, [rsi + r9 + 1]);
        }
        _ => {
            e.reach(HostMem::at(EDI, 0), s.destination());
            dynasm!(e.buf ; .arch x64 ; lea rdi, [r8 + r9]);
            s.execute(e, None);
            dynasm!(e.buf ; .arch x64 ; not r9 ; lea edi, [rdi + r9 + 1]);
        }
    }
}

/// Through the window, with or without repetition.
fn windowed(e: &mut Emitter<'_>, insn: &Insn, s: Shape) {
    dynasm!(e.buf ; .arch x64 ; mov r10, [r14 + WINDOW]);
    if s.uses_si {
        dynasm!(e.buf ; .arch x64 ; lea rsi, [rsi + r10]);
    }
    if s.uses_di {
        dynasm!(e.buf ; .arch x64 ; lea rdi, [rdi + r10]);
    }
    if is_repeated(insn) {
        e.mark_under_way();
        s.execute(e, Some(repeat_prefix(insn)));
    } else {
        s.execute(e, None);
    }
    if s.uses_si {
        dynasm!(e.buf ; .arch x64 ; mov esi, esi);
    }
    if s.uses_di {
        dynasm!(e.buf ; .arch x64 ; mov edi, edi);
    }
}

/// A repeated move or fill: through the window if it is short.
fn short_or_long(e: &mut Emitter<'_>, insn: &Insn, s: Shape) {
    /// log2 of the bytes from which on it is long.
    const LONG: u8 = 9;
    dynasm!(e.buf ; .arch x64 ; mov r11d, ecx ; mov r10d, i32::from(LONG - s.scale) ; shrx ecx, ecx, r10d);
    // jrcxz over the jump to the long way
    e.buf.bytes.extend_from_slice(&[0xe3, 5, 0xe9, 0, 0, 0, 0]);
    let long = e.buf.pos();
    dynasm!(e.buf ; .arch x64 ; mov ecx, r11d);
    windowed(e, insn, s);
    e.buf.bytes.extend_from_slice(&[0xe9, 0, 0, 0, 0]);
    let end = e.buf.pos();
    e.buf.set32(long - 4, (end - long) as u32);
    dynasm!(e.buf ; .arch x64 ; mov ecx, r11d);
    let config = core::mem::replace(&mut e.config, e.looking_up);
    repeated(e, insn, s);
    e.config = config;
    let here = e.buf.pos();
    e.buf.set32(end - 4, (here - end) as u32);
}

/// Offset in the frame of the window's base.
const WINDOW: i32 = offset_of!(Frame, window) as i32;

fn repeat_prefix(insn: &Insn) -> u8 {
    if insn.iced.has_repne_prefix() { 0xf2 } else { 0xf3 }
}

/// ECX elements upwards: as many as lie in the pages that ESI and EDI are in, then on from the start.
fn repeated(e: &mut Emitter<'_>, insn: &Insn, s: Shape) {
    let start = e.buf.pos();
    // jecxz over a jump over the jump to the end
    e.buf.bytes.extend_from_slice(&[0x67, 0xe3, 2, 0xeb, 5, 0xe9, 0, 0, 0, 0]);
    let end = e.buf.pos() - 4;
    dynasm!(e.buf ; .arch x64
        ; pushfq
        ; pop QWORD [r14 + FLAGS]
        ; test DWORD [r14 + FLAGS], eflags::DF as i32
    );
    // Downwards is rare.
    e.buf.bytes.extend_from_slice(&[0x74, 0]);
    let from = e.buf.pos();
    restore_flags(e);
    e.interpret(insn);
    e.buf.bytes[from - 1] = (e.buf.pos() - from) as u8;

    // Host addresses: R11 of ESI, R9 of EDI.
    let (first, second) = if s.uses_si { s.order() } else { (EDI, EDI) };
    if s.uses_si {
        e.reach_clobbering(HostMem::at(first, 0), s.access(first));
        dynasm!(e.buf ; .arch x64 ; lea r11, [r8 + r9]);
    }
    e.reach_clobbering(HostMem::at(second, 0), s.access(second));
    dynasm!(e.buf ; .arch x64 ; lea r9, [r8 + r9]);
    if second != EDI {
        dynasm!(e.buf ; .arch x64 ; xchg r9, r11);
    }
    let scale = s.scale as i8;
    let up_to_page_end = |e: &mut Emitter<'_>, r: Reg| {
        dynasm!(e.buf ; .arch x64
            ; mov r8d, Rd(r as u8)
            ; not r8d
            ; and r8d, 0xfff
            ; add r8d, 1
            ; shr r8d, scale
            ; cmp r8d, r10d
            ; cmovb r10d, r8d
        );
    };
    dynasm!(e.buf ; .arch x64 ; mov r10d, ecx);
    up_to_page_end(e, Reg::Edi);
    if s.uses_si {
        up_to_page_end(e, Reg::Esi);
    }
    // Those of the next parts are kept; ESI and EDI become host addresses.
    dynasm!(e.buf ; .arch x64
        ; sub ecx, r10d
        ; mov [r14 + SPILL], ecx
        ; mov ecx, r10d
        ; mov r10d, edi
        ; sub r10, r9
        ; mov rdi, r9
    );
    if s.uses_si {
        dynasm!(e.buf ; .arch x64 ; mov r8d, esi ; sub r8, r11 ; mov rsi, r11);
    }
    s.execute(e, Some(repeat_prefix(insn)));
    if s.uses_si {
        dynasm!(e.buf ; .arch x64 ; lea esi, [rsi + r8]);
    }
    dynasm!(e.buf ; .arch x64 ; lea edi, [rdi + r10] ; mov r8d, [r14 + SPILL] ; lea ecx, [rcx + r8]);
    let found = if s.compares {
        // Found, or found different: the end.
        let opcode = if insn.iced.has_repne_prefix() { 0x74 } else { 0x75 };
        e.buf.bytes.extend_from_slice(&[opcode, 0]);
        Some(e.buf.pos())
    } else {
        restore_flags(e);
        None
    };
    let back = (start as i64 - (e.buf.pos() as i64 + 8)) as i32;
    e.buf.bytes.extend_from_slice(&[0x67, 0xe3, 5, 0xe9]);
    e.buf.bytes.extend_from_slice(&back.to_le_bytes());
    if let Some(from) = found {
        e.buf.bytes[from - 1] = (e.buf.pos() - from) as u8;
    }
    let distance = (e.buf.pos() - end - 4) as u32;
    e.buf.set32(end, distance);
    e.settle();
}

fn restore_flags(e: &mut Emitter<'_>) {
    dynasm!(e.buf ; .arch x64 ; push QWORD [r14 + FLAGS] ; popfq);
}
