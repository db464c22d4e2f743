//! What the manual leaves undefined, with its words. Nothing else is masked when results are compared.
//!
//! The interpreter answers as an AMD Zen 4 does, undefined results included, so on such a host flags are compared all the same; on another CPU
//! those that [`FLAGS`] lists are left out, and what [`differs_by_maker`] names.

use iced_x86::{Code, Mnemonic};
use std::sync::OnceLock;
use xlat86_arch::eflags::{AF, CF, OF, PF, SF, ZF};

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

/// Instructions, status flags that they may leave undefined, and how the manual says so.
pub struct Row {
    /// Which.
    pub mnemonics: &'static [Mnemonic],
    /// EFLAGS bits.
    pub flags: u32,
    /// SDM vol. 2, "Flags Affected" of the first.
    pub words: &'static str,
}

const fn row(mnemonics: &'static [Mnemonic], flags: u32, words: &'static str) -> Row {
    Row { mnemonics, flags, words }
}

/// Undefined flags of general-purpose instructions.
pub const FLAGS: &[Row] = {
    use Mnemonic as M;
    &[
        row(&[M::Aaa, M::Aas], OF | SF | ZF | PF, "the OF, SF, ZF, and PF flags are undefined"),
        row(&[M::Aad, M::Aam], OF | AF | CF, "the OF, AF, and CF flags are undefined"),
        row(&[M::Daa, M::Das], OF, "the OF flag is undefined"),
        row(&[M::And, M::Or, M::Xor, M::Test], AF, "the state of the AF flag is undefined"),
        row(&[M::Mul, M::Imul], SF | ZF | AF | PF, "the SF, ZF, AF, and PF flags are undefined"),
        row(&[M::Div, M::Idiv], OF | SF | ZF | AF | PF | CF, "the CF, OF, SF, ZF, AF, and PF flags are undefined"),
        row(
            &[M::Shl, M::Sal, M::Shr, M::Sar],
            OF | AF | CF,
            "CF is undefined where the count is greater than or equal to the size of the destination; OF is affected only for 1-bit \
             shifts, otherwise undefined; for a non-zero count, the AF flag is undefined",
        ),
        row(
            &[M::Rol, M::Ror, M::Rcl, M::Rcr],
            OF,
            "the OF flag is affected for single-bit rotates; it is undefined for multi-bit rotates",
        ),
        row(
            &[M::Shld, M::Shrd],
            OF | SF | ZF | AF | PF | CF,
            "for shifts greater than 1 bit, the OF flag is undefined; if a shift occurs, the AF flag is undefined; if the count operand is \
             greater than the operand size, the flags are undefined",
        ),
        row(&[M::Bsf, M::Bsr], OF | SF | AF | PF | CF, "the CF, OF, SF, AF, and PF flags are undefined"),
        row(&[M::Bt, M::Bts, M::Btr, M::Btc], OF | SF | AF | PF, "the OF, SF, AF, and PF flags are undefined"),
    ]
};

/// Is the host one whose undefined results the interpreter follows: an AMD CPU of family 19h?
#[must_use]
pub fn host_is_followed() -> bool {
    static FOLLOWED: OnceLock<bool> = OnceLock::new();
    *FOLLOWED.get_or_init(|| {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| info.lines().find(|l| l.starts_with(name)).and_then(|l| l.split(": ").nth(1));
        field("vendor_id") == Some("AuthenticAMD") && field("cpu family") == Some("25")
    })
}

/// May `test` compare whole programs, floating-point instructions or faults with the host's silicon? On a CPU that the interpreter doesn't follow what
/// is undefined differs and spreads, so there it says that it is left out.
#[must_use]
pub fn silicon_is_followed(test: &str) -> bool {
    if !host_is_followed() {
        eprintln!("{test}: LEFT OUT: the interpreter follows AMD's family 19h, and this CPU is another");
    }
    host_is_followed()
}

/// Does the host do something else with `code` than the interpreter, by right? CPUs of other makers leave other results where the manual leaves them
/// undefined (SHLD and SHRD by more than the operand's size), write two of four bytes (PUSH of a segment register; SDM vol. 2B), and differ in which of
/// two faults comes first, in flags after a faulting repeated comparison, and in what wraps at the end of the stack segment.
#[must_use]
pub fn differs_by_maker(code: Code) -> bool {
    use Mnemonic as M;
    let pushes_segment = matches!(
        code,
        Code::Pushd_CS | Code::Pushd_DS | Code::Pushd_ES | Code::Pushd_FS | Code::Pushd_GS | Code::Pushd_SS
    );
    let listed = matches!(
        code.mnemonic(),
        M::Shld
            | M::Shrd
            | M::Bound
            | M::Enter
            | M::Leave
            | M::Cmpsb
            | M::Cmpsw
            | M::Cmpsd
            | M::Scasb
            | M::Scasw
            | M::Scasd
    );
    !host_is_followed() && (pushes_segment || listed)
}

/// What is not compared with the host CPU's result of `m`.
#[must_use]
pub fn undefined(m: Mnemonic) -> Undefined {
    let listed = || FLAGS.iter().filter(|r| r.mnemonics.contains(&m)).fold(0, |f, r| f | r.flags);
    let flags = if host_is_followed() { 0 } else { listed() };
    match m {
        // AMD's load registers as they pop them; ESP and EIP stay, so that the instruction can be restarted.
        Mnemonic::Popa | Mnemonic::Popad => {
            Undefined { registers_on_fault: 0b1110_1111, flags, ..Undefined::default() }
        }
        // Which of two bad operands is reported first isn't specified, and changes with a repeat prefix and its count.
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd => {
            Undefined { which_fault: true, flags, ..Undefined::default() }
        }
        _ => Undefined { flags, ..Undefined::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Instruction, RflagsBits as R};
    use xlat86_arch::CpuModel;
    use xlat86_decoder::{Kind, Unit, kind_of, required_features, unit_of};

    /// The list is complete, and says no more than the manual as iced has it.
    #[test]
    fn every_instruction_with_undefined_flags_is_listed() {
        let pairs = [(R::OF, OF), (R::SF, SF), (R::ZF, ZF), (R::AF, AF), (R::CF, CF), (R::PF, PF)];
        let mut seen = std::collections::BTreeMap::new();
        for code in Code::values().filter(|&c| c.op_code().is_instruction() && c.op_code().mode32()) {
            // Privileged instructions (MOV CR) aren't for the host CPU.
            if kind_of(code) == Kind::Sensitive || unit_of(code) != Unit::Integer {
                continue;
            }
            if !CpuModel::MAX.features.contains(required_features(code)) {
                continue;
            }
            let mut i = Instruction::default();
            i.set_code(code);
            let bits = pairs.iter().filter(|(r, _)| i.rflags_undefined() & r != 0).fold(0, |f, (_, e)| f | e);
            *seen.entry(code.mnemonic()).or_insert(0) |= bits;
        }
        for (m, bits) in seen {
            let listed = FLAGS.iter().filter(|r| r.mnemonics.contains(&m)).fold(0, |f, r| f | r.flags);
            assert!(bits & !listed == 0, "{m:?}: {bits:x} undefined, {listed:x} listed");
        }
        assert!(FLAGS.iter().all(|r| !r.words.is_empty()));
    }
}
