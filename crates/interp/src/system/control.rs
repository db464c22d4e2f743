//! Control and debug registers, descriptor-table registers, MSRs, CPUID, time stamps, HLT.

use crate::Stop;
use crate::ctx::{Ctx, Exec};
use crate::op::{Op, Operand};
use crate::system::segment::{gp, is_null, np};
use crate::table::{Row, all, any, one};
use crate::width::Width;
use iced_x86::{Code, Mnemonic::*};
use xlat86_arch::{CpuState, Fault, Gva, SegAttr, Segment, TableReg, cr0, cr4};

/// Without an enabled local APIC there is none to report (SDM vol. 3A, 11.4.3).
fn cpuid(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    const APIC: u32 = 1 << 9;
    const APIC_ENABLED: u64 = 1 << 11;
    let (leaf, subleaf) = (ctx.gpr::<u32>(0), ctx.gpr::<u32>(1));
    let [a, b, c, mut d] = match tsc_leaf(ctx, leaf, subleaf) {
        Some(answer) => answer,
        None => ctx.model.cpuid(leaf, subleaf),
    };
    if leaf == 1 && ctx.cpu.msr.apic_base & APIC_ENABLED == 0 {
        d &= !APIC;
    }
    ctx.cpu.gpr[..4].copy_from_slice(&[a, c, d, b]);
    Ok(())
}

/// The rate of the time stamp counter, of a CPU that tells. Only models that are recent enough do.
fn told_rate(ctx: &Ctx<'_>) -> Option<u64> {
    const RECENT: u32 = 11;
    ctx.platform.tsc_hz().filter(|_| (RECENT..TSC).contains(&ctx.model.cpuid(0, 0)[0]))
}

/// CPUID's leaf for the time stamp counter.
const TSC: u32 = 0x15;

/// What a CPU that tells the rate of its time stamp counter answers differently: leaf 15H is there (SDM vol. 2A, CPUID), the counter is
/// invariant and can be adjusted. By these three Linux knows that it needn't measure the counter, nor watch it by a clock that it reads
/// some time after: a host that is busy takes its time between the two, and Linux would take to the worse clock.
fn tsc_leaf(ctx: &Ctx<'_>, leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
    const FEATURES: u32 = 7;
    const EBX_TSC_ADJUST: u32 = 1 << 1;
    const POWER: u32 = 0x8000_0007;
    const EDX_INVARIANT: u32 = 1 << 8;
    let hz = told_rate(ctx)?;
    let [max, b, c, d] = ctx.model.cpuid(0, 0);
    let [eax, ebx, ecx, edx] = ctx.model.cpuid(leaf, subleaf);
    match leaf {
        0 => Some([TSC, b, c, d]),
        FEATURES if subleaf == 0 => Some([eax, ebx | EBX_TSC_ADJUST, ecx, edx]),
        POWER => Some([eax, ebx, ecx, edx | EDX_INVARIANT]),
        // Counter over crystal is EBX over EAX; the crystal's rate has 32 bits.
        TSC => {
            let times = hz.div_ceil(u64::from(u32::MAX)).max(1);
            Some([1, times as u32, (hz / times) as u32, 0])
        }
        _ if leaf > max && leaf < TSC => Some([0; 4]),
        _ => None,
    }
}

fn rdtsc(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    if ctx.cpu.cr4 & cr4::TSD != 0 {
        ctx.require_cpl0()?;
    }
    let t = ctx.outside(op).tsc().wrapping_add(ctx.cpu.msr.tsc_offset);
    ctx.set_gpr::<u32>(0, t as u32);
    ctx.set_gpr::<u32>(2, (t >> 32) as u32);
    Ok(())
}

fn rdtscp(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    rdtsc(ctx, op)?;
    let aux = ctx.platform.read_msr(msr::TSC_AUX).unwrap_or(0);
    ctx.set_gpr::<u32>(1, aux as u32);
    Ok(())
}

/// No model has performance counters: every counter number is out of range.
fn rdpmc(_: &mut Ctx<'_>, _: &Op) -> Exec {
    Err(Fault::gp(0).into())
}

fn hlt(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.require_cpl0()?;
    ctx.cpu.halted = true;
    Err(Stop::Halt)
}

/// Cache control without a cache.
fn wbinvd(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.require_cpl0()
}

/// Numbers of the MSRs in [`xlat86_arch::Msrs`].
mod msr {
    pub(super) const TSC: u32 = 0x10;
    pub(super) const TSC_ADJUST: u32 = 0x3b;
    pub(super) const APIC_BASE: u32 = 0x1b;
    pub(super) const SYSENTER_CS: u32 = 0x174;
    pub(super) const SYSENTER_ESP: u32 = 0x175;
    pub(super) const SYSENTER_EIP: u32 = 0x176;
    pub(super) const PAT: u32 = 0x277;
    pub(super) const EFER: u32 = 0xc000_0080;
    pub(super) const TSC_AUX: u32 = 0xc000_0103;
}

fn rdmsr(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.require_cpl0()?;
    let m = ctx.cpu.msr;
    let n = ctx.gpr::<u32>(1);
    let v = match n {
        msr::TSC => ctx.outside(op).tsc().wrapping_add(m.tsc_offset),
        // Nothing else moves the counter (SDM vol. 3B, 18.17.3).
        msr::TSC_ADJUST if told_rate(ctx).is_some() => m.tsc_offset,
        msr::APIC_BASE => m.apic_base,
        msr::SYSENTER_CS => m.sysenter_cs.into(),
        msr::SYSENTER_ESP => m.sysenter_esp.into(),
        msr::SYSENTER_EIP => m.sysenter_eip.into(),
        msr::PAT => m.pat,
        msr::EFER => m.efer.into(),
        _ => ctx.outside(op).read_msr(n).ok_or(Fault::gp(0))?,
    };
    ctx.set_gpr::<u32>(0, v as u32);
    ctx.set_gpr::<u32>(2, (v >> 32) as u32);
    Ok(())
}

fn wrmsr(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.require_cpl0()?;
    let v = u64::from(ctx.gpr::<u32>(2)) << 32 | u64::from(ctx.gpr::<u32>(0));
    let n = ctx.gpr::<u32>(1);
    let adjustable = told_rate(ctx).is_some();
    let m = &mut ctx.cpu.msr;
    match n {
        msr::TSC_ADJUST if adjustable => m.tsc_offset = v,
        msr::TSC => {
            let now = ctx.outside(op).tsc();
            ctx.cpu.msr.tsc_offset = v.wrapping_sub(now);
        }
        msr::APIC_BASE => m.apic_base = v,
        msr::SYSENTER_CS => m.sysenter_cs = v as u32,
        msr::SYSENTER_ESP => m.sysenter_esp = v as u32,
        msr::SYSENTER_EIP => m.sysenter_eip = v as u32,
        // Memory types 2, 3 and above 7 are reserved (SDM vol. 3A, 12.12.2).
        msr::PAT if v.to_le_bytes().iter().any(|t| !matches!(t, 0 | 1 | 4..=7)) => return Err(Fault::gp(0).into()),
        msr::PAT => m.pat = v,
        msr::EFER if v & !u64::from(xlat86_arch::efer::NXE) != 0 => return Err(Fault::gp(0).into()),
        msr::EFER => m.efer = v as u32,
        _ => ctx.outside(op).write_msr(n, v).ok_or(Fault::gp(0))?,
    }
    ctx.mode_changed();
    Ok(())
}

/// CR0 bits that exist.
const CR0_DEFINED: u32 =
    cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::NW | cr0::CD | cr0::PG;

/// CR4 bits that some model has.
const CR4_DEFINED: u32 =
    cr4::TSD | cr4::DE | cr4::PSE | cr4::PAE | cr4::MCE | cr4::PGE | cr4::PCE | cr4::OSFXSR | cr4::OSXMMEXCPT;

impl Ctx<'_> {
    /// Sets CR0 with the checks of MOV to CR0 (SDM vol. 2B, MOV to/from control registers).
    fn set_cr0(&mut self, v: u32) -> Exec {
        let bad = v & cr0::PG != 0 && v & cr0::PE == 0 || v & cr0::NW != 0 && v & cr0::CD == 0;
        if bad {
            return Err(Fault::gp(0).into());
        }
        let old = core::mem::replace(&mut self.cpu.cr0, v & CR0_DEFINED | cr0::ET);
        self.or_put_back(|cpu| cpu.cr0 = old)
    }

    /// After CR0 or CR4 has changed: PAE paging loads its PDPTEs, and when they are invalid the instruction faults having done nothing.
    fn or_put_back(&mut self, undo: impl Fn(&mut CpuState)) -> Exec {
        if !self.mmu.pdptes_valid(self.cpu) {
            undo(self.cpu);
            return Err(Fault::gp(0).into());
        }
        self.mode_changed();
        Ok(())
    }

    /// Sets CR4 (SDM vol. 2B, MOV to/from control registers).
    fn set_cr4(&mut self, v: u32) -> Exec {
        if v & !CR4_DEFINED != 0 {
            return Err(Fault::gp(0).into());
        }
        let old = core::mem::replace(&mut self.cpu.cr4, v);
        self.or_put_back(|cpu| cpu.cr4 = old)
    }

    /// Loads CR3, which forgets translations even when it is the same value.
    pub(crate) fn set_cr3(&mut self, v: u32) -> Result<(), Fault> {
        if !self.mmu.load_cr3(self.cpu, v) {
            return Err(Fault::gp(0));
        }
        self.cpu.cr3 = v;
        self.mode_changed();
        Ok(())
    }
}

fn mov_from_cr(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let Operand::Cr(n) = op.b else { return Err(Fault::ud().into()) };
    let v = match n {
        0 => ctx.cpu.cr0,
        2 => ctx.cpu.cr2,
        3 => ctx.cpu.cr3,
        4 => ctx.cpu.cr4,
        _ => return Err(Fault::ud().into()),
    };
    ctx.require_cpl0()?;
    ctx.set::<u32>(op, op.a, v)
}

fn mov_to_cr(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let Operand::Cr(n) = op.a else { return Err(Fault::ud().into()) };
    if !matches!(n, 0 | 2 | 3 | 4) {
        return Err(Fault::ud().into());
    }
    ctx.require_cpl0()?;
    let v = ctx.get::<u32>(op, op.b)?;
    match n {
        0 => return ctx.set_cr0(v),
        2 => ctx.cpu.cr2 = v,
        3 => ctx.set_cr3(v)?,
        _ => ctx.set_cr4(v)?,
    }
    Ok(())
}

fn clts(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.require_cpl0()?;
    ctx.cpu.cr0 &= !cr0::TS;
    ctx.mode_changed();
    Ok(())
}

/// LMSW sets PE, MP, EM and TS, but never clears PE.
fn lmsw(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.require_cpl0()?;
    let v = ctx.get::<u16>(op, op.a)?;
    let mask = cr0::MP | cr0::EM | cr0::TS;
    ctx.set_cr0(ctx.cpu.cr0 & !mask | v & (mask | cr0::PE))
}

/// A 32-bit register receives all of CR0; memory and 16-bit registers its low half.
fn smsw(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.require_umip()?;
    let v = ctx.cpu.cr0;
    match (op.a, op.code) {
        (Operand::Gpr(_), Code::Smsw_r32m16) => ctx.set::<u32>(op, op.a, v),
        _ => ctx.set::<u16>(op, op.a, v),
    }
}

/// DR4 and DR5 are DR6 and DR7 unless CR4.DE is set; any access with DR7.GD set is #DB.
fn debug_register(ctx: &mut Ctx<'_>, o: Operand) -> Result<usize, Stop> {
    let Operand::Dr(n) = o else { return Err(Fault::ud().into()) };
    let n = match n {
        4 | 5 if ctx.cpu.cr4 & cr4::DE != 0 => return Err(Fault::ud().into()),
        4 | 5 => n + 2,
        n => n,
    };
    ctx.require_cpl0()?;
    if ctx.cpu.dr[7] & DR7_GD != 0 {
        return Err(Stop::Fault(Fault { vector: xlat86_arch::Vector::DB, error: None, addr: Gva(DR6_BD) }));
    }
    Ok(n as usize & 7)
}

const DR7_GD: u32 = 1 << 13;
const DR6_BD: u32 = 1 << 13;

fn mov_from_dr(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let n = debug_register(ctx, op.b)?;
    ctx.set::<u32>(op, op.a, ctx.cpu.dr[n])
}

fn mov_to_dr(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let n = debug_register(ctx, op.a)?;
    let v = ctx.get::<u32>(op, op.b)?;
    ctx.cpu.dr[n] = match n {
        6 => v & 0xe00f | 0xffff_0ff0,
        7 => v & 0xffff_2bff | 0x400,
        _ => v,
    };
    ctx.mode_changed();
    Ok(())
}

fn invlpg(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    if op.a != Operand::Mem {
        return Err(Fault::ud().into());
    }
    ctx.require_cpl0()?;
    let at = ctx.cpu.segment(op.mem.seg).base.wrapping_add(ctx.address(op));
    ctx.mmu.invalidate(Gva(at));
    Ok(())
}

impl Ctx<'_> {
    /// With CR4.UMIP the instructions that reveal system state are privileged.
    fn require_umip(&self) -> Exec {
        if self.cpu.cr4 & cr4::UMIP != 0 { self.require_cpl0() } else { Ok(()) }
    }

    /// Stores limit and base of a table register. All 32 bits of the base, also with 16-bit operands (SDM vol. 2B, SGDT).
    fn store_table(&mut self, op: &Op, t: TableReg) -> Exec {
        self.require_umip()?;
        let at = self.address(op);
        let mut bytes = [0; 6];
        bytes[..2].copy_from_slice(&t.limit.to_le_bytes());
        bytes[2..].copy_from_slice(&t.base.to_le_bytes());
        Ok(self.write_bytes(op.mem.seg, at, &bytes)?)
    }

    /// Reads a table register's value; with 16-bit operands the base has 24 bits.
    fn load_table(&mut self, op: &Op) -> Result<TableReg, Stop> {
        self.require_cpl0()?;
        let at = self.address(op);
        let mut b = [0; 6];
        self.read_bytes(op.mem.seg, at, &mut b)?;
        if matches!(op.code, Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) {
            b[5] = 0;
        }
        Ok(TableReg { limit: u16::from_le_bytes([b[0], b[1]]), base: u32::from_le_bytes([b[2], b[3], b[4], b[5]]) })
    }

    /// Stores a selector: zero-extended to a 32-bit register, 16 bits otherwise.
    fn store_selector(&mut self, op: &Op, selector: u16) -> Exec {
        self.require_umip()?;
        match (op.a, op.code) {
            (Operand::Gpr(_), Code::Sldt_r32m16 | Code::Str_r32m16) => self.set::<u32>(op, op.a, selector.into()),
            _ => self.set::<u16>(op, op.a, selector.into()),
        }
    }
}

fn sgdt(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.store_table(op, ctx.cpu.gdtr)
}
fn sidt(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.store_table(op, ctx.cpu.idtr)
}
fn lgdt(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.cpu.gdtr = ctx.load_table(op)?;
    Ok(())
}
fn lidt(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.cpu.idtr = ctx.load_table(op)?;
    Ok(())
}
fn sldt(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.store_selector(op, ctx.cpu.ldtr.selector)
}
fn str(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.store_selector(op, ctx.cpu.tr.selector)
}

fn lldt(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.require_cpl0()?;
    let selector = ctx.get::<u16>(op, op.a)? as u16;
    if is_null(selector) {
        ctx.cpu.ldtr = Segment::null(selector);
        return Ok(());
    }
    let d = if selector & 4 == 0 { ctx.descriptor(selector)? } else { None }.ok_or(gp(selector))?;
    if d.segment.attr.s() || d.segment.attr.typ() != 2 {
        return Err(gp(selector).into());
    }
    if !d.segment.attr.present() {
        return Err(np(selector).into());
    }
    ctx.cpu.ldtr = d.segment;
    Ok(())
}

/// The TSS must be available, and becomes busy.
fn ltr(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.require_cpl0()?;
    let selector = ctx.get::<u16>(op, op.a)? as u16;
    if is_null(selector) {
        return Err(Fault::gp(0).into());
    }
    let d = if selector & 4 == 0 { ctx.descriptor(selector)? } else { None }.ok_or(gp(selector))?;
    if d.segment.attr.s() || !matches!(d.segment.attr.typ(), 1 | 9) {
        return Err(gp(selector).into());
    }
    if !d.segment.attr.present() {
        return Err(np(selector).into());
    }
    let attr = SegAttr(d.segment.attr.0 | 2);
    if let Some(at) = d.at {
        ctx.mmu.write_system(at.wrapping_add(5), attr.0 as u8)?;
    }
    ctx.cpu.tr = Segment { attr, ..d.segment };
    Ok(())
}

/// The descriptor `selector` names when LAR, LSL, VERR and VERW may see it at this privilege level.
fn visible(ctx: &mut Ctx<'_>, selector: u16) -> Result<Option<crate::system::segment::Descriptor>, Fault> {
    let level = ctx.cpu.cpl.max(crate::system::segment::rpl(selector));
    Ok(ctx.descriptor(selector)?.filter(|d| d.segment.attr.conforming() || d.segment.attr.dpl() >= level))
}

/// System descriptor types that LAR accepts; LSL those that have a limit.
const LAR_TYPES: u16 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12;
const LSL_TYPES: u16 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11;

fn inspect<T: Width>(
    ctx: &mut Ctx<'_>,
    op: &Op,
    types: u16,
    value: fn(&crate::system::segment::Descriptor) -> u32,
) -> Exec {
    use xlat86_arch::eflags::ZF;
    let selector = ctx.get::<u16>(op, op.b)? as u16;
    let found = visible(ctx, selector)?.filter(|d| d.segment.attr.s() || types >> d.segment.attr.typ() & 1 != 0);
    if let Some(d) = found {
        ctx.set::<T>(op, op.a, value(&d))?;
    }
    ctx.set_flags(ZF, if found.is_some() { ZF } else { 0 });
    Ok(())
}

fn lar<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    inspect::<T>(ctx, op, LAR_TYPES, |d| (d.raw >> 32) as u32 & 0x00ff_ff00)
}

fn lsl<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    inspect::<T>(ctx, op, LSL_TYPES, |d| d.segment.limit)
}

fn verify(ctx: &mut Ctx<'_>, op: &Op, allowed: fn(SegAttr) -> bool) -> Exec {
    use xlat86_arch::eflags::ZF;
    let selector = ctx.get::<u16>(op, op.a)? as u16;
    let ok = visible(ctx, selector)?.is_some_and(|d| allowed(d.segment.attr));
    ctx.set_flags(ZF, if ok { ZF } else { 0 });
    Ok(())
}

fn verr(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    verify(ctx, op, SegAttr::readable)
}

fn verw(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    verify(ctx, op, SegAttr::writable)
}

/// Raises the destination's RPL to the source's when it is lower. Memory is written only then.
fn arpl(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    use xlat86_arch::eflags::ZF;
    let (a, b) = (ctx.get::<u16>(op, op.a)?, ctx.get::<u16>(op, op.b)?);
    let raise = a & 3 < b & 3;
    if raise {
        ctx.set::<u16>(op, op.a, a & !3 | b & 3)?;
    }
    ctx.set_flags(ZF, if raise { ZF } else { 0 });
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    all(Cpuid, any(cpuid)),
    all(Rdtsc, any(rdtsc)),
    all(Rdtscp, any(rdtscp)),
    all(Rdpmc, any(rdpmc)),
    all(Rdmsr, any(rdmsr)),
    all(Wrmsr, any(wrmsr)),
    all(Hlt, any(hlt)),
    all(Wbinvd, any(wbinvd)),
    all(Invd, any(wbinvd)),
    all(Invlpg, any(invlpg)),
    one(Code::Mov_r32_cr, any(mov_from_cr)),
    one(Code::Mov_cr_r32, any(mov_to_cr)),
    one(Code::Mov_r32_dr, any(mov_from_dr)),
    one(Code::Mov_dr_r32, any(mov_to_dr)),
    all(Clts, any(clts)),
    all(Lmsw, any(lmsw)),
    all(Smsw, any(smsw)),
    all(Sgdt, any(sgdt)),
    all(Sidt, any(sidt)),
    all(Lgdt, any(lgdt)),
    all(Lidt, any(lidt)),
    all(Sldt, any(sldt)),
    all(Str, any(str)),
    all(Lldt, any(lldt)),
    all(Ltr, any(ltr)),
    one(Code::Lar_r16_rm16, any(lar::<u16>)),
    one(Code::Lar_r32_r32m16, any(lar::<u32>)),
    one(Code::Lsl_r16_rm16, any(lsl::<u16>)),
    one(Code::Lsl_r32_r32m16, any(lsl::<u32>)),
    all(Verr, any(verr)),
    all(Verw, any(verw)),
    all(Arpl, any(arpl)),
];
