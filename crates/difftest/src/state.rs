//! One instruction's surroundings, before and after: what every engine and oracle under test is given and answers.

use xlat86_arch::{FxState, Vector};

/// Where the instruction stands; the rest of the page is INT3.
pub const CODE: u32 = 0x1000_0000;
/// Where in the code page instructions are put: branches may go a little either way.
pub const AT: u32 = CODE + 0x400;
/// The memory an instruction may use. The pages on either side are not mapped.
pub const DATA: u32 = 0x2000_0000;
/// Bytes of `DATA`: one page.
pub const DATA_LEN: u32 = 0x1000;

/// Registers and flags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Regs {
    /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
    pub gpr: [u32; 8],
    /// EIP.
    pub eip: u32,
    /// Arithmetic flags and DF.
    pub eflags: u32,
    /// x87, MMX and SSE.
    pub fx: FxState,
}

/// How an instruction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It completed.
    Done,
    /// It raised an exception. The address counts for #PF only.
    Fault {
        /// Which.
        vector: Vector,
        /// Error code, 0 for vectors without.
        error: u32,
        /// Linear address.
        addr: u32,
    },
}

/// What became of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Registers afterwards.
    pub regs: Regs,
    /// The data page afterwards.
    pub data: Vec<u8>,
}

/// Something that can execute one instruction.
pub trait Executor {
    /// Executes the instruction `bytes` at [`AT`] from `regs` (whose `eip` is ignored) and `data`.
    fn execute(&mut self, bytes: &[u8], regs: &Regs, data: &[u8]) -> Outcome;
}
