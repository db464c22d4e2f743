//! Named CPU models and the CPUID leaves they answer with (SDM vol. 2A, CPUID).
//!
//! A model is a row: signature, features, caches. The leaves are computed from the row, so that what CPUID reports
//! and what the decoder accepts are the same set.

use crate::{CpuidBit, Features};

/// One level of cache as leaf 4 describes it.
#[derive(Clone, Copy, Debug)]
struct Cache {
    /// 1 data, 2 instruction, 3 unified.
    kind: u32,
    level: u32,
    ways: u32,
    sets: u32,
}

const LINE: u32 = 64;

/// A guest CPU model, as chosen by `--cpu`.
#[derive(Debug)]
pub struct CpuModel {
    /// Name on the command line.
    pub name: &'static str,
    /// What it can do. The decoder is given this set.
    pub features: Features,
    /// Brand string, leaves 8000_0002H to 8000_0004H; at most 47 bytes. Empty: the model has no extended leaves.
    brand: &'static str,
    /// Leaf 1 EAX: family, model, stepping.
    signature: u32,
    /// Highest basic leaf.
    max_leaf: u32,
    /// Leaf 2: cache and TLB descriptors.
    descriptors: [u32; 4],
    /// Leaf 4, in its order; empty for models that only have leaf 2.
    caches: &'static [Cache],
}

const fn all(list: &[Features]) -> Features {
    let mut set = Features::NONE;
    let mut i = 0;
    while i < list.len() {
        set = set.union(list[i]);
        i += 1;
    }
    set
}

const PENTIUM: Features =
    all(&[Features::FPU, Features::DE, Features::PSE, Features::TSC, Features::MSR, Features::CX8]);
const PENTIUM2: Features = all(&[
    PENTIUM,
    Features::PAE,
    Features::APIC,
    Features::SEP,
    Features::PGE,
    Features::CMOV,
    Features::PAT,
    Features::MMX,
    Features::FXSR,
    Features::P6,
]);
const PENTIUM3: Features = all(&[PENTIUM2, Features::SSE]);
const PENTIUM4: Features = all(&[PENTIUM3, Features::SSE2, Features::CLFSH]);
const CORE2: Features = all(&[PENTIUM4, Features::SSE3, Features::SSSE3, Features::NX]);
const NEHALEM: Features = all(&[CORE2, Features::SSE4_1, Features::SSE4_2, Features::POPCNT, Features::RDTSCP]);
const WESTMERE: Features = all(&[NEHALEM, Features::AES, Features::PCLMULQDQ]);
const MAX: Features = all(&[WESTMERE, Features::MOVBE, Features::PREFETCHW]);

const CORE2_CACHES: &[Cache] = &[
    Cache { kind: 1, level: 1, ways: 8, sets: 64 },
    Cache { kind: 2, level: 1, ways: 8, sets: 64 },
    Cache { kind: 3, level: 2, ways: 16, sets: 4096 },
];
const NEHALEM_CACHES: &[Cache] = &[
    Cache { kind: 1, level: 1, ways: 8, sets: 64 },
    Cache { kind: 2, level: 1, ways: 4, sets: 128 },
    Cache { kind: 3, level: 2, ways: 8, sets: 512 },
    Cache { kind: 3, level: 3, ways: 16, sets: 8192 },
];
/// Descriptor FFH among them sends software to leaf 4.
const SEE_LEAF_4: [u32; 4] = [0x5503_5a01, 0x00f0_b2ff, 0, 0x00ca_0000];

/// Every model, oldest first. The last is the default: everything xlat86 implements.
const MODELS: &[CpuModel] = &[
    CpuModel {
        name: "pentium",
        features: PENTIUM,
        brand: "",
        signature: 0x052c,
        max_leaf: 1,
        descriptors: [0; 4],
        caches: &[],
    },
    CpuModel {
        name: "pentium2",
        features: PENTIUM2,
        brand: "",
        signature: 0x0652,
        max_leaf: 2,
        descriptors: [0x0302_0101, 0, 0, 0x0c04_0843],
        caches: &[],
    },
    CpuModel {
        name: "pentium3",
        features: PENTIUM3,
        brand: "",
        signature: 0x0683,
        max_leaf: 2,
        descriptors: [0x0302_0101, 0, 0, 0x0c04_0882],
        caches: &[],
    },
    CpuModel {
        name: "pentium4",
        features: PENTIUM4,
        brand: "Intel(R) Pentium(R) 4 CPU 2.00GHz",
        signature: 0x0f29,
        max_leaf: 2,
        descriptors: [0x665b_5001, 0, 0, 0x007b_7040],
        caches: &[],
    },
    CpuModel {
        name: "core2",
        features: CORE2,
        brand: "Intel(R) Core(TM)2 CPU",
        signature: 0x06f6,
        max_leaf: 10,
        descriptors: SEE_LEAF_4,
        caches: CORE2_CACHES,
    },
    CpuModel {
        name: "nehalem",
        features: NEHALEM,
        brand: "Intel(R) Core(TM) i7 CPU",
        signature: 0x0001_06a5,
        max_leaf: 11,
        descriptors: SEE_LEAF_4,
        caches: NEHALEM_CACHES,
    },
    CpuModel {
        name: "westmere",
        features: WESTMERE,
        brand: "Intel(R) Xeon(R) CPU",
        signature: 0x0002_06c2,
        max_leaf: 11,
        descriptors: SEE_LEAF_4,
        caches: NEHALEM_CACHES,
    },
    CpuModel {
        name: "max",
        features: MAX,
        brand: "xlat86 virtual CPU",
        signature: 0x0002_06c2,
        max_leaf: 11,
        descriptors: SEE_LEAF_4,
        caches: NEHALEM_CACHES,
    },
];

impl Default for &'static CpuModel {
    fn default() -> Self {
        CpuModel::MAX
    }
}

impl CpuModel {
    /// Everything xlat86 implements: the default.
    pub const MAX: &'static CpuModel = &MODELS[MODELS.len() - 1];

    /// Every model, oldest first.
    #[must_use]
    pub const fn all() -> &'static [CpuModel] {
        MODELS
    }

    /// The model called `name`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static CpuModel> {
        MODELS.iter().find(|m| m.name == name)
    }

    /// EAX, EBX, ECX, EDX after CPUID with `leaf` in EAX and `subleaf` in ECX.
    ///
    /// The guest sees one package with one logical processor, APIC id 0.
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        match leaf {
            0x8000_0000.. if leaf <= self.max_extended() => self.extended(leaf),
            0..0x8000_0000 if leaf <= self.max_leaf => self.basic(leaf, subleaf),
            // Intel: a leaf out of range answers as the highest basic one.
            _ => self.basic(self.max_leaf, subleaf),
        }
    }

    /// Bits of a physical address.
    #[must_use]
    pub const fn physical_address_bits(&self) -> u32 {
        if self.features.contains(Features::PAE) { 36 } else { 32 }
    }

    const fn max_extended(&self) -> u32 {
        match (self.brand.is_empty(), self.caches.is_empty()) {
            (true, _) => 0,
            (false, true) => 0x8000_0004,
            (false, false) => 0x8000_0008,
        }
    }

    fn basic(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let report = |place: fn(CpuidBit) -> Option<u8>| self.report(place);
        match leaf {
            0 => [self.max_leaf, word(b"Genu"), word(b"ntel"), word(b"ineI")],
            1 => {
                let clflush = if self.features.contains(Features::CLFSH) { LINE / 8 } else { 0 };
                let ecx = report(|b| if let CpuidBit::Leaf1Ecx(n) = b { Some(n) } else { None });
                let edx = report(|b| if let CpuidBit::Leaf1Edx(n) = b { Some(n) } else { None });
                [self.signature, clflush << 8 | 1 << 16, ecx, edx]
            }
            2 => self.descriptors,
            4 => self.caches.get(subleaf as usize).map_or([0; 4], |c| {
                let eax = c.kind | c.level << 5 | 1 << 8;
                [eax, (LINE - 1) | (c.ways - 1) << 22, c.sets - 1, 0]
            }),
            // One thread in one core: no bits of the APIC id at either level.
            11 if subleaf < 2 => [0, 1, (subleaf + 1) << 8 | subleaf, 0],
            11 => [0, 0, subleaf & 0xff, 0],
            // 3 serial number, 5 MONITOR, 6 power, 7 extended features, 9 DCA, 10 performance counters: none.
            _ => [0; 4],
        }
    }

    fn extended(&self, leaf: u32) -> [u32; 4] {
        match leaf {
            0x8000_0000 => [self.max_extended(), 0, 0, 0],
            0x8000_0001 => {
                let ecx = self.report(|b| if let CpuidBit::ExtEcx(n) = b { Some(n) } else { None });
                let edx = self.report(|b| if let CpuidBit::ExtEdx(n) = b { Some(n) } else { None });
                [0, 0, ecx, edx]
            }
            0x8000_0002..=0x8000_0004 => {
                let mut text = [0; 48];
                text[..self.brand.len()].copy_from_slice(self.brand.as_bytes());
                let at = (leaf - 0x8000_0002) as usize * 16;
                core::array::from_fn(|i| word(&[0, 1, 2, 3].map(|j| text[at + 4 * i + j])))
            }
            0x8000_0006 => {
                let l2 = self.caches.iter().find(|c| c.level == 2);
                [0, 0, l2.map_or(0, |c| (c.ways * c.sets * LINE / 1024) << 16 | amd_ways(c.ways) << 12 | LINE), 0]
            }
            // 36 physical bits with PAE, 32 virtual.
            0x8000_0008 => [self.physical_address_bits() | 32 << 8, 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// The register whose bits `place` picks.
    fn report(&self, place: fn(CpuidBit) -> Option<u8>) -> u32 {
        let rows = Features::TABLE.iter().filter(|row| self.features.contains(row.0));
        rows.filter_map(|row| place(row.2)).fold(0, |reg, bit| reg | 1 << bit)
    }
}

fn word(text: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*text)
}

/// Associativity code of leaf 8000_0006H.
fn amd_ways(ways: u32) -> u32 {
    match ways {
        16 => 8,
        8 => 6,
        4 => 4,
        w => w,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_model_has_every_feature() {
        let model: &CpuModel = Default::default();
        assert_eq!(model.name, "max");
        assert!(Features::TABLE.iter().all(|row| model.features.contains(row.0)));
        assert!(!model.features.contains(Features::NEVER));
    }

    #[test]
    fn models_grow_and_are_found_by_name() {
        for pair in MODELS.windows(2) {
            assert!(pair[1].features.contains(pair[0].features), "{} lost a feature", pair[1].name);
        }
        assert_eq!(CpuModel::by_name("core2").map(|m| m.signature), Some(0x6f6));
        assert!(CpuModel::by_name("486").is_none());
    }

    #[test]
    fn leaf_1_reports_the_features_and_nothing_else() {
        // From the SDM's tables, not from Features::TABLE.
        assert_eq!(CpuModel::by_name("pentium").unwrap().cpuid(1, 0)[2..], [0, 0x13d]);
        assert_eq!(CpuModel::MAX.cpuid(1, 0)[2..], [0x02d8_0203, 0x0789_ab7d]);
        assert_eq!(CpuModel::MAX.cpuid(0x8000_0001, 0)[2..], [0x100, 0x0810_0000]);
        // No OSXSAVE, no AVX: the state they add doesn't exist.
        assert_eq!(CpuModel::MAX.cpuid(1, 0)[2] & (1 << 26 | 1 << 27 | 1 << 28), 0);
        assert_eq!(CpuModel::MAX.cpuid(7, 0), [0; 4]);
    }

    #[test]
    fn strings_are_laid_out_as_the_manual_says() {
        for model in MODELS {
            let [_, b, c, d] = model.cpuid(0, 0);
            assert_eq!([b, d, c].map(u32::to_le_bytes).concat(), b"GenuineIntel");
            assert!(model.brand.len() < 48);
        }
        let brand: Vec<u8> =
            (2..=4).flat_map(|n| CpuModel::MAX.cpuid(0x8000_0000 + n, 0)).flat_map(u32::to_le_bytes).collect();
        assert_eq!(brand.strip_suffix(&[0; 30][..]).unwrap(), b"xlat86 virtual CPU");
    }

    #[test]
    fn caches_have_their_sizes() {
        let size = |sub| {
            let [_, b, c, _] = CpuModel::MAX.cpuid(4, sub);
            ((b >> 22) + 1) * ((b & 0xfff) + 1) * (c + 1)
        };
        assert_eq!([0, 1, 2, 3].map(size), [32 << 10, 32 << 10, 256 << 10, 8 << 20]);
        assert_eq!(CpuModel::MAX.cpuid(4, 4)[0] & 0x1f, 0, "the list ends");
        assert_eq!(CpuModel::MAX.cpuid(0x8000_0006, 0)[2], 0x0100_6040);
    }

    #[test]
    fn leaves_out_of_range_answer_as_the_highest_basic_one() {
        for model in MODELS {
            let top = model.cpuid(model.max_leaf, 0);
            for leaf in [model.max_leaf + 1, 0x4000_0000, 0x8000_0009, u32::MAX] {
                assert_eq!(model.cpuid(leaf, 0), top, "{} leaf {leaf:x}", model.name);
            }
        }
    }
}
