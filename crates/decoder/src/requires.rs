//! Which CPU features an encoding needs.

use iced_x86::{Code, CpuidFeature};
use xlat86_arch::Features;

/// What a CPU must have to recognise `code`; [`Features::NEVER`] for extensions that are not offered.
pub(crate) fn requires(code: Code) -> Features {
    match code {
        // iced files it under MMX; it came with SSE2 (SDM vol. 2B, PADDQ).
        Code::Paddq_mm_mmm64 => Features::SSE2,
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D => Features::PREFETCHW,
        _ => code.cpuid_features().iter().fold(Features::NONE, |set, &f| set | feature(f)),
    }
}

/// The guest feature behind iced's. What came with the 8086 to the 486, and CPUID itself, every model has.
fn feature(f: CpuidFeature) -> Features {
    match f {
        CpuidFeature::INTEL8086
        | CpuidFeature::INTEL186
        | CpuidFeature::INTEL286
        | CpuidFeature::INTEL386
        | CpuidFeature::INTEL486
        | CpuidFeature::CPUID
        | CpuidFeature::PAUSE => Features::NONE,
        CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 => Features::FPU,
        CpuidFeature::TSC => Features::TSC,
        CpuidFeature::MSR => Features::MSR,
        CpuidFeature::CX8 => Features::CX8,
        CpuidFeature::SEP => Features::SEP,
        CpuidFeature::CMOV => Features::CMOV,
        CpuidFeature::CLFSH => Features::CLFSH,
        CpuidFeature::MMX => Features::MMX,
        CpuidFeature::FXSR => Features::FXSR,
        CpuidFeature::SSE => Features::SSE,
        CpuidFeature::SSE2 => Features::SSE2,
        CpuidFeature::SSE3 => Features::SSE3,
        CpuidFeature::PCLMULQDQ => Features::PCLMULQDQ,
        CpuidFeature::SSSE3 => Features::SSSE3,
        CpuidFeature::SSE4_1 => Features::SSE4_1,
        CpuidFeature::SSE4_2 => Features::SSE4_2,
        CpuidFeature::MOVBE => Features::MOVBE,
        CpuidFeature::POPCNT => Features::POPCNT,
        CpuidFeature::AES => Features::AES,
        CpuidFeature::RDTSCP => Features::RDTSCP,
        CpuidFeature::MULTIBYTENOP | CpuidFeature::RDPMC => Features::P6,
        _ => Features::NEVER,
    }
}
