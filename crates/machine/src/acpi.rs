//! The ACPI tables: what tells an operating system about the devices that can't be found by looking.
//!
//! RSDP, XSDT, FADT, FACS and a DSDT with the host bridge, its interrupt routing, the ISA devices and the S5 state. There
//! is no MADT: the interrupt controllers are the PIC pair.

use crate::dev::acpi_pm::{PM_TMR, PM1A_CNT, PM1A_EVT, SCI, SLP_TYP_S5};
use crate::dev::{pit, rtc, uart};
use crate::pci;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Name, Package, PackageBuilder, Path, ResourceTemplate,
    Scope, ZERO,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace as GasSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use xlat86_softmmu::{NotRam, PhysMemory};

/// Where the tables are: in the range in which the RSDP is looked for, reserved in the memory map.
pub(crate) const AREA: std::ops::Range<u64> = 0xe_0000..0x10_0000;
/// Where PCI memory would be: the space above RAM.
const PCI_MEMORY: std::ops::RangeInclusive<u32> = 0xc000_0000..=0xfebf_ffff;

const OEM: [u8; 6] = *b"XLAT86";
const TABLE: [u8; 8] = *b"XLAT86PC";
/// The machine has legacy devices and a keyboard controller. (ACPI 6.4, table 5.10.)
const BOOT_ARCH: u16 = 0b11;
/// Written to port 0x64 it resets the machine.
const RESET: (u16, u8) = (crate::dev::i8042::COMMAND, 0xfe);

/// An IRQ descriptor (ACPI 6.4, section 6.4.2.1): what ISA devices have. Edge-triggered, active high, not shared.
struct IsaIrq(u8);

impl Aml for IsaIrq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1 << self.0);
    }
}

/// A device at fixed ports: name, hardware number, first port and how many, interrupt.
struct IsaDevice(&'static str, &'static str, &'static [(u16, u8)], Option<u8>);

const ISA: &[IsaDevice] = &[
    IsaDevice("PIC_", "PNP0000", &[(0x20, 2), (0xa0, 2), (0x4d0, 2)], None),
    IsaDevice("TIMR", "PNP0100", &[(*pit::PORTS.start(), 4)], Some(0)),
    IsaDevice("RTC_", "PNP0B00", &[(*rtc::PORTS.start(), 2)], Some(8)),
    IsaDevice("KBD_", "PNP0303", &[(0x60, 1), (0x64, 1)], Some(1)),
    IsaDevice("COM1", "PNP0501", &[(uart::COM[0].0, 8)], Some(uart::COM[0].1)),
    IsaDevice("COM2", "PNP0501", &[(uart::COM[1].0, 8)], Some(uart::COM[1].1)),
];

fn isa_device(sink: &mut dyn AmlSink, number: u8) {
    let &IsaDevice(name, hid, ports, irq) = &ISA[usize::from(number)];
    let ports: Vec<IO> = ports.iter().map(|&(first, n)| IO::new(first, first, 1, n)).collect();
    let irq = irq.map(IsaIrq);
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|p| p as &dyn Aml).collect();
    resources.extend(irq.iter().map(|i| i as &dyn Aml));
    let template = ResourceTemplate::new(resources);
    let hid = Name::new("_HID".into(), &EISAName::new(hid));
    let uid = Name::new("_UID".into(), &number);
    let crs = Name::new("_CRS".into(), &template);
    Device::new(Path::new(name), vec![&hid, &uid, &crs]).to_aml_bytes(sink);
}

/// `_PRT`: pin A of every slot, wired to the interrupt that the bridge gives it.
fn routing() -> PackageBuilder {
    let mut all = PackageBuilder::new();
    for slot in 1..pci::SLOTS {
        let address = (slot as u32) << 16 | 0xffff;
        let irq = pci::IRQS[slot % pci::IRQS.len()];
        all.add_element(&Package::new(vec![&address, &ZERO, &ZERO, &irq]));
    }
    all
}

fn dsdt() -> Sdt {
    let mut sdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1);
    let bus = AddressSpace::new_bus_number(0u16, 0);
    let config = IO::new(*pci::CONFIG.start(), *pci::CONFIG.start(), 1, 8);
    let io = AddressSpace::new_io(*pci::IO_WINDOW.start(), *pci::IO_WINDOW.end(), None);
    let (first, last) = PCI_MEMORY.into_inner();
    let memory = AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None);
    let crs = ResourceTemplate::new(vec![&bus, &config, &io, &memory]);
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A03"));
    let uid = Name::new("_UID".into(), &ZERO);
    let crs = Name::new("_CRS".into(), &crs);
    let prt = Name::new("_PRT".into(), &routing());
    let bridge = Device::new("PCI0".into(), vec![&hid, &uid, &crs, &prt]);
    let mut isa = Vec::new();
    (0..ISA.len() as u8).for_each(|n| isa_device(&mut isa, n));
    let isa = Raw(isa);
    Scope::new("_SB_".into(), vec![&bridge, &isa]).to_aml_bytes(&mut sdt);
    let s5 = Package::new(vec![&SLP_TYP_S5, &SLP_TYP_S5, &ZERO, &ZERO]);
    Name::new("_S5_".into(), &s5).to_aml_bytes(&mut sdt);
    sdt.update_checksum();
    sdt
}

/// AML that is already bytes.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn io_register(port: u16, bytes: u8, access: AccessSize) -> GAS {
    GAS::new(GasSpace::SystemIo, bytes * 8, 0, access, port.into())
}

fn fadt(facs: u32, dsdt: u32) -> FADTBuilder {
    let mut f = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_32(dsdt)
        .firmware_ctrl_32(facs)
        .preferred_pm_profile(PmProfile::Desktop)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    f.sci_int = u16::from(SCI).into();
    f.pm1a_evt_blk = u32::from(PM1A_EVT).into();
    f.pm1_evt_len = 4;
    f.pm1a_cnt_blk = u32::from(PM1A_CNT).into();
    f.pm1_cnt_len = 2;
    f.pm_tmr_blk = u32::from(PM_TMR).into();
    f.pm_tmr_len = 4;
    // Latencies that say that C2 and C3 aren't supported.
    f.p_lvl2_lat = 0xffff.into();
    f.p_lvl3_lat = 0xffff.into();
    f.century = 0x32;
    f.iapc_boot_arch = BOOT_ARCH.into();
    f.reset_reg = io_register(RESET.0, 1, AccessSize::ByteAccess);
    f.reset_value = RESET.1;
    f.x_pm1a_evt_blk = io_register(PM1A_EVT, 4, AccessSize::WordAccess);
    f.x_pm1a_cnt_blk = io_register(PM1A_CNT, 2, AccessSize::WordAccess);
    f.x_pm_tmr_blk = io_register(PM_TMR, 4, AccessSize::DwordAccess);
    f
}

/// Writes the tables into `memory`; gives the RSDP's address.
pub(crate) fn write(memory: &PhysMemory) -> Result<u64, NotRam> {
    let bytes = |aml: &dyn Aml| {
        let mut v = Vec::new();
        aml.to_aml_bytes(&mut v);
        v
    };
    // The RSDP first, where it is looked for; the FACS wants 64 bytes of alignment.
    let rsdp_at = AREA.start;
    let mut next = rsdp_at + 64;
    let mut place = |table: &[u8]| {
        let at = next;
        next = (at + table.len() as u64).next_multiple_of(64);
        debug_assert!(next <= AREA.end);
        memory.write(at, table).map(|()| at)
    };
    let facs = place(&bytes(&FACS::new()))?;
    let dsdt = place(dsdt().as_slice())?;
    let fadt = place(&bytes(&fadt(facs as u32, dsdt as u32).finalize()))?;
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    xsdt.add_entry(fadt);
    let xsdt = place(&bytes(&xsdt))?;
    memory.write(rsdp_at, &bytes(&Rsdp::new(OEM, xsdt)))?;
    Ok(rsdp_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_found_and_add_up() {
        let memory = PhysMemory::new(2 << 20).unwrap();
        let rsdp = write(&memory).unwrap();
        let get = |at: u64, n: usize| {
            let mut v = vec![0; n];
            memory.read(at, &mut v).unwrap();
            v
        };
        let table = |at: u64| {
            let len = u32::from_le_bytes(get(at + 4, 4).try_into().unwrap());
            let t = get(at, len as usize);
            assert_eq!(t.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0, "{:?}", &t[..4]);
            t
        };
        let pointer = |b: &[u8]| u64::from(u32::from_le_bytes(b[..4].try_into().unwrap()));
        assert_eq!(get(rsdp, 8), b"RSD PTR ");
        let xsdt = table(pointer(&get(rsdp + 24, 8)));
        let fadt = table(pointer(&xsdt[36..]));
        assert_eq!(&fadt[..4], b"FACP");
        let dsdt = table(pointer(&fadt[40..]));
        assert_eq!(&dsdt[..4], b"DSDT");
        // The package that soft-off is looked up in: type 5, twice.
        let s5 = dsdt.windows(4).position(|w| w == b"_S5_").unwrap();
        assert_eq!(dsdt[s5 + 4..s5 + 11], [0x12, 8, 4, 0x0a, 5, 0x0a, 5]);
    }
}
