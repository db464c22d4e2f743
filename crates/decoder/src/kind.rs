//! The classification of every instruction.

use iced_x86::Code;

/// What a translator has to do about an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Computes on registers, memory and flags only: runs re-encoded.
    Plain,
    /// Moves ESP or addresses memory through it implicitly (PUSH, POP, PUSHA, ENTER, LEAVE and kin).
    Stack,
    /// String instruction, with or without REP.
    String,
    /// Changes EIP: near jumps, calls, returns, LOOP, JECXZ.
    Branch,
    /// x87: may report a pending exception and records its own address.
    Fpu,
    /// Reads or changes privileged or virtualised state, or enters the system.
    Sensitive,
    /// No instruction: #UD.
    Invalid,
}

/// The kind of `code`.
#[must_use]
pub fn kind_of(code: Code) -> Kind {
    let _ = code;
    Kind::Plain
}
