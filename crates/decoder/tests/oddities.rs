//! Encodings on which decoders disagree, each with what the CPU does. Those marked `cpu` were run on one (see
//! docs/decoding.md); the others are settled by the manual, where the machine at hand lacks the mode or the model.

use iced_x86::Code;
use xlat86_arch::{CpuModel, Mode, Vector};
use xlat86_decoder::{Insn, Kind, decode_insn};

#[derive(Clone, Copy, Debug)]
enum Want {
    /// This code, this kind, this many bytes.
    Is(Code, Kind, usize),
    /// #UD.
    Ud,
    /// #GP(0), because it is longer than 15 bytes.
    TooLong,
}
use Want::{Is, TooLong, Ud};

const PM32: Mode = Mode::USER32;
const PM16: Mode = Mode(Mode::PROTECTED);
const REAL: Mode = Mode(0);
const VM86: Mode = Mode(Mode::PROTECTED | Mode::VM86);

fn decode(bytes: &str, mode: Mode, cpu: &str) -> Insn {
    let mut raw: Vec<u8> = bytes.split_whitespace().map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    raw.resize(raw.len() + 16, 0);
    decode_insn(&raw, 0x1000, mode, CpuModel::by_name(cpu).unwrap().features).expect("enough bytes")
}

fn check(cases: &[(&str, Mode, &str, Want)]) {
    for &(bytes, mode, cpu, want) in cases {
        let insn = decode(bytes, mode, cpu);
        let fault = insn.fault().map(|f| f.vector);
        let good = match want {
            Is(code, kind, len) => insn.code() == code && insn.kind == kind && insn.len() == len && fault.is_none(),
            Ud => fault == Some(Vector::UD),
            TooLong => fault == Some(Vector::GP),
        };
        assert!(good, "{bytes} ({mode:?}, {cpu}): want {want:?}, got {:?} {:?} {}", insn.code(), insn.kind, insn.len());
    }
}

#[test]
#[rustfmt::skip]
fn prefixes() {
    use Kind::*;
    check(&[
        // Repeated prefixes count once; of F2 and F3 the last counts.                                        cpu
        ("66 66 66 90",       PM32, "max", Is(Code::Nopw, Plain, 4)),
        ("f2 f3 a4",          PM32, "max", Is(Code::Movsb_m8_m8, String, 3)),
        ("f3 f2 0f 58 c1",    PM32, "max", Is(Code::Addsd_xmm_xmmm64, Plain, 5)),
        ("f2 f3 0f 58 c1",    PM32, "max", Is(Code::Addss_xmm_xmmm32, Plain, 5)),
        // F2 and F3 win over 66 in choosing an SSE instruction.                                               cpu
        ("66 f3 0f 58 c1",    PM32, "max", Is(Code::Addss_xmm_xmmm32, Plain, 5)),
        ("f3 66 0f 6f c1",    PM32, "max", Is(Code::Movdqu_xmm_xmmm128, Plain, 5)),
        ("66 f2 0f 38 f1 c1", PM32, "max", Is(Code::Crc32_r32_rm16, Plain, 6)),
        // 66 makes near branches 16 bits wide, with shorter displacements; 67 shortens addresses.             cpu
        ("66 e8 00 00",       PM32, "max", Is(Code::Call_rel16, Branch, 4)),
        ("66 e8 00 00 00 00", PM16, "max", Is(Code::Call_rel32_32, Branch, 6)),
        ("66 0f 84 00 00",    PM32, "max", Is(Code::Je_rel16, Branch, 5)),
        ("67 8b 46 01",       PM32, "max", Is(Code::Mov_r32_rm32, Plain, 4)),
        ("67 66 8b 05",       PM16, "max", Is(Code::Mov_r32_rm32, Plain, 8)),
        ("67 e3 00",          PM32, "max", Is(Code::Jcxz_rel8_32, Branch, 3)),
        ("67 e2 00",          PM16, "max", Is(Code::Loop_rel8_16_ECX, Branch, 3)),
        // Ignored: F3 before BSF and BSR without BMI1 and LZCNT, before RET, F2 before JMP, 3E before Jcc.    cpu
        ("f3 0f bc c0",       PM32, "max", Is(Code::Bsf_r32_rm32, Plain, 4)),
        ("f3 0f bd c0",       PM32, "max", Is(Code::Bsr_r32_rm32, Plain, 4)),
        ("f3 0f 09",          PM32, "max", Is(Code::Wbinvd, Sensitive, 3)),
        ("f3 c3",             PM32, "max", Is(Code::Retnd, Branch, 2)),
        ("f2 e9 00 00 00 00", PM32, "max", Is(Code::Jmp_rel32_32, Branch, 6)),
        ("3e 75 00",          PM32, "max", Is(Code::Jne_rel8_32, Branch, 3)),
        ("f2 89 c0",          PM32, "max", Is(Code::Mov_rm32_r32, Plain, 3)),
        ("f3 90",             PM32, "max", Is(Code::Pause, Plain, 2)),
    ]);
}

#[test]
#[rustfmt::skip]
fn lock() {
    use Kind::*;
    check(&[
        ("f0 01 00",          PM32, "max", Is(Code::Add_rm32_r32, Plain, 3)),
        ("f0 87 00",          PM32, "max", Is(Code::Xchg_rm32_r32, Plain, 3)),
        ("f2 f0 01 00",       PM32, "max", Is(Code::Add_rm32_r32, Plain, 4)),
        ("f0 0f c7 08",       PM32, "max", Is(Code::Cmpxchg8b_m64, Plain, 4)),
        ("f0 0f ba 28 01",    PM32, "max", Is(Code::Bts_rm32_imm8, Plain, 5)),
        // Register operands, loads, CMP, MOV, BT, control registers, hint NOPs, no memory operand at all.     cpu
        ("f0 01 c0",          PM32, "max", Ud),
        ("f0 03 00",          PM32, "max", Ud),
        ("f0 39 00",          PM32, "max", Ud),
        ("f0 89 00",          PM32, "max", Ud),
        ("f0 0f ba 20 01",    PM32, "max", Ud),
        ("f0 0f 1f 00",       PM32, "max", Ud),
        ("f0 90",             PM32, "max", Ud),
        ("f0 a4",             PM32, "max", Ud),
        ("f0 d9 00",          PM32, "max", Ud),
        // AMD: MOV from CR8, with a feature that is not offered; Zen 4 ignores LOCK before VERW, against the manual.
        ("f0 0f 20 c0",       PM32, "max", Ud),
        ("f0 0f 00 28",       PM32, "max", Ud),
    ]);
}

#[test]
#[rustfmt::skip]
fn length() {
    use Kind::*;
    let seg = |n: usize, tail: &str| format!("{}{tail}", "2e ".repeat(n));
    check(&[
        (&seg(14, "90"),       PM32, "max", Is(Code::Nopd, Plain, 15)),
        (&seg(15, "90"),       PM32, "max", TooLong),
        (&seg(13, "0f 0b"),    PM32, "max", Ud),
        (&seg(14, "0f 0b"),    PM32, "max", TooLong),
        (&seg(9, "81 05"),     PM32, "max", TooLong),
        (&seg(5, "81 05"),     PM32, "max", Is(Code::Add_rm32_imm32, Plain, 15)),
        (&seg(13, "f0 90"),    PM32, "max", Ud),
        ("f3 f3 f3 f3 f3 f3 f3 f3 f3 f3 f3 f3 f3 f3 f3 90", PM32, "max", TooLong),
        ("f3 f3 f3 f3 f3 f3 f3 f3 f3 f3 f3 f3 f3 0f 05", PM32, "max", Ud),
        ("66 67 2e 66 67 2e 66 67 2e 66 67 2e 66 81 06", PM32, "max", TooLong),
    ]);
}

#[test]
#[rustfmt::skip]
fn aliases_and_undocumented() {
    use Kind::*;
    check(&[
        ("82 c0 01",    PM32, "max", Is(Code::Add_rm8_imm8_82, Plain, 3)),
        ("d6",          PM32, "max", Is(Code::Salc, Plain, 1)),
        ("f1",          PM32, "max", Is(Code::Int1, Sensitive, 1)),
        ("c1 f0 01",    PM32, "max", Is(Code::Sal_rm32_imm8, Plain, 3)),
        ("f7 c8 00",    PM32, "max", Is(Code::Test_rm32_imm32_F7r1, Plain, 6)),
        ("66 0f c8",    PM32, "max", Is(Code::Bswap_r16, Plain, 3)),
        ("d9 d8",       PM32, "max", Is(Code::Fstpnce_sti, Fpu, 2)),
        ("dc d0",       PM32, "max", Is(Code::Fcom_st0_sti_DCD0, Fpu, 2)),
        ("dc d8",       PM32, "max", Is(Code::Fcomp_st0_sti_DCD8, Fpu, 2)),
        ("dd c8",       PM32, "max", Is(Code::Fxch_st0_sti_DDC8, Fpu, 2)),
        ("de d0",       PM32, "max", Is(Code::Fcomp_st0_sti_DED0, Fpu, 2)),
        ("df c0",       PM32, "max", Is(Code::Ffreep_sti, Fpu, 2)),
        ("df c8",       PM32, "max", Is(Code::Fxch_st0_sti_DFC8, Fpu, 2)),
        ("df d0",       PM32, "max", Is(Code::Fstp_sti_DFD0, Fpu, 2)),
        ("db e0",       PM32, "max", Is(Code::Fneni, Fpu, 2)),
        ("db e4",       PM32, "max", Is(Code::Fnsetpm, Fpu, 2)),
        ("9b",          PM32, "max", Is(Code::Wait, Fpu, 1)),
        // LFENCE, MFENCE and SFENCE with any register; MOV CR and DR with any mode.                           cpu
        ("0f ae ef",    PM32, "max", Is(Code::Lfence_EF, Plain, 3)),
        ("0f ae f1",    PM32, "max", Is(Code::Mfence_F1, Plain, 3)),
        ("0f 20 00",    PM32, "max", Is(Code::Mov_r32_cr, Sensitive, 3)),
        ("0f 23 45",    PM32, "max", Is(Code::Mov_dr_r32, Sensitive, 3)),
    ]);
}

#[test]
#[rustfmt::skip]
fn undefined() {
    check(&[
        ("0f 0b",       PM32, "max", Ud),
        ("0f b9 c0",    PM32, "max", Ud),
        ("0f ff c0",    PM32, "max", Ud),
        // Reserved members of groups, control registers that don't exist, memory-only with a register.        cpu
        ("fe d0",       PM32, "max", Ud),
        ("ff f8",       PM32, "max", Ud),
        ("8f c8",       PM32, "max", Ud),
        ("c6 c8 00",    PM32, "max", Ud),
        ("0f ba c0 00", PM32, "max", Ud),
        ("0f 00 f0",    PM32, "max", Ud),
        ("0f 20 c8",    PM32, "max", Ud),
        ("8e c8",       PM32, "max", Ud),
        ("8c f0",       PM32, "max", Ud),
        ("8d c0",       PM32, "max", Ud),
        ("ff d8",       PM32, "max", Ud),
        ("62 c0",       PM32, "max", Ud),
        ("c4 c0",       PM32, "max", Ud),
        ("d9 c8 d9 d1", PM32, "max", Is(Code::Fxch_st0_sti, Kind::Fpu, 2)),
        ("d9 d1",       PM32, "max", Ud),
        ("d9 08",       PM32, "max", Ud),
        ("db e5",       PM32, "max", Ud),
        ("0f 0d c0",    PM32, "max", Ud),
        ("0f c7 c8",    PM32, "max", Ud),
        ("0f 24 c0",    PM32, "max", Ud),
        ("0f aa",       PM32, "max", Ud),
        ("0f 05",       PM32, "max", Ud),
        // Extensions that are not offered, though the host may have them.
        ("c5 f8 58 c1", PM32, "max", Ud),
        ("62 f1 7c 48 58 c1", PM32, "max", Ud),
        ("8f e9 78 81 c0",    PM32, "max", Ud),
        ("0f 0f c0 0d", PM32, "max", Ud),
        ("0f 01 d0",    PM32, "max", Ud),
        ("0f c7 f0",    PM32, "max", Ud),
        ("0f 01 c8",    PM32, "max", Ud),
        ("f3 0f ae e8", PM32, "max", Ud),
        ("66 0f ae 38", PM32, "max", Ud),
        ("0f 38 c8 c1", PM32, "max", Ud),
        ("0f a6 c0",    PM32, "max", Ud),
    ]);
}

#[test]
#[rustfmt::skip]
fn hint_nops() {
    use Kind::Plain;
    check(&[
        ("0f 1f 40 00",    PM32, "max", Is(Code::Reservednop_rm32_r32_0F1F, Plain, 4)),
        ("66 0f 1f 00",    PM32, "max", Is(Code::Reservednop_rm16_r16_0F1F, Plain, 4)),
        ("f3 0f 1e fb",    PM32, "max", Is(Code::Reservednop_rm32_r32_0F1E, Plain, 4)),
        ("f3 0f 1e c8",    PM32, "max", Is(Code::Reservednop_rm32_r32_0F1E, Plain, 4)),
        ("0f 18 00",       PM32, "max", Is(Code::Reservednop_rm32_r32_0F18, Plain, 3)),
        ("0f 1a c0",       PM32, "max", Is(Code::Reservednop_rm32_r32_0F1A, Plain, 3)),
        ("0f 0d 08",       PM32, "max", Is(Code::Reservednop_rm32_r32_0F0D, Plain, 3)),
        ("0f 1f 00",       PM32, "pentium", Ud),
        ("0f 0d 08",       PM32, "westmere", Ud),
    ]);
}

#[test]
#[rustfmt::skip]
fn models_and_modes() {
    use Kind::*;
    check(&[
        ("0f 38 00 c1",    PM32, "pentium4", Ud),
        ("0f 38 00 c1",    PM32, "core2", Is(Code::Pshufb_mm_mmm64, Plain, 4)),
        ("0f d4 c1",       PM32, "pentium3", Ud),
        ("0f d4 c1",       PM32, "pentium4", Is(Code::Paddq_mm_mmm64, Plain, 3)),
        ("0f 44 c1",       PM32, "pentium", Ud),
        ("da c1",          PM32, "pentium", Ud),
        ("0f 34",          PM32, "pentium", Ud),
        ("0f 34",          PM32, "pentium2", Is(Code::Sysenter, Sensitive, 2)),
        ("0f 01 f9",       PM32, "core2", Ud),
        ("0f 38 f0 00",    PM32, "westmere", Ud),
        ("0f 38 f0 00",    PM32, "max", Is(Code::Movbe_r32_m32, Plain, 4)),
        // SDM vol. 2, under each: not recognised in real-address and virtual-8086 mode.
        ("63 c0",          PM32, "max", Is(Code::Arpl_r32m16_r32, Sensitive, 2)),
        ("63 c0",          REAL, "max", Ud),
        ("0f 02 c0",       VM86, "max", Ud),
        ("0f 00 c0",       REAL, "max", Ud),
        ("0f 01 e0",       REAL, "max", Is(Code::Smsw_rm16, Sensitive, 3)),
    ]);
}

/// A prefix the CPU ignores doesn't survive into iced's view, where a host with more extensions would obey it.
#[test]
fn ignored_repeats_are_dropped() {
    for bytes in ["f3 0f bc c0", "f3 0f bd c0", "f3 0f 09", "f3 c3", "f2 e9 00 00 00 00", "f2 f0 01 00", "f3 89 00"] {
        let iced = decode(bytes, PM32, "max").iced;
        assert!(!iced.has_rep_prefix() && !iced.has_repne_prefix(), "{bytes}");
        assert!(!iced.has_xacquire_prefix() && !iced.has_xrelease_prefix(), "{bytes}");
    }
    assert!(decode("f3 a4", PM32, "max").iced.has_rep_prefix());
    assert!(decode("f2 ae", PM32, "max").iced.has_repne_prefix());
    assert!(decode("f3 6c", PM32, "max").iced.has_rep_prefix());
}
