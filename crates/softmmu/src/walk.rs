//! The page walk (SDM vol. 3A, chapter 4): 32-bit paging with 4 KB and 4 MB pages, PAE paging with 4 KB and 2 MB pages.
//!
//! Accessed and dirty bits are set once the access is known to be permitted, in one locked step each.

use crate::PhysMemory;
use xlat86_arch::{CpuState, Gva, PAGE_MASK, PAGE_SIZE, PfError, cr0, cr4, efer};

/// Paging-structure entry bits (SDM vol. 3A, tables 4-4 to 4-6 and 4-8 to 4-11).
mod entry {
    pub(super) const P: u64 = 1 << 0;
    pub(super) const RW: u64 = 1 << 1;
    pub(super) const US: u64 = 1 << 2;
    pub(super) const A: u64 = 1 << 5;
    pub(super) const D: u64 = 1 << 6;
    pub(super) const PS: u64 = 1 << 7;
    pub(super) const G: u64 = 1 << 8;
    pub(super) const XD: u64 = 1 << 63;
    /// Address bits with PAE.
    pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// What an access wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// It writes.
    pub write: bool,
    /// It is made at CPL 3, and not by the CPU itself (descriptor tables, TSS).
    pub user: bool,
    /// It fetches instructions.
    pub fetch: bool,
}

/// The control registers that decide how addresses are translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Paging {
    /// CR0.
    pub cr0: u32,
    /// CR3.
    pub cr3: u32,
    /// CR4.
    pub cr4: u32,
    /// IA32_EFER.
    pub efer: u32,
    /// The page-directory-pointer-table entries that PAE paging loads along with CR3.
    pub pdpte: [u64; 4],
    /// Physical address bits of the CPU model.
    pub address_bits: u32,
}

/// Where a page of the guest's address space is and what may be done with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Physical address of its 4 KB page; the A20 gate has been applied.
    pub gpa: u64,
    /// R/W at every level.
    pub write: bool,
    /// U/S at every level.
    pub user: bool,
    /// XD at no level.
    pub exec: bool,
    /// Survives CR3 loads.
    pub global: bool,
    /// A is set at every level.
    pub accessed: bool,
    /// D is set.
    pub dirty: bool,
    /// Size of the page in bytes: 4 KB, 2 MB or 4 MB.
    pub size: u32,
    /// Physical addresses of the tables whose entries led here, the upper one first; 0 for none.
    pub tables: [u64; 2],
}

impl Leaf {
    /// Physical addresses of the entries for `gva` under `paging` that led here, the upper one first.
    pub(crate) fn entries(&self, paging: &Paging, gva: Gva) -> impl Iterator<Item = u64> + use<> {
        let (shifts, mask, size) = if paging.pae() { ([21, 12], 0x1ff, 8) } else { ([22, 12], 0x3ff, 4) };
        let levels = if self.size > PAGE_SIZE { 1 } else { 2 };
        let tables = self.tables;
        (0..levels).map(move |level| tables[level] + u64::from(gva.0 >> shifts[level] & mask) * size)
    }
}

impl Paging {
    /// Is paging on?
    #[must_use]
    pub fn on(&self) -> bool {
        self.cr0 & cr0::PG != 0
    }

    /// Is it PAE paging?
    #[must_use]
    pub fn pae(&self) -> bool {
        self.on() && self.cr4 & cr4::PAE != 0
    }

    fn nx(&self) -> bool {
        self.pae() && self.efer & efer::NXE != 0
    }

    /// The registers of `cpu`; the PDPTEs stay what they are.
    #[must_use]
    pub fn with(self, cpu: &CpuState) -> Paging {
        Paging { cr0: cpu.cr0, cr3: cpu.cr3, cr4: cpu.cr4, efer: cpu.msr.efer, ..self }
    }

    /// Address bits from `address_bits` up to 51 (SDM vol. 3A, 4.4.1): reserved.
    fn beyond(&self) -> u64 {
        entry::ADDRESS & (u64::MAX << self.address_bits)
    }

    /// The PDPTEs at CR3, and whether a present one has reserved bits set: #GP(0) at the load (SDM vol. 3A, 4.4.1).
    #[must_use]
    pub fn load_pdptes(&self, memory: &PhysMemory) -> ([u64; 4], bool) {
        let table = u64::from(self.cr3 & !0x1f);
        let pdpte = [0, 1, 2, 3].map(|i| memory.load::<u64>((table + 8 * i) & memory.a20_mask()));
        let reserved = self.beyond() | 0xfff0_0000_0000_01e6;
        (pdpte, pdpte.iter().any(|e| e & entry::P != 0 && e & reserved != 0))
    }

    /// Bits that must be 0 in `e`, an entry that maps a page (`leaf`) at `shift`, or leads to a table.
    fn reserved(&self, e: u64, leaf: bool, shift: u32) -> u64 {
        if self.pae() {
            let large = if leaf && shift > 12 { 0x001f_e000 } else { 0 };
            let high = if self.nx() { 0x7ff0_0000_0000_0000 } else { 0xfff0_0000_0000_0000 };
            e & (large | high | self.beyond())
        } else if leaf && shift > 12 {
            // No model has PSE-36.
            e & 0x003f_e000
        } else {
            0
        }
    }

    /// May a page with the rights of `leaf` be accessed so?
    #[must_use]
    pub fn permits(&self, leaf: &Leaf, access: Access) -> bool {
        let write = leaf.write || !access.user && self.cr0 & cr0::WP == 0;
        (leaf.user || !access.user) && (write || !access.write) && (leaf.exec || !access.fetch)
    }

    /// Error code of a page fault of `access`.
    fn error(&self, access: Access, bits: u32) -> u32 {
        let bit = |c: bool, b: u32| if c { b } else { 0 };
        bits | bit(access.write, PfError::W) | bit(access.user, PfError::U) | bit(access.fetch && self.nx(), PfError::I)
    }

    /// Translates `gva` for `access`, setting accessed and dirty bits; the error is the page fault's code.
    pub fn walk(&self, memory: &PhysMemory, gva: Gva, access: Access) -> Result<Leaf, u32> {
        self.look(memory, gva, access, true)
    }

    /// As [`Paging::walk`], without setting bits: for whoever isn't the CPU.
    pub fn peek(&self, memory: &PhysMemory, gva: Gva, access: Access) -> Result<Leaf, u32> {
        self.look(memory, gva, access, false)
    }

    fn look(&self, memory: &PhysMemory, gva: Gva, access: Access, mark: bool) -> Result<Leaf, u32> {
        let a20 = memory.a20_mask();
        let page = u64::from(gva.page_base().0);
        if !self.on() {
            let gpa = page & a20;
            return Ok(Leaf {
                gpa,
                write: true,
                user: true,
                exec: true,
                global: false,
                accessed: true,
                dirty: true,
                size: 4096,
                tables: [0; 2],
            });
        }
        let (mut table, wide, shifts) = if self.pae() {
            let e = self.pdpte[(gva.0 >> 30) as usize];
            if e & entry::P == 0 {
                return Err(self.error(access, 0));
            }
            (e & entry::ADDRESS, true, [21, 12])
        } else {
            (u64::from(self.cr3 & !PAGE_MASK), false, [22, 12])
        };
        let index_mask = if wide { 0x1ff } else { 0x3ff };
        let mut leaf = Leaf {
            gpa: 0,
            write: true,
            user: true,
            exec: true,
            global: false,
            accessed: true,
            dirty: false,
            size: 0,
            tables: [0; 2],
        };
        let mut used = [(0, 0); 2];
        for (level, shift) in shifts.into_iter().enumerate() {
            let index = u64::from(gva.0 >> shift) & index_mask;
            leaf.tables[level] = table & a20;
            let at = (table + index * if wide { 8 } else { 4 }) & a20;
            let e: u64 = if wide { memory.load(at) } else { memory.load::<u32>(at).into() };
            if e & entry::P == 0 {
                return Err(self.error(access, 0));
            }
            let last = shift == 12 || e & entry::PS != 0 && (wide || self.cr4 & cr4::PSE != 0);
            if self.reserved(e, last, shift) != 0 {
                return Err(self.error(access, PfError::P | PfError::RSVD));
            }
            leaf.write &= e & entry::RW != 0;
            leaf.user &= e & entry::US != 0;
            leaf.exec &= e & entry::XD == 0;
            leaf.accessed &= e & entry::A != 0 || mark;
            used[level] = (at, e);
            table = e & entry::ADDRESS;
            if last {
                let inside = (1u64 << shift) - 1;
                leaf.gpa = (e & entry::ADDRESS & !inside | page & inside) & a20;
                leaf.size = 1 << shift;
                leaf.global = e & entry::G != 0 && self.cr4 & cr4::PGE != 0;
                leaf.dirty = e & entry::D != 0 || access.write;
                break;
            }
        }
        if !self.permits(&leaf, access) {
            return Err(self.error(access, PfError::P));
        }
        if mark {
            let levels = if leaf.size > 4096 { 1 } else { 2 };
            for (level, &(at, e)) in used[..levels].iter().enumerate() {
                let dirty = if access.write && level + 1 == levels { entry::D } else { 0 };
                let wanted = entry::A | dirty;
                if e & wanted != wanted {
                    memory.set_bits(at, e, wanted, wide);
                }
            }
        }
        Ok(leaf)
    }
}
