//! Windows against the page tables they shadow: what appears, when it goes, and what may be written.

use std::sync::Arc;
use xlat86_arch::{CpuState, Gva, cr0, cr4};
use xlat86_host::TlbMemory;
use xlat86_softmmu::{Mmu, PhysMemory, Window};

const DIRECTORY: u32 = 0x1000;
const TABLE: u32 = 0x2000;
const FRAMES: u32 = 0x10000;
/// What the table's first entry maps.
const AREA: u32 = 0x0040_0000;

/// Present, writable, user; accessed; dirty.
const RWU: u32 = 7;
const A: u32 = 0x20;
const D: u32 = 0x40;

struct Guest {
    memory: Arc<PhysMemory>,
    mmu: Mmu,
    cpu: CpuState,
}

impl Guest {
    fn new() -> Guest {
        let memory = PhysMemory::new(1 << 20).unwrap();
        let mut cpu = CpuState::linux_user();
        cpu.cr4 = cr4::PSE;
        cpu.cr0 |= cr0::WP;
        cpu.cr3 = DIRECTORY;
        let mut mmu = Mmu::paged(memory.clone(), &TlbMemory::new().unwrap(), 36);
        let guest = |at: u32, v: u32| memory.write(at.into(), &v.to_le_bytes()).unwrap();
        guest(DIRECTORY + 4, TABLE | RWU);
        for i in 0..8 {
            guest(FRAMES + i * 0x1000, 0x1000 + i);
        }
        mmu.sync(&cpu);
        Guest { memory, mmu, cpu }
    }

    fn set_entry(&mut self, page: u32, entry: u32) {
        self.memory.write((TABLE + 4 * page).into(), &entry.to_le_bytes()).unwrap();
    }

    fn entry(&self, page: u32) -> u32 {
        let mut b = [0; 4];
        self.memory.read((TABLE + 4 * page).into(), &mut b).unwrap();
        u32::from_le_bytes(b)
    }

    /// The window as the CPU would enter it now.
    fn window(&mut self) -> Window {
        self.mmu.window().unwrap()
    }

    fn load_cr3(&mut self) {
        assert!(self.mmu.load_cr3(&self.cpu, DIRECTORY));
    }

    /// Reads through the window as code would: by mapping on demand.
    fn read(&mut self, page: u32) -> Option<u32> {
        let at = AREA + page * 0x1000;
        let w = self.window();
        w.read::<u32>(at).ok().or_else(|| {
            self.mmu.map_window(Gva(at), false).ok().filter(|&mapped| mapped)?;
            Some(w.read::<u32>(at).expect("it is mapped"))
        })
    }

    fn write(&mut self, page: u32, v: u32) -> Result<bool, u32> {
        let at = AREA + page * 0x1000;
        let w = self.window();
        if w.write(at, v).is_ok() {
            return Ok(true);
        }
        let mapped = self.mmu.map_window(Gva(at), true).map_err(|fault| fault.error.unwrap())?;
        if mapped {
            w.write(at, v).expect("it is mapped writable");
        }
        Ok(mapped)
    }
}

#[test]
fn a_page_appears_on_demand_and_goes_when_its_entry_has_changed() {
    let mut g = Guest::new();
    assert_eq!(g.read(0), None, "absent");
    g.set_entry(0, FRAMES | RWU);
    assert_eq!(g.read(0), Some(0x1000));
    assert_eq!(g.entry(0), FRAMES | RWU | A);

    // As a TLB may, the window goes on with the old entry until the guest says so.
    g.set_entry(0, (FRAMES + 0x3000) | RWU);
    assert_eq!(g.read(0), Some(0x1000));
    g.mmu.invalidate(Gva(AREA));
    assert_eq!(g.read(0), Some(0x1003));
    g.set_entry(0, (FRAMES + 0x4000) | RWU);
    g.load_cr3();
    assert_eq!(g.read(0), Some(0x1004));
    g.set_entry(0, 0);
    g.load_cr3();
    assert_eq!(g.read(0), None);
}

#[test]
fn an_entry_that_changes_and_changes_back_isnt_missed() {
    let mut g = Guest::new();
    // The table is known by page 0, when page 1 is absent.
    g.set_entry(0, FRAMES | RWU);
    assert_eq!(g.read(0), Some(0x1000));
    g.set_entry(1, (FRAMES + 0x1000) | RWU);
    assert_eq!(g.read(1), Some(0x1001));
    g.set_entry(1, 0);
    g.load_cr3();
    assert_eq!(g.read(1), None);
    assert_eq!(g.read(0), Some(0x1000));
}

#[test]
fn a_directory_entry_that_changes_before_another_page_is_mapped_isnt_missed() {
    const OTHER: u32 = 0x3000;
    let mut g = Guest::new();
    g.set_entry(0, FRAMES | RWU);
    assert_eq!(g.read(0), Some(0x1000));
    for (page, frame) in [(0, 5), (1, 6)] {
        let entry = (FRAMES + frame * 0x1000) | RWU;
        g.memory.write((OTHER + 4 * page).into(), &entry.to_le_bytes()).unwrap();
    }
    g.memory.write((DIRECTORY + 4).into(), &(OTHER | RWU).to_le_bytes()).unwrap();
    assert_eq!(g.read(1), Some(0x1006));
    g.load_cr3();
    assert_eq!(g.read(0), Some(0x1005));
}

#[test]
fn a_page_is_written_only_when_it_is_dirty_and_may_be() {
    let mut g = Guest::new();
    g.set_entry(0, FRAMES | RWU);
    assert_eq!(g.read(0), Some(0x1000));
    assert_eq!(g.entry(0) & D, 0);
    assert_eq!(g.write(0, 7), Ok(true));
    assert_eq!(g.entry(0) & D, D);
    assert_eq!(g.read(0), Some(7));

    // The guest cleans the page: the next write has to show.
    g.set_entry(0, FRAMES | RWU | A);
    g.load_cr3();
    assert_eq!(g.write(0, 8), Ok(true));
    assert_eq!(g.entry(0) & D, D);

    g.set_entry(0, FRAMES | 5);
    g.load_cr3();
    assert_eq!(g.write(0, 9), Err(7), "read-only");
    assert_eq!(g.read(0), Some(8));
    g.set_entry(0, FRAMES | 3);
    g.load_cr3();
    assert_eq!(g.read(0), None, "the supervisor's");
}

#[test]
fn code_isnt_written_unnoticed() {
    let mut g = Guest::new();
    g.set_entry(0, FRAMES | RWU);
    g.set_entry(1, FRAMES | RWU);
    assert_eq!((g.write(0, 1), g.write(1, 2)), (Ok(true), Ok(true)));
    let mut bytes = [0; 16];
    assert_eq!(g.mmu.fetch(Gva(AREA), &mut bytes), Ok(Some(16)));
    assert_eq!((g.write(0, 3), g.write(1, 4)), (Ok(false), Ok(false)), "wherever it is mapped");
    assert_eq!(g.read(0), Some(2));
    assert!(g.memory.drop_code(FRAMES >> 12));
    assert_eq!(g.write(1, 5), Ok(true));
    assert_eq!(g.read(0), Some(5));
}

#[test]
fn neighbours_that_were_used_come_along() {
    let mut g = Guest::new();
    for i in 0..4 {
        g.set_entry(i, (FRAMES + i * 0x1000) | RWU | A);
    }
    g.set_entry(4, (FRAMES + 0x4000) | RWU);
    assert_eq!(g.read(0), Some(0x1000));
    let w = g.window();
    let seen = |i: u32| w.read::<u32>(AREA + i * 0x1000).ok();
    assert_eq!((seen(3), seen(4)), (Some(0x1003), None), "not what the guest would see used");
    assert_eq!(g.mmu.shadow_stats().mapped, 4);
    // Gone with the directory's entry.
    g.memory.write((DIRECTORY + 4).into(), &[0; 4]).unwrap();
    g.load_cr3();
    assert_eq!(g.read(2), None);
    assert_eq!(g.mmu.shadow_stats().unmapped, 4);
}

#[test]
fn devices_and_holes_are_nobodys_ram() {
    let mut g = Guest::new();
    g.set_entry(0, 0xa_0000 | RWU);
    g.set_entry(1, 0x20_0000 | RWU);
    assert_eq!(g.mmu.map_window(Gva(AREA), false), Ok(false));
    let _ = g.window();
    assert_eq!(g.mmu.map_window(Gva(AREA), false), Ok(false));
    assert_eq!(g.mmu.map_window(Gva(AREA + 0x1000), true), Ok(false));
}

/// A page that the TLB still has as writable is none for a write that begins on another.
#[test]
fn a_write_across_pages_is_whole_or_nothing() {
    let mut g = Guest::new();
    g.set_entry(0, FRAMES | RWU);
    g.set_entry(1, (FRAMES + 0x1000) | RWU);
    let (across, second) = (Gva(AREA + 0xffe), Gva(AREA + 0x1000));
    assert_eq!(g.mmu.write(across, 0x1111_1111u32), Ok(()));
    g.set_entry(1, 0);
    let fault = g.mmu.write(across, 0x2222_2222u32).unwrap_err();
    assert_eq!(fault.addr, second);
    let mut there = [0; 2];
    g.memory.read((FRAMES + 0xffe).into(), &mut there).unwrap();
    assert_eq!(there, [0x11; 2]);
    // The second page may be a page table.
    g.set_entry(1, (FRAMES + 0x1000) | RWU);
    g.set_entry(2, TABLE | RWU);
    assert_eq!(g.mmu.write(Gva(AREA + 0x1ffe), u32::MAX), Ok(()));
    assert_eq!(g.entry(0) as u16, u16::MAX);
}

/// Ticks after which an address space is worth a window.
const HOT: u64 = 20_000_000;

#[test]
fn a_window_that_costs_more_than_it_gains_is_given_up() {
    let mut g = Guest::new();
    assert!(!g.mmu.heat(HOT / 2) && g.mmu.heat(HOT / 2));
    (0..2).for_each(|i| g.set_entry(i, (FRAMES + i * 0x1000) | RWU | A | D));
    // As after a fork: a page that stays, and one that is write-protected and copied each time.
    let mut round = |ticks| {
        for entry in [RWU & !2 | A, RWU | A | D] {
            g.set_entry(1, (FRAMES + 0x1000) | entry);
            g.load_cr3();
            assert_eq!((g.read(0), g.read(1)), (Some(0x1000), Some(0x1001)));
        }
        g.mmu.heat(ticks)
    };
    assert!((0..1000).all(|_| round(1_000_000)), "it pays");
    let kept = (0..1000).take_while(|_| round(10_000)).count();
    assert!((100..1000).contains(&kept), "{kept} times, then it was given up");
    assert!(!g.mmu.heat(HOT), "and isn't made again at once");
    assert_eq!(g.mmu.shadow_stats().dropped, 1);
    assert!((0..10).any(|_| g.mmu.heat(HOT)), "but in the end");
}

#[test]
fn another_program_under_the_same_cr3_begins_without_a_window() {
    let mut g = Guest::new();
    assert!(g.mmu.heat(HOT));
    g.set_entry(0, FRAMES | RWU | A | D);
    assert_eq!(g.read(0), Some(0x1000));
    g.set_entry(0, 0);
    g.load_cr3();
    g.window();
    assert!(!g.mmu.heat(0));
    assert!(!g.mmu.heat(HOT / 2), "what came before doesn't count");
    g.mmu.cool();
    assert!(!g.mmu.heat(HOT / 2), "nor here");
    assert!(g.mmu.heat(HOT / 2));
}
