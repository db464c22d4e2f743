//! What the CPU answers with an exception (SDM vol. 3A, 6.3 and 6.15).

use crate::Gva;

/// Interrupt and exception vectors.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Vector(pub u8);

#[allow(missing_docs)]
impl Vector {
    pub const DE: Vector = Vector(0);
    pub const DB: Vector = Vector(1);
    pub const NMI: Vector = Vector(2);
    pub const BP: Vector = Vector(3);
    pub const OF: Vector = Vector(4);
    pub const BR: Vector = Vector(5);
    pub const UD: Vector = Vector(6);
    pub const NM: Vector = Vector(7);
    pub const DF: Vector = Vector(8);
    pub const TS: Vector = Vector(10);
    pub const NP: Vector = Vector(11);
    pub const SS: Vector = Vector(12);
    pub const GP: Vector = Vector(13);
    pub const PF: Vector = Vector(14);
    pub const MF: Vector = Vector(16);
    pub const AC: Vector = Vector(17);
    pub const MC: Vector = Vector(18);
    pub const XM: Vector = Vector(19);

    /// The manual's mnemonic, or `#nn` for a vector without one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "#DE",
            1 => "#DB",
            2 => "NMI",
            3 => "#BP",
            4 => "#OF",
            5 => "#BR",
            6 => "#UD",
            7 => "#NM",
            8 => "#DF",
            10 => "#TS",
            11 => "#NP",
            12 => "#SS",
            13 => "#GP",
            14 => "#PF",
            16 => "#MF",
            17 => "#AC",
            18 => "#MC",
            19 => "#XM",
            _ => "#?",
        }
    }
}

impl core::fmt::Debug for Vector {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

/// Page-fault error code bits (SDM vol. 3A, 4.7).
#[allow(missing_docs)]
pub struct PfError;
#[allow(missing_docs)]
impl PfError {
    /// 0: page not present; 1: protection violation.
    pub const P: u32 = 1 << 0;
    /// Write access.
    pub const W: u32 = 1 << 1;
    /// User-mode access.
    pub const U: u32 = 1 << 2;
    /// Reserved bit set in a paging structure.
    pub const RSVD: u32 = 1 << 3;
    /// Instruction fetch.
    pub const I: u32 = 1 << 4;
}

/// A processor exception: the guest did something that its CPU answers with an interrupt through the IDT
/// (or, in user mode, that the kernel answers with a signal). Not an error of the emulator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which exception.
    pub vector: Vector,
    /// The error code, for the vectors that push one.
    pub error: Option<u32>,
    /// The faulting linear address (what CR2 receives), for #PF; for #DB the DR6 bits to set.
    pub addr: Gva,
}

impl Fault {
    /// An exception without an error code.
    #[must_use]
    pub const fn simple(vector: Vector) -> Self {
        Fault { vector, error: None, addr: Gva(0) }
    }
    /// An exception with an error code.
    #[must_use]
    pub const fn with_error(vector: Vector, error: u32) -> Self {
        Fault { vector, error: Some(error), addr: Gva(0) }
    }
    /// #UD, invalid opcode.
    #[must_use]
    pub const fn ud() -> Self {
        Self::simple(Vector::UD)
    }
    /// #DE, divide error.
    #[must_use]
    pub const fn de() -> Self {
        Self::simple(Vector::DE)
    }
    /// #GP with an error code (a selector's index bits, or 0).
    #[must_use]
    pub const fn gp(error: u32) -> Self {
        Self::with_error(Vector::GP, error)
    }
    /// #SS with an error code.
    #[must_use]
    pub const fn ss(error: u32) -> Self {
        Self::with_error(Vector::SS, error)
    }
    /// #PF at `addr` with the error bits of [`PfError`].
    #[must_use]
    pub const fn pf(addr: Gva, error: u32) -> Self {
        Fault { vector: Vector::PF, error: Some(error), addr }
    }

    /// What the CPU delivers when this fault comes up while delivering an exception with vector `first` (SDM vol. 3A,
    /// 6.15, table 6-5): itself, #DF, or nothing (`None`) when `first` was #DF and the CPU shuts down.
    #[must_use]
    pub fn after(self, first: Vector) -> Option<Fault> {
        let contributory = |v: Vector| matches!(v.0, 0 | 10..=13);
        let double = match first {
            Vector::DF => return None,
            Vector::PF => contributory(self.vector) || self.vector == Vector::PF,
            _ => contributory(first) && contributory(self.vector),
        };
        Some(if double { Self::with_error(Vector::DF, 0) } else { self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_double_by_class() {
        let (gp, pf) = (Fault::gp(0), Fault::pf(Gva(0), 0));
        assert_eq!(gp.after(Vector::UD), Some(gp));
        assert_eq!(pf.after(Vector::GP), Some(pf));
        assert_eq!(gp.after(Vector::NP).unwrap().vector, Vector::DF);
        assert_eq!(gp.after(Vector::PF).unwrap().vector, Vector::DF);
        assert_eq!(pf.after(Vector::PF).unwrap().vector, Vector::DF);
        assert_eq!(gp.after(Vector::DF), None);
    }
}
