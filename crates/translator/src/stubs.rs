//! The fixed code at the start of every arena, and the short sequences that units share.

use crate::buf::CodeBuf;
use core::mem::offset_of;
use dynasmrt::{DynasmApi, dynasm};
use xlat86_host::Frame;

/// A fixed piece of code that units jump to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stub {
    /// R11 holds a guest EIP that has no translation: leave. At arena offset 0, which an empty entry of the jump table
    /// therefore names.
    Miss,
    /// A guest return came back to another place than its call: go where R11 says. The return stack stays: code that replaces
    /// its own return address (retpolines do) is in step with it.
    Mismatch,
    /// The return stack ran empty: go where R11 says.
    Sentinel,
}

impl Stub {
    /// Arena offset of this stub.
    #[must_use]
    pub const fn offset(self) -> usize {
        match self {
            Stub::Miss => 0,
            Stub::Mismatch => 16,
            Stub::Sentinel => 64,
        }
    }
}

/// Fields that translated code names are within reach of a byte's displacement.
const _: () = assert!(offset_of!(Frame, selector) < 128 - 12);

/// Arena bytes that the stubs occupy.
pub(crate) const STUBS_SIZE: usize = 128;

/// Length of [`leave`]'s code.
pub(crate) const LEAVE_SIZE: u32 = 3;

/// `call [r14]`, the leave routine. The return address is what identifies the exit.
pub(crate) fn leave(buf: &mut CodeBuf) {
    const { assert!(offset_of!(Frame, leave) == 0) }
    let start = buf.pos();
    dynasm!(buf ; .arch x64 ; call QWORD [r14]);
    debug_assert_eq!(buf.pos() - start, LEAVE_SIZE as usize);
}

/// `call [r14 + call_out]`: leaves as [`leave`] does, or goes on behind the call with the instruction done.
pub(crate) fn call_out(buf: &mut CodeBuf) {
    dynasm!(buf ; .arch x64 ; call QWORD [BYTE r14 + offset_of!(Frame, call_out) as i8]);
}

/// Goes to the translation of the guest EIP in R11, or to the miss stub. No flags.
pub(crate) fn jump_through_table(buf: &mut CodeBuf) {
    dynasm!(buf ; .arch x64
        ; mov r10d, [r15 + r11 * 4]
        ; lea r10, [r10 + r13]
        ; jmp r10
    );
}

/// The code of all stubs, to be placed at arena offset 0.
pub(crate) fn stubs() -> Vec<u8> {
    let mut buf = CodeBuf::default();
    leave(&mut buf);
    buf.nop(Stub::Mismatch.offset() - buf.pos());
    // Count it without flags: mismatches are rare but worth knowing.
    dynasm!(buf ; .arch x64
        ; mov r10, [BYTE r14 + offset_of!(Frame, mismatches) as i8]
        ; lea r10, [r10 + 1]
        ; mov [BYTE r14 + offset_of!(Frame, mismatches) as i8], r10
    );
    jump_through_table(&mut buf);
    buf.nop(Stub::Sentinel.offset() - buf.pos());
    // The return popped the sentinel's address: put RSP back below it.
    dynasm!(buf ; .arch x64 ; lea rsp, [rsp - 8]);
    jump_through_table(&mut buf);
    buf.nop(STUBS_SIZE - buf.pos());
    buf.bytes
}
