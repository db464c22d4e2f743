//! The classification of every instruction: one row per mnemonic or, where a mnemonic covers instructions of
//! different kinds, per code. Nothing is classified by default; a test finds what no row names.

use iced_x86::{Code, Mnemonic};

/// What a translator has to do about an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Computes on registers, memory and flags only: runs re-encoded.
    Plain,
    /// Moves ESP or addresses memory through it implicitly (PUSH, POP, PUSHA, ENTER, LEAVE).
    Stack,
    /// String instruction, with or without REP (INS and OUTS are sensitive).
    String,
    /// Changes EIP within CS: near jumps, calls, returns, LOOP, JECXZ.
    Branch,
    /// x87: may report a pending exception, records its own address, or saves and restores those records.
    Fpu,
    /// Reads or changes privileged or virtualised state, or enters the system.
    Sensitive,
    /// No instruction: #UD, or #GP(0) when over-long.
    Invalid,
}

/// One row: the kind, whether a block ends after the instruction, and which instructions.
pub(crate) type Row<T> = (Kind, Ends, &'static [T]);

/// Whether a block ends after an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ends {
    /// Execution goes on with the next instruction, under the same mode bits.
    No,
    /// It may go on elsewhere, or the mode bits, the mapping of the next bytes or the interrupt flag may differ.
    Yes,
}

/// Mnemonics all of whose codes are of one kind.
#[rustfmt::skip]
pub(crate) const BY_MNEMONIC: &[Row<Mnemonic>] = {
    use Ends::{No, Yes};
    use Kind::{Branch, Fpu, Invalid, Plain, Sensitive, Stack, String};
    use Mnemonic::*;
    &[
        // Integer arithmetic and logic, BCD.
        (Plain, No, &[Add, Or, Adc, Sbb, And, Sub, Xor, Cmp, Test, Inc, Dec, Not, Neg, Mul, Imul, Div, Idiv]),
        (Plain, No, &[Rol, Ror, Rcl, Rcr, Shl, Shr, Sal, Sar, Shld, Shrd, Bt, Bts, Btr, Btc, Bsf, Bsr]),
        (Plain, No, &[Aaa, Aas, Aam, Aad, Daa, Das, Cbw, Cwde, Cwd, Cdq]),
        (Plain, No, &[Popcnt, Crc32]),
        // Data movement, flags, nothing.
        (Plain, No, &[Lea, Xchg, Xadd, Cmpxchg, Cmpxchg8b, Bswap, Movzx, Movsx, Movbe, Xlatb, Salc, Bound]),
        (Plain, No, &[Cmovo, Cmovno, Cmovb, Cmovae, Cmove, Cmovne, Cmovbe, Cmova]),
        (Plain, No, &[Cmovs, Cmovns, Cmovp, Cmovnp, Cmovl, Cmovge, Cmovle, Cmovg]),
        (Plain, No, &[Seto, Setno, Setb, Setae, Sete, Setne, Setbe, Seta]),
        (Plain, No, &[Sets, Setns, Setp, Setnp, Setl, Setge, Setle, Setg]),
        (Plain, No, &[Sahf, Lahf, Cmc, Clc, Stc, Cld, Std]),
        (Plain, No, &[Nop, Pause, Reservednop, Prefetchnta, Prefetcht0, Prefetcht1, Prefetcht2]),
        (Plain, No, &[Clflush, Lfence, Mfence, Sfence]),
        // MMX.
        (Plain, No, &[Emms, Movd, Movq, Pand, Pandn, Por, Pxor]),
        (Plain, No, &[Punpcklbw, Punpcklwd, Punpckldq, Punpckhbw, Punpckhwd, Punpckhdq, Packsswb, Packssdw, Packuswb]),
        (Plain, No, &[Pcmpeqb, Pcmpeqw, Pcmpeqd, Pcmpgtb, Pcmpgtw, Pcmpgtd, Pmullw, Pmulhw, Pmaddwd]),
        (Plain, No, &[Psllw, Pslld, Psllq, Psrlw, Psrld, Psrlq, Psraw, Psrad]),
        (Plain, No, &[Paddb, Paddw, Paddd, Paddq, Paddsb, Paddsw, Paddusb, Paddusw]),
        (Plain, No, &[Psubb, Psubw, Psubd, Psubq, Psubsb, Psubsw, Psubusb, Psubusw]),
        // SSE.
        (Plain, No, &[Movaps, Movups, Movss, Movlps, Movhps, Movhlps, Movlhps, Movmskps, Movntps, Movntq, Maskmovq]),
        (Plain, No, &[Unpcklps, Unpckhps, Shufps, Andps, Andnps, Orps, Xorps, Cmpps, Cmpss, Comiss, Ucomiss]),
        (Plain, No, &[Addps, Addss, Subps, Subss, Mulps, Mulss, Divps, Divss, Minps, Minss, Maxps, Maxss]),
        (Plain, No, &[Sqrtps, Sqrtss, Rsqrtps, Rsqrtss, Rcpps, Rcpss, Ldmxcsr, Stmxcsr]),
        (Plain, No, &[Cvtpi2ps, Cvtps2pi, Cvttps2pi, Cvtsi2ss, Cvtss2si, Cvttss2si]),
        (Plain, No, &[Pshufw, Pinsrw, Pextrw, Pmovmskb, Pminub, Pmaxub, Pminsw, Pmaxsw, Pavgb, Pavgw, Pmulhuw, Psadbw]),
        // SSE2; MOVSD and CMPSD share their names with string instructions and stand in BY_CODE.
        (Plain, No, &[Movapd, Movupd, Movlpd, Movhpd, Movmskpd, Movntpd, Movnti, Movntdq, Maskmovdqu]),
        (Plain, No, &[Movdqa, Movdqu, Movq2dq, Movdq2q, Pshufd, Pshufhw, Pshuflw, Punpcklqdq, Punpckhqdq]),
        (Plain, No, &[Unpcklpd, Unpckhpd, Shufpd, Andpd, Andnpd, Orpd, Xorpd, Cmppd, Comisd, Ucomisd]),
        (Plain, No, &[Addpd, Addsd, Subpd, Subsd, Mulpd, Mulsd, Divpd, Divsd, Minpd, Minsd, Maxpd, Maxsd, Sqrtpd, Sqrtsd]),
        (Plain, No, &[Cvtpi2pd, Cvtpd2pi, Cvttpd2pi, Cvtsi2sd, Cvtsd2si, Cvttsd2si, Cvtps2pd, Cvtpd2ps, Cvtss2sd, Cvtsd2ss]),
        (Plain, No, &[Cvtdq2ps, Cvtps2dq, Cvttps2dq, Cvtdq2pd, Cvtpd2dq, Cvttpd2dq, Pmuludq, Pslldq, Psrldq]),
        // SSE3, SSSE3.
        (Plain, No, &[Movsldup, Movshdup, Movddup, Haddps, Haddpd, Hsubps, Hsubpd, Addsubps, Addsubpd, Lddqu]),
        (Plain, No, &[Pshufb, Phaddw, Phaddd, Phaddsw, Phsubw, Phsubd, Phsubsw, Pmaddubsw, Pmulhrsw]),
        (Plain, No, &[Psignb, Psignw, Psignd, Pabsb, Pabsw, Pabsd, Palignr]),
        // SSE4.1, SSE4.2, AES, PCLMULQDQ.
        (Plain, No, &[Blendps, Blendpd, Blendvps, Blendvpd, Pblendw, Pblendvb, Ptest, Movntdqa, Packusdw, Mpsadbw, Phminposuw]),
        (Plain, No, &[Pmovsxbw, Pmovsxbd, Pmovsxbq, Pmovsxwd, Pmovsxwq, Pmovsxdq]),
        (Plain, No, &[Pmovzxbw, Pmovzxbd, Pmovzxbq, Pmovzxwd, Pmovzxwq, Pmovzxdq]),
        (Plain, No, &[Pminsb, Pminsd, Pminuw, Pminud, Pmaxsb, Pmaxsd, Pmaxuw, Pmaxud, Pmulld, Pmuldq, Pcmpeqq, Dpps, Dppd]),
        (Plain, No, &[Roundps, Roundpd, Roundss, Roundsd, Extractps, Insertps, Pextrb, Pextrd, Pinsrb, Pinsrd]),
        (Plain, No, &[Pcmpgtq, Pcmpestrm, Pcmpestri, Pcmpistrm, Pcmpistri]),
        (Plain, No, &[Aesimc, Aesenc, Aesenclast, Aesdec, Aesdeclast, Aeskeygenassist, Pclmulqdq]),

        (Stack, No, &[Pusha, Pushad, Popa, Popad, Enter, Leave]),

        (String, No, &[Movsb, Movsw, Cmpsb, Cmpsw, Stosb, Stosw, Stosd, Lodsb, Lodsw, Lodsd, Scasb, Scasw, Scasd]),

        (Branch, Yes, &[Jo, Jno, Jb, Jae, Je, Jne, Jbe, Ja, Js, Jns, Jp, Jnp, Jl, Jge, Jle, Jg]),
        (Branch, Yes, &[Loop, Loope, Loopne, Jcxz, Jecxz, Ret]),

        // x87. FXSAVE and FXRSTOR move the recorded addresses, so they need the same care.
        (Fpu, No, &[Fld, Fst, Fstp, Fild, Fist, Fistp, Fisttp, Fbld, Fbstp, Fxch, Fstpnce]),
        (Fpu, No, &[Fld1, Fldz, Fldpi, Fldl2t, Fldl2e, Fldlg2, Fldln2]),
        (Fpu, No, &[Fcmovb, Fcmove, Fcmovbe, Fcmovu, Fcmovnb, Fcmovne, Fcmovnbe, Fcmovnu]),
        (Fpu, No, &[Fadd, Faddp, Fiadd, Fsub, Fsubp, Fisub, Fsubr, Fsubrp, Fisubr]),
        (Fpu, No, &[Fmul, Fmulp, Fimul, Fdiv, Fdivp, Fidiv, Fdivr, Fdivrp, Fidivr]),
        (Fpu, No, &[Fcom, Fcomp, Fcompp, Ficom, Ficomp, Fucom, Fucomp, Fucompp, Fcomi, Fcomip, Fucomi, Fucomip, Ftst, Fxam]),
        (Fpu, No, &[Fchs, Fabs, Fsqrt, Frndint, Fscale, Fxtract, Fprem, Fprem1]),
        (Fpu, No, &[F2xm1, Fyl2x, Fyl2xp1, Fptan, Fpatan, Fsin, Fcos, Fsincos]),
        (Fpu, No, &[Fnop, Fincstp, Fdecstp, Ffree, Ffreep, Wait, Fneni, Feni, Fndisi, Fdisi, Fnsetpm, Fsetpm]),
        (Fpu, No, &[Fninit, Finit, Fnclex, Fclex, Fldcw, Fnstcw, Fstcw, Fnstsw, Fstsw]),
        (Fpu, No, &[Fldenv, Fnstenv, Fstenv, Frstor, Fnsave, Fsave, Fxsave, Fxrstor]),

        // Sensitive: reads of state that belongs to the system, and writes that leave the mode as it is.
        (Sensitive, No, &[Pushf, Pushfd, Sgdt, Sidt, Sldt, Smsw, Str, Lar, Lsl, Verr, Verw, Arpl]),
        (Sensitive, No, &[Cpuid, Rdtsc, Rdtscp, Rdpmc, Rdmsr]),
        (Sensitive, No, &[In, Out, Insb, Insw, Insd, Outsb, Outsw, Outsd]),
        (Sensitive, No, &[Cli, Lgdt, Lidt, Lldt, Ltr, Invd, Wbinvd]),
        // Sensitive, and what follows may run elsewhere or under another mode.
        (Sensitive, Yes, &[Popf, Popfd, Sti, Lmsw, Clts, Invlpg, Wrmsr, Hlt]),
        (Sensitive, Yes, &[Int, Int3, Int1, Into, Iret, Iretd, Retf, Sysenter, Sysexit]),
        (Sensitive, Yes, &[Lds, Les, Lss, Lfs, Lgs]),

        // RSM is an instruction in system-management mode only, which no guest of ours enters.
        (Invalid, Yes, &[Ud0, Ud1, Ud2, Rsm]),
    ]
};

/// Codes of the mnemonics that cover several kinds.
#[rustfmt::skip]
pub(crate) const BY_CODE: &[Row<Code>] = {
    use Code::*;
    use Ends::{No, Yes};
    use Kind::{Branch, Invalid, Plain, Sensitive, Stack, String};
    &[
        (Plain, No, &[Mov_rm8_r8, Mov_rm16_r16, Mov_rm32_r32, Mov_r8_rm8, Mov_r16_rm16, Mov_r32_rm32]),
        (Plain, No, &[Mov_AL_moffs8, Mov_AX_moffs16, Mov_EAX_moffs32, Mov_moffs8_AL, Mov_moffs16_AX, Mov_moffs32_EAX]),
        (Plain, No, &[Mov_r8_imm8, Mov_r16_imm16, Mov_r32_imm32, Mov_rm8_imm8, Mov_rm16_imm16, Mov_rm32_imm32]),
        (Plain, No, &[Movsd_xmm_xmmm64, Movsd_xmmm64_xmm, Cmpsd_xmm_xmmm64_imm8]),

        (Stack, No, &[Push_r16, Push_r32, Push_imm16, Pushd_imm32, Pushw_imm8, Pushd_imm8, Push_rm16, Push_rm32]),
        (Stack, No, &[Pop_r16, Pop_r32, Pop_rm16, Pop_rm32]),

        (String, No, &[Movsd_m32_m32, Cmpsd_m32_m32]),

        (Branch, Yes, &[Call_rel16, Call_rel32_32, Call_rm16, Call_rm32]),
        (Branch, Yes, &[Jmp_rel8_16, Jmp_rel8_32, Jmp_rel16, Jmp_rel32_32, Jmp_rm16, Jmp_rm32]),

        (Sensitive, No, &[Mov_rm16_Sreg, Mov_r32m16_Sreg, Mov_r32_cr, Mov_r32_dr]),
        (Sensitive, No, &[Pushw_ES, Pushd_ES, Pushw_CS, Pushd_CS, Pushw_SS, Pushd_SS, Pushw_DS, Pushd_DS]),
        (Sensitive, No, &[Pushw_FS, Pushd_FS, Pushw_GS, Pushd_GS]),
        (Sensitive, Yes, &[Mov_Sreg_rm16, Mov_Sreg_r32m16, Mov_cr_r32, Mov_dr_r32]),
        (Sensitive, Yes, &[Popw_ES, Popd_ES, Popw_SS, Popd_SS, Popw_DS, Popd_DS, Popw_FS, Popd_FS, Popw_GS, Popd_GS]),
        (Sensitive, Yes, &[Call_ptr1616, Call_ptr1632, Call_m1616, Call_m1632]),
        (Sensitive, Yes, &[Jmp_ptr1616, Jmp_ptr1632, Jmp_m1616, Jmp_m1632]),

        (Invalid, Yes, &[INVALID]),
    ]
};

/// Instructions that real-address and virtual-8086 mode don't recognise: #UD there (SDM vol. 2, under
/// each one's real-address and virtual-8086 mode exceptions).
pub(crate) const PROTECTED_ONLY: &[Mnemonic] = {
    use Mnemonic::*;
    &[Arpl, Lar, Lsl, Verr, Verw, Lldt, Sldt, Ltr, Str]
};
