//! The run loop and the block cache, from outside.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use xlat86_arch::{CpuModel, CpuState, Fault, Gva, Reg, Vector, eflags};
use xlat86_host::scratch_window;
use xlat86_interp::{Detached, Interp, Stop};
use xlat86_softmmu::{CodeWrite, FlatSpace, Mmu, Prot};

const CODE: u32 = 0x1000_0000;

struct Guest {
    interp: Interp,
    cpu: CpuState,
    mmu: Mmu,
    stop: AtomicBool,
}

impl Guest {
    /// `code` at `CODE` in two writable and executable pages; ESP at the end of the second.
    fn new(code: &[u8]) -> Self {
        let window = scratch_window(&[CODE..CODE + 0x2000]).unwrap();
        let space = Arc::new(FlatSpace::new(window));
        space.set_prot(Gva(CODE), 0x2000, Prot { mapped: true, read: true, write: true, exec: true, shared: false });
        window.write_bytes(CODE, code).unwrap();
        let mut cpu = CpuState::linux_user();
        cpu.eip = CODE;
        cpu.set_reg(Reg::Esp, CODE + 0x2000);
        Guest { interp: Interp::new(CpuModel::MAX), cpu, mmu: Mmu::flat(space), stop: AtomicBool::new(false) }
    }

    fn run(&mut self, n: u64) -> Stop {
        self.interp.run(&mut self.cpu, &mut self.mmu, &mut Detached::program(), &self.stop, n)
    }

    /// Runs as an embedder does: writes to code pages drop what was decoded from them.
    fn run_resolving(&mut self, n: u64) -> Stop {
        loop {
            match self.run(n) {
                Stop::Fault(f) if f.vector == Vector::PF && f.error.unwrap() & 2 != 0 => {
                    match self.mmu.space().unwrap().resolve_write(f.addr) {
                        CodeWrite::Dropped(_) => {
                            self.interp.invalidate_page(f.addr.page());
                            let stop = self.interp.step(&mut self.cpu, &mut self.mmu, &mut Detached::program());
                            if stop != Stop::Budget {
                                return stop;
                            }
                        }
                        CodeWrite::Retry => {}
                        CodeWrite::NotOurs => return Stop::Fault(f),
                    }
                }
                other => return other,
            }
        }
    }
}

#[test]
fn a_loop_counts_and_the_budget_is_exact() {
    // mov ecx, 1000; l: add eax, ecx; dec ecx; jnz l
    let mut g = Guest::new(&[0xb9, 0xe8, 3, 0, 0, 0x01, 0xc8, 0x49, 0x75, 0xfb, 0x0f, 0x0b]);
    assert_eq!(g.run(1 + 3 * 999), Stop::Budget);
    assert_eq!((g.cpu.reg(Reg::Ecx), g.interp.retired()), (1, 2998));
    assert_eq!(g.run(1), Stop::Budget);
    assert_eq!((g.cpu.reg(Reg::Eax), g.cpu.eip), (500_500, CODE + 7));
    assert_eq!(g.run(100), Stop::Fault(Fault::ud()));
    assert_eq!((g.cpu.eip, g.interp.retired()), (CODE + 10, 3001));
}

#[test]
fn a_fault_changes_nothing() {
    // push [0]: the read faults after the stack pointer would have moved
    let mut g = Guest::new(&[0xff, 0x35, 0, 0, 0, 0]);
    let before = g.cpu.clone();
    assert_eq!(g.run(10), Stop::Fault(Fault::pf(Gva(0), 4)));
    assert_eq!(g.cpu, before);
}

#[test]
fn code_that_writes_itself_sees_what_it_wrote() {
    // mov byte [CODE+8], 0x41 (inc ecx); nop; inc eax -> inc ecx; ud2
    let mut code = vec![0xc6, 0x05];
    code.extend((CODE + 8).to_le_bytes());
    code.extend([0x41, 0x90, 0x40, 0x0f, 0x0b]);
    let mut g = Guest::new(&code);
    assert_eq!(g.run_resolving(100), Stop::Fault(Fault::ud()));
    assert_eq!((g.cpu.reg(Reg::Eax), g.cpu.reg(Reg::Ecx)), (0, 1));
}

#[test]
fn an_instruction_across_pages_depends_on_both() {
    // At the end of the first page: mov eax, 0x11111111, then ud2.
    let mut g = Guest::new(&[0xe9, 0xf8, 0x0f, 0, 0]);
    let at = CODE + 0xffd;
    g.mmu.write_bytes(Gva(at), &[0xb8, 0x11, 0x11, 0x11, 0x11, 0x0f, 0x0b]).unwrap();
    assert_eq!(g.run_resolving(100), Stop::Fault(Fault::ud()));
    assert_eq!(g.cpu.reg(Reg::Eax), 0x1111_1111);
    assert!(g.mmu.space().unwrap().page(Gva(CODE + 0x1000)).is_code());
    g.interp.invalidate_page((CODE + 0x1000) >> 12);
    let second = Gva(CODE + 0x1000);
    let dropped = CodeWrite::Dropped(second.page()..second.page() + 1);
    assert_eq!(g.mmu.space().unwrap().resolve_write(second), dropped);
    g.mmu.write::<u8>(Gva(CODE + 0x1001), 0x22).unwrap();
    g.cpu.eip = at;
    assert_eq!(g.run_resolving(100), Stop::Fault(Fault::ud()));
    assert_eq!(g.cpu.reg(Reg::Eax), 0x2211_1111);
}

#[test]
fn fetching_from_a_missing_page_faults_there() {
    let mut g = Guest::new(&[]);
    g.cpu.eip = CODE + 0x1ffd;
    g.mmu.write_bytes(Gva(CODE + 0x1ffd), &[0xb8, 0, 0]).unwrap();
    assert_eq!(g.run(1), Stop::Fault(Fault::pf(Gva(CODE + 0x2000), 0x14)));
    assert_eq!(g.cpu.eip, CODE + 0x1ffd);
}

#[test]
fn the_trap_flag_stops_after_each_instruction() {
    let mut g = Guest::new(&[0x90, 0x90]);
    g.cpu.eflags |= eflags::TF;
    let Stop::Fault(f) = g.run(10) else { panic!() };
    assert_eq!((f.vector, f.addr.0, g.cpu.eip), (Vector::DB, 1 << 14, CODE + 1));
}

#[test]
fn a_single_step_is_one_iteration() {
    // rep lodsb; nop
    let mut g = Guest::new(&[0xf3, 0xac, 0x90]);
    g.cpu.eflags |= eflags::TF;
    g.cpu.set_reg(Reg::Ecx, 3);
    g.cpu.set_reg(Reg::Esi, CODE);
    for (eip, ecx) in [(CODE, 2), (CODE, 1), (CODE + 2, 0), (CODE + 3, 0)] {
        assert!(matches!(g.run(9), Stop::Fault(f) if f.vector == Vector::DB));
        assert_eq!((g.cpu.eip, g.cpu.reg(Reg::Ecx)), (eip, ecx));
    }
}
