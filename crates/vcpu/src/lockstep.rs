//! Lockstep: each translated block is replayed by the interpreter, and compared.
//!
//! The interpreter goes first, with a journal of its writes that is undone afterwards; then the translated block runs
//! from the same state. Registers, flags, floating-point state and every byte the interpreter wrote must then be the
//! same. Units are single basic blocks without chaining or pairing, so that each leaves by itself, and keep even dead flags. Blocks run one at
//! a time per process, and with signals held back: another thread's writes would look like differences.

use crate::{Exit, Vcpu};
use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};
use std::fmt::Write as _;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use xlat86_arch::{CpuState, FxState, Gva, eflags};
use xlat86_decoder::{Block, decode_block};
use xlat86_host::{Left, signals};
use xlat86_softmmu::Write;
use xlat86_translator::{BlockInfo, CodeKey, Config};

/// Blocks that a thread runs before others, and signals, have their turn.
const TURN: u32 = 64;

/// Serialises the blocks of all threads.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits for the running block to end, and keeps others from starting.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The translator settings that lockstep needs, made from the user's.
pub(crate) fn config(from: &Config) -> Config {
    Config {
        chaining: false,
        return_pairing: false,
        flag_liveness: false,
        extended: false,
        self_checking: false,
        ..*from
    }
}

impl Vcpu {
    pub(crate) fn run_lockstep(&mut self) -> Exit {
        loop {
            let turn = turn();
            let mask = signals::mask();
            signals::set_mask(u64::MAX);
            let exit =
                (0..TURN).find_map(|_| if Self::pending() { Some(Exit::Interrupted) } else { self.lockstep_block() });
            signals::set_mask(mask);
            drop(turn);
            self.process.world.come_out(&self.me);
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    /// Runs one block on both engines. `None`: go on.
    fn lockstep_block(&mut self) -> Option<Exit> {
        let process = self.process.clone();
        process.world.go_inside(&self.me);
        self.see_changes();
        let translatable = self.translatable().then_some(self.state.mode());
        let found = translatable.and_then(|mode| process.code_at(self.state.eip, mode, &self.me, None));
        let block = found.and_then(|_| process.cache().block_at(CodeKey::flat(self.state.eip, self.state.mode())));
        let (Some(offset), Some(block)) = (found, block.filter(|b| !b.leaves)) else {
            // The translator itself would have the interpreter execute this: nothing to compare.
            process.world.come_out(&self.me);
            return self.interpret_one();
        };
        self.fx_mut();
        let before = self.state.clone();
        let (mut expected, mut writes) = self.replay(&before, u64::from(block.insns));
        let then = self.enter_at(offset);
        self.fx();
        self.stats.lockstep_blocks += 1;
        if self.left() == Left::Trap && !self.agrees(&expected, &writes) {
            (expected, writes) = self.replay_to_trap(&before, expected, writes, &block);
        }
        // A kick makes it leave before the end, or not even enter: nothing to compare.
        if !matches!(self.left(), Left::Stopped | Left::NotEntered) && !self.agrees(&expected, &writes) {
            let differences = self.differences(&before, &expected, &writes, &block);
            if !differences.is_empty() {
                process.world.come_out(&self.me);
                return Some(Exit::Diverged(self.report(&before, &block, &writes, &differences)));
            }
        }
        self.follow(then, &mut None)
    }

    /// What the interpreter makes of `from` in `insns` instructions, with what it wrote; state and memory stay as they are (the state is `from`).
    fn replay(&mut self, from: &CpuState, insns: u64) -> (CpuState, Vec<Write>) {
        self.state = from.clone();
        self.mmu.start_journal();
        self.interp.run(&mut self.state, &mut self.mmu, &mut self.platform, &AtomicBool::new(false), insns);
        let writes = self.mmu.undo_journal();
        (core::mem::replace(&mut self.state, from.clone()), writes)
    }

    /// Translated code has left by a host fault. It may be one that the interpreter, which will execute that instruction, knows nothing of (a segment
    /// that isn't flat): what counts is the state at the instruction.
    fn replay_to_trap(
        &mut self,
        before: &CpuState,
        expected: CpuState,
        writes: Vec<Write>,
        block: &BlockInfo,
    ) -> (CpuState, Vec<Write>) {
        let insns = self.decoded(before, block).insns;
        let Some(n) = insns.iter().position(|i| i.eip() == self.state.eip) else { return (expected, writes) };
        let got = self.state.clone();
        // The replay has to find memory as it was; then translated code's writes are put back.
        let made: Vec<Vec<u8>> = writes
            .iter()
            .map(|w| {
                let mut now = vec![0; w.new.len()];
                let _ = self.mmu.read_bytes(w.addr, &mut now);
                now
            })
            .collect();
        for w in writes.iter().rev() {
            let _ = self.mmu.write_bytes(w.addr, &w.old);
        }
        let part = self.replay(before, n as u64);
        for (w, made) in writes.iter().zip(&made) {
            let _ = self.mmu.write_bytes(w.addr, made);
        }
        self.state = got;
        part
    }

    fn decoded(&self, before: &CpuState, block: &BlockInfo) -> Block {
        let bytes = self.guest_bytes(before.eip, block.len);
        let model = self.process.config().model;
        decode_block(&bytes, before.eip, bytes.len(), before.mode(), model.features, block.insns as usize)
    }

    /// Is everything as `expected`? Quick to say yes; what is no difference after all is left to [`Vcpu::differences`].
    fn agrees(&mut self, expected: &CpuState, writes: &[Write]) -> bool {
        let (a, b) = (expected, &self.state);
        let registers = a.gpr == b.gpr && a.eip == b.eip && a.eflags == b.eflags;
        let (x, y) = (&a.fx, &b.fx);
        let float = (x.fcw, x.fsw, x.ftw, x.mxcsr) == (y.fcw, y.fsw, y.ftw, y.mxcsr) && x.st == y.st && x.xmm == y.xmm;
        let mut now = Vec::new();
        registers
            && float
            && writes.iter().all(|w| {
                now.resize(w.new.len(), 0);
                self.mmu.read_bytes(w.addr, &mut now).is_ok() && now == w.new
            })
    }

    /// What differs between `expected` and the current state, a line each.
    fn differences(&mut self, before: &CpuState, expected: &CpuState, writes: &[Write], block: &BlockInfo) -> String {
        let mut out = String::new();
        let mut differ = |name: &str, interp: u128, dbt: u128| {
            if interp != dbt {
                let _ = writeln!(out, "  {name:<8} interpreter {interp:x}, translated {dbt:x}");
            }
        };
        let got = &self.state;
        for (name, i) in ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"].iter().zip(0..) {
            differ(name, expected.gpr[i].into(), got.gpr[i].into());
        }
        differ("eip", expected.eip.into(), got.eip.into());
        if expected.eflags != got.eflags {
            let defined = !self.undefined_flags(before, block);
            differ("eflags", (expected.eflags & defined).into(), (got.eflags & defined).into());
        }
        let (a, b): (&FxState, &FxState) = (&expected.fx, &got.fx);
        differ("fcw", a.fcw.into(), b.fcw.into());
        differ("fsw", a.fsw.into(), b.fsw.into());
        differ("ftw", a.ftw.into(), b.ftw.into());
        differ("mxcsr", a.mxcsr.into(), b.mxcsr.into());
        for i in 0..8 {
            differ(&format!("st{i}"), u128::from_le_bytes(a.st[i]), u128::from_le_bytes(b.st[i]));
            differ(&format!("xmm{i}"), a.xmm[i], b.xmm[i]);
        }
        // Of several writes to one place the last one counts: look only at bytes that no later one covers.
        for (i, w) in writes.iter().enumerate() {
            for (at, &byte) in w.new.iter().enumerate() {
                let addr = w.addr.wrapping_add(at as u32);
                let covered = |later: &Write| (addr.0.wrapping_sub(later.addr.0) as usize) < later.new.len();
                if writes[i + 1..].iter().any(covered) {
                    continue;
                }
                let mut now = [0];
                let _ = self.mmu.read_bytes(addr, &mut now);
                if now[0] != byte {
                    let _ = writeln!(out, "  [{addr}] interpreter {byte:02x}, translated {:02x}", now[0]);
                }
            }
        }
        out
    }

    /// Status flags that the manual leaves undefined after `block`.
    fn undefined_flags(&self, before: &CpuState, block: &BlockInfo) -> u32 {
        self.decoded(before, block).insns.iter().fold(0, |undefined, insn| {
            let i = &insn.iced;
            let settled = i.rflags_written() | i.rflags_cleared() | i.rflags_set();
            (undefined & !to_eflags(settled)) | to_eflags(i.rflags_undefined())
        })
    }

    fn guest_bytes(&self, eip: u32, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        let _ = self.process.space().window().read_bytes(eip, &mut bytes);
        bytes
    }

    /// Everything needed to understand and reproduce a difference.
    fn report(&mut self, before: &CpuState, block: &BlockInfo, writes: &[Write], differences: &str) -> String {
        let mut out = format!("block at {:08x} differs:\n{differences}\nguest code:\n", before.eip);
        listing(&mut out, 32, before.eip.into(), &self.guest_bytes(before.eip, block.len));
        out.push_str("\nhost code:\n");
        listing(&mut out, 64, 0, &block.code);
        let _ = writeln!(out, "\nstate before:\n{}", registers(before));
        let _ = writeln!(out, "state after (translated):\n{}", registers(&self.state));
        let _ = writeln!(out, "writes of the interpreter, and what is there after translated code:");
        for w in writes {
            let mut now = vec![0; w.new.len()];
            let _ = self.mmu.read_bytes(w.addr, &mut now);
            let _ = writeln!(out, "  [{}] {} -> {}, {}", w.addr, hex(&w.old), hex(&w.new), hex(&now));
        }
        let bytes = hex(&self.guest_bytes(before.eip, block.len));
        let _ = writeln!(out, "to reproduce: the bytes {bytes} at {:08x} from the state before", before.eip);
        out
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

fn to_eflags(bits: u32) -> u32 {
    use iced_x86::RflagsBits as R;
    let pairs = [
        (R::CF, eflags::CF),
        (R::PF, eflags::PF),
        (R::AF, eflags::AF),
        (R::ZF, eflags::ZF),
        (R::SF, eflags::SF),
        (R::OF, eflags::OF),
    ];
    pairs.iter().filter(|(r, _)| bits & r != 0).map(|(_, e)| e).sum()
}

fn listing(out: &mut String, bitness: u32, ip: u64, bytes: &[u8]) {
    let mut f = GasFormatter::new();
    for i in Decoder::with_ip(bitness, bytes, ip, DecoderOptions::NONE).iter() {
        let _ = write!(out, "  {:8x}  ", i.ip());
        f.format(&i, out);
        out.push('\n');
    }
}

fn registers(s: &CpuState) -> String {
    let g = &s.gpr;
    format!(
        "  eax={:08x} ecx={:08x} edx={:08x} ebx={:08x} esp={:08x} ebp={:08x} esi={:08x} edi={:08x}\n  eip={} \
         eflags={:08x}\n{:?}",
        g[0],
        g[1],
        g[2],
        g[3],
        g[4],
        g[5],
        g[6],
        g[7],
        Gva(s.eip),
        s.eflags,
        s.fx
    )
}
