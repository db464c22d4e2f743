//! Everything a 32-bit x86 CPU holds between two instructions.

use crate::{FxState, Mode, Reg, Seg, SegAttr, Segment, eflags};

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TableReg {
    /// Linear base address.
    pub base: u32,
    /// Last valid byte offset.
    pub limit: u16,
}

/// CR0 bits (SDM vol. 3A, 2.5).
#[allow(missing_docs)]
pub mod cr0 {
    pub const PE: u32 = 1 << 0;
    pub const MP: u32 = 1 << 1;
    pub const EM: u32 = 1 << 2;
    pub const TS: u32 = 1 << 3;
    pub const ET: u32 = 1 << 4;
    pub const NE: u32 = 1 << 5;
    pub const WP: u32 = 1 << 16;
    pub const AM: u32 = 1 << 18;
    pub const NW: u32 = 1 << 29;
    pub const CD: u32 = 1 << 30;
    pub const PG: u32 = 1 << 31;
}

/// CR4 bits (SDM vol. 3A, 2.5).
#[allow(missing_docs)]
pub mod cr4 {
    pub const VME: u32 = 1 << 0;
    pub const PVI: u32 = 1 << 1;
    pub const TSD: u32 = 1 << 2;
    pub const DE: u32 = 1 << 3;
    pub const PSE: u32 = 1 << 4;
    pub const PAE: u32 = 1 << 5;
    pub const MCE: u32 = 1 << 6;
    pub const PGE: u32 = 1 << 7;
    pub const PCE: u32 = 1 << 8;
    pub const OSFXSR: u32 = 1 << 9;
    pub const OSXMMEXCPT: u32 = 1 << 10;
    pub const UMIP: u32 = 1 << 11;
}

/// IA32_EFER bits (SDM vol. 3A, 2.2.1).
#[allow(missing_docs)]
pub mod efer {
    pub const NXE: u32 = 1 << 11;
}

/// Model-specific registers with architectural effect; others are the platform's business.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Msrs {
    pub sysenter_cs: u32,
    pub sysenter_esp: u32,
    pub sysenter_eip: u32,
    pub efer: u32,
    pub pat: u64,
    pub apic_base: u64,
    /// Added to the host's time stamp counter.
    pub tsc_offset: u64,
}

/// Complete architectural state of one guest CPU.
///
/// `repr(C)`: translated code reaches these fields by offset.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub struct CpuState {
    /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
    pub gpr: [u32; 8],
    /// Offset within CS of the next instruction.
    pub eip: u32,
    /// All of EFLAGS; bit 1 is always set.
    pub eflags: u32,
    /// ES, CS, SS, DS, FS, GS.
    pub seg: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: TableReg,
    /// Interrupt descriptor table.
    pub idtr: TableReg,
    /// Control registers.
    pub cr0: u32,
    /// Page-fault linear address.
    pub cr2: u32,
    /// Page-directory base.
    pub cr3: u32,
    /// Extensions.
    pub cr4: u32,
    /// DR0 to DR7 (4 and 5 unused).
    pub dr: [u32; 8],
    /// Model-specific registers.
    pub msr: Msrs,
    /// x87, MMX and SSE.
    pub fx: FxState,
    /// Current privilege level, 0 to 3.
    pub cpl: u8,
    /// Interrupts are held off until the next instruction has completed (after STI, MOV SS, POP SS).
    pub interrupt_shadow: bool,
    /// Stopped by HLT.
    pub halted: bool,
    /// A non-maskable interrupt is being handled: no other one until IRET.
    pub nmi_masked: bool,
}

impl CpuState {
    /// State after power-up or RESET (SDM vol. 3A, table 9-1).
    #[must_use]
    pub fn reset() -> Self {
        let mut seg = [Segment::real(0); 6];
        seg[Seg::Cs as usize] = Segment { base: 0xffff_0000, limit: 0xffff, selector: 0xf000, attr: SegAttr(0x9b) };
        let mut cpu = CpuState {
            gpr: [0; 8],
            eip: 0xfff0,
            eflags: eflags::FIXED_1,
            seg,
            ldtr: Segment { base: 0, limit: 0xffff, selector: 0, attr: SegAttr(0x82) },
            tr: Segment { base: 0, limit: 0xffff, selector: 0, attr: SegAttr(0x8b) },
            gdtr: TableReg { base: 0, limit: 0xffff },
            idtr: TableReg { base: 0, limit: 0xffff },
            cr0: crate::cr0::ET | crate::cr0::NW | crate::cr0::CD,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            msr: Msrs { pat: 0x0007_0406_0007_0406, apic_base: 0xfee0_0900, ..Msrs::default() },
            fx: FxState { fcw: 0x0040, ftw: 0xff, ..FxState::INIT },
            cpl: 0,
            interrupt_shadow: false,
            halted: false,
            nmi_masked: false,
        };
        cpu.gpr[Reg::Edx as usize] = 0x600;
        cpu
    }

    /// State in which Linux starts a 32-bit program on a 64-bit kernel: flat segments with the kernel's
    /// selectors, IOPL 0, interrupts on, floating point initialised.
    #[must_use]
    pub fn linux_user() -> Self {
        use crate::{cr0, cr4};
        let data = Segment::flat(0x2b, SegAttr::DATA32.with_dpl(3));
        let code = Segment::flat(0x23, SegAttr::CODE32.with_dpl(3));
        let mut cpu = Self::reset();
        cpu.seg = [data, code, data, data, Segment::null(0), Segment::null(0)];
        cpu.eflags = eflags::FIXED_1 | eflags::IF;
        cpu.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        cpu.cr4 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT;
        cpu.msr.efer = crate::efer::NXE;
        // No I/O permission map.
        cpu.tr.limit = 0;
        cpu.cpl = 3;
        cpu.gpr = [0; 8];
        cpu.fx = FxState::INIT;
        cpu
    }

    /// General register `r`.
    #[must_use]
    pub fn reg(&self, r: Reg) -> u32 {
        self.gpr[r as usize]
    }

    /// Sets general register `r`.
    pub fn set_reg(&mut self, r: Reg, v: u32) {
        self.gpr[r as usize] = v;
    }

    /// Segment register `s` with its hidden part.
    #[must_use]
    pub fn segment(&self, s: Seg) -> &Segment {
        &self.seg[s as usize]
    }

    /// The mode bits this state decodes and translates under.
    #[inline]
    #[must_use]
    pub fn mode(&self) -> Mode {
        let s = |s: Seg| &self.seg[s as usize];
        let mut m = 0;
        let mut set = |cond: bool, bit: u16| m |= if cond { bit } else { 0 };
        set(s(Seg::Cs).attr.db(), Mode::CODE32);
        set(s(Seg::Ss).attr.db(), Mode::STACK32);
        set(self.cpl == 3, Mode::USER);
        set([Seg::Cs, Seg::Ss, Seg::Ds, Seg::Es].iter().all(|&x| s(x).is_flat()), Mode::FLAT);
        set(self.cr0 & crate::cr0::PE != 0, Mode::PROTECTED);
        set(self.cr0 & crate::cr0::PG != 0, Mode::PAGING);
        set(self.eflags & eflags::VM != 0, Mode::VM86);
        set(self.eflags & eflags::TF != 0, Mode::TRAP);
        let no_sse = self.cr4 & crate::cr4::OSFXSR == 0;
        set(self.cr0 & (crate::cr0::EM | crate::cr0::TS) != 0 || no_sse, Mode::FPU_OFF);
        Mode(m)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_user_state_is_flat_user_mode() {
        assert_eq!(CpuState::linux_user().mode(), Mode::USER32);
    }

    #[test]
    fn descriptor_fields_are_unpacked() {
        let s = Segment::from_descriptor(0x23, 0x00cf_fa00_0000_ffff);
        assert_eq!(s, Segment::flat(0x23, SegAttr(0xc0fa)));
        assert!(s.attr.code() && s.attr.dpl() == 3 && s.attr.db());
    }
}
