//! String instructions: the host's own, at its own speed.
//!
//! With the address-size prefix they use ESI, EDI and ECX, wrap at 4 GB and are restartable per iteration, exactly
//! as in 32-bit mode.

use crate::config::AddressForm;
use crate::emit::{Emitter, Next};
use iced_x86::{OpKind, Register};
use xlat86_decoder::Insn;

/// Emits a string instruction.
pub(crate) fn emit(e: &mut Emitter<'_>, insn: &Insn, bytes: &[u8]) -> Next {
    let i = &insn.iced;
    let narrow = i.op_kinds().any(|k| matches!(k, OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI));
    let based = matches!(i.segment_prefix(), Register::FS | Register::GS);
    // 16-bit indexes and a source in a segment with a base are rare; ES:EDI can't be overridden, so in the GS form no string instruction reaches its
    // destination.
    if narrow || based || e.config.address_form != AddressForm::Low {
        return e.interpret(insn);
    }
    e.plain(insn, bytes)
}
