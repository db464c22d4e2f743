//! The instruction-set extensions and paging features a guest CPU has.
//!
//! One row per feature: where CPUID reports it and what it is called. [`CpuModel`](crate::CpuModel) builds its leaves
//! from these rows and the decoder refuses what they leave out, so a guest is told exactly what it gets.

use core::ops::{BitAnd, BitOr, Sub};

/// Where CPUID reports a feature (SDM vol. 2A, CPUID, tables 3-10, 3-11 and 3-8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuidBit {
    /// Leaf 1, EDX.
    Leaf1Edx(u8),
    /// Leaf 1, ECX.
    Leaf1Ecx(u8),
    /// Leaf 8000_0001H, EDX.
    ExtEdx(u8),
    /// Leaf 8000_0001H, ECX.
    ExtEcx(u8),
    /// CPUID doesn't report it; it comes with the model.
    None,
}

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Features(u64);

macro_rules! features {
    ($($bit:literal $id:ident $name:literal $cpuid:expr, $doc:literal;)*) => {
        impl Features {
            $(#[doc = $doc] pub const $id: Features = Features(1 << $bit);)*

            /// Every feature that exists, with its name (that of /proc/cpuinfo) and where CPUID reports it.
            pub const TABLE: &[(Features, &str, CpuidBit)] = &[$((Features::$id, $name, $cpuid)),*];
        }
    };
}

use CpuidBit::{ExtEcx, ExtEdx, Leaf1Ecx, Leaf1Edx};

features! {
    0  FPU       "fpu"       Leaf1Edx(0),  "x87 floating point.";
    1  DE        "de"        Leaf1Edx(2),  "Debug extensions: I/O breakpoints, DR4 and DR5 not aliased.";
    2  PSE       "pse"       Leaf1Edx(3),  "4 MB pages.";
    3  TSC       "tsc"       Leaf1Edx(4),  "RDTSC and CR4.TSD.";
    4  MSR       "msr"       Leaf1Edx(5),  "RDMSR and WRMSR.";
    5  PAE       "pae"       Leaf1Edx(6),  "Physical address extension.";
    6  CX8       "cx8"       Leaf1Edx(8),  "CMPXCHG8B.";
    7  APIC      "apic"      Leaf1Edx(9),  "Local APIC.";
    8  SEP       "sep"       Leaf1Edx(11), "SYSENTER and SYSEXIT.";
    9  PGE       "pge"       Leaf1Edx(13), "Global pages.";
    10 CMOV      "cmov"      Leaf1Edx(15), "CMOVcc, and with FPU also FCMOVcc and FCOMI.";
    11 PAT       "pat"       Leaf1Edx(16), "Page attribute table.";
    12 CLFSH     "clflush"   Leaf1Edx(19), "CLFLUSH.";
    13 MMX       "mmx"       Leaf1Edx(23), "MMX.";
    14 FXSR      "fxsr"      Leaf1Edx(24), "FXSAVE and FXRSTOR.";
    15 SSE       "sse"       Leaf1Edx(25), "SSE.";
    16 SSE2      "sse2"      Leaf1Edx(26), "SSE2.";
    17 SSE3      "pni"       Leaf1Ecx(0),  "SSE3.";
    18 PCLMULQDQ "pclmulqdq" Leaf1Ecx(1),  "PCLMULQDQ.";
    19 SSSE3     "ssse3"     Leaf1Ecx(9),  "SSSE3.";
    20 SSE4_1    "sse4_1"    Leaf1Ecx(19), "SSE4.1.";
    21 SSE4_2    "sse4_2"    Leaf1Ecx(20), "SSE4.2.";
    22 MOVBE     "movbe"     Leaf1Ecx(22), "MOVBE.";
    23 POPCNT    "popcnt"    Leaf1Ecx(23), "POPCNT.";
    24 AES       "aes"       Leaf1Ecx(25), "AES-NI.";
    25 NX        "nx"        ExtEdx(20),   "Execute-disable page bit and EFER.NXE.";
    26 RDTSCP    "rdtscp"    ExtEdx(27),   "RDTSCP and IA32_TSC_AUX.";
    27 PREFETCHW "3dnowprefetch" ExtEcx(8), "0F 0D prefetches; their register forms are NOPs.";
    28 P6        "p6" CpuidBit::None, "What the P6 family added without a CPUID bit: hint NOPs 0F 18 to 0F 1F, RDPMC.";
}

impl Features {
    /// No feature: an Intel486 with CPUID and without floating point.
    pub const NONE: Features = Features(0);
    /// A requirement that no CPU of ours meets: the mark of extensions that are not offered (AVX, 3DNow!, VMX, ...).
    pub const NEVER: Features = Features(1 << 63);

    /// True when all of `other` is in `self`.
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Features) -> bool {
        other.0 & !self.0 == 0
    }
    /// The features in either.
    #[must_use]
    pub const fn union(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
    /// The feature called `name` in [`Features::TABLE`].
    #[must_use]
    pub fn by_name(name: &str) -> Option<Features> {
        Self::TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }
}

impl BitOr for Features {
    type Output = Features;
    fn bitor(self, other: Features) -> Features {
        self.union(other)
    }
}

impl BitAnd for Features {
    type Output = Features;
    fn bitand(self, other: Features) -> Features {
        Features(self.0 & other.0)
    }
}

impl Sub for Features {
    type Output = Features;
    fn sub(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }
}

impl core::fmt::Debug for Features {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let set = Self::TABLE.iter().filter(|row| self.contains(row.0)).map(|row| row.1);
        f.write_str(&set.collect::<Vec<_>>().join(" "))?;
        if self.contains(Self::NEVER) { f.write_str(" (never)") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_distinct() {
        for (i, a) in Features::TABLE.iter().enumerate() {
            for b in &Features::TABLE[i + 1..] {
                assert_ne!(a.0, b.0, "{} and {} share a bit", a.1, b.1);
                assert_ne!(a.1, b.1);
                assert!(a.2 != b.2 || a.2 == CpuidBit::None, "{} and {} share a CPUID bit", a.1, b.1);
            }
        }
    }

    #[test]
    fn sets_behave_as_sets() {
        let two = Features::SSE | Features::SSE2;
        assert!(two.contains(Features::SSE) && !Features::SSE.contains(two));
        assert_eq!(two - Features::SSE, Features::SSE2);
        assert_eq!(two & Features::SSE, Features::SSE);
        assert_eq!(Features::by_name("sse2"), Some(Features::SSE2));
        assert_eq!(format!("{two:?}"), "sse sse2");
    }
}
