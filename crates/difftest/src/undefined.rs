//! What the manual leaves undefined and we don't follow the tests' host in: masked when results are compared. Nothing
//! else is.

use iced_x86::Mnemonic;

/// What is not compared after an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Undefined {
    /// EFLAGS bits.
    pub flags: u32,
    /// General registers (bit *n*: register *n*), when the instruction faults. Ours changes nothing then.
    pub registers_on_fault: u8,
    /// Which of several possible faults it raises.
    pub which_fault: bool,
}

/// The exceptions of `m`.
#[must_use]
pub fn undefined(m: Mnemonic) -> Undefined {
    match m {
        // AMD's load registers as they pop them; ESP and EIP stay, so that the instruction can be restarted.
        Mnemonic::Popa | Mnemonic::Popad => Undefined { registers_on_fault: 0b1110_1111, ..Undefined::default() },
        // Which of two bad operands is reported first isn't specified, and changes with a repeat prefix and its count.
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd => Undefined { which_fault: true, ..Undefined::default() },
        _ => Undefined::default(),
    }
}
