//! The CPU frame: what translated code and the world outside it hand each other.
//!
//! R14 points here while translated code runs. The fields that it touches on hot paths lie within a signed byte's reach.

/// Register file and constants of one virtual CPU, reached from translated code through R14.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Frame {
    /// EAX to EDI as translated code left them, or as it shall find them.
    pub gpr: [u32; 8],
    /// Status flags and DF in their EFLAGS positions; other bits are ignored on entry and host's on leaving.
    pub flags: u32,
    /// Guest EFLAGS bits that don't live in the host's flags (IF, AC, ID, NT, ..., and the fixed bit 1), for PUSHF.
    pub system_flags: u32,
    /// Host address after the call that left, or of the instruction that trapped or was stopped at.
    pub site: u64,
    /// R11 on leaving: the guest target of an indirect jump.
    pub target: u64,
    /// The leave routine; translated code leaves by calling through this field.
    pub leave: u64,
    /// Value RSP is reset to when the return stack is out of step.
    pub return_top: u64,
    /// RSP of translated code while it isn't running.
    pub return_sp: u64,
    /// Guest returns that didn't come back to their call.
    pub mismatches: u64,
    /// Base of the FS and GS segments.
    pub seg_base: [u32; 2],
    /// ES, CS, SS, DS, FS and GS selectors.
    pub selector: [u16; 6],
    /// Why control came back.
    pub left: Left,
    /// Guest MXCSR.
    pub mxcsr: u32,
    /// Base of the code arena (R13).
    pub arena: u64,
    /// Base of the indirect-jump table (R15).
    pub table: u64,
    /// Host stack pointer of the code that entered.
    pub(crate) host_sp: u64,
    /// XMM0 to XMM7.
    pub xmm: [u128; 8],
}

/// Where the probe is, from the frame on: the last byte of a readable page, with nothing but inaccessible memory in the 4 GB behind
/// it. A load from it, indexed by a 32-bit difference, succeeds if and only if the difference is zero, and touches no flags.
///
/// Its upper three bytes are those of a NOP, so that an instruction with this displacement at its end can have everything
/// before them overwritten.
pub const PROBE: u32 = 0x001f_0fff;

/// Why translated code was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum Left {
    /// By itself, through [`Frame::leave`]; `site` says where.
    #[default]
    Call = 0,
    /// A host fault at `site`; guest registers are those at that host instruction.
    Trap = 1,
    /// Stopped at the guest instruction boundary `site` by a signal.
    Stopped = 2,
    /// A signal was pending: nothing has run.
    NotEntered = 3,
}

impl Frame {
    /// A frame with all registers zero and default MXCSR.
    pub(crate) fn new() -> Frame {
        Frame {
            gpr: [0; 8],
            flags: 2,
            system_flags: 2,
            site: 0,
            target: 0,
            leave: crate::enter::leave_address(),
            return_top: 0,
            return_sp: 0,
            seg_base: [0; 2],
            selector: [0; 6],
            left: Left::Call,
            mxcsr: 0x1f80,
            arena: 0,
            table: 0,
            mismatches: 0,
            host_sp: 0,
            xmm: [0; 8],
        }
    }
}
