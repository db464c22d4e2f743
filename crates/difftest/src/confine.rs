//! Checks host code before it runs: re-disassembles a translated unit and looks for what could escape.
//!
//! Everything that control can reach from an entry must keep these rules, whatever the registers hold:
//!
//! - **Memory.** An operand is confined to the guest's 4 GB by the address-size prefix (behind GS in the GS form), or, in the low form, is at most 128
//!   bytes outside of them (docs/decisions/004), or is a field of the CPU frame,
//!   an entry of the jump table or a probe, which are only read, a constant of the unit itself, or the return stack through PUSH, POP, CALL and RET.
//! - **Control.** Direct branches end at an instruction of the unit or at a stub; indirect ones go through the jump table, the return stack or the
//!   leave routine. Nothing runs off the end.
//! - **Registers.** RSP, R13, R14 and R15 are never written. A guest register is written in 32 bits or fewer, and holds its old value again
//!   where a guest instruction ends that doesn't write it.
//! - **Instructions.** None enters a kernel, touches segments or system state, or reaches vector registers that 32-bit code doesn't have.

use core::mem::{offset_of, size_of};
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};
use std::collections::{BTreeMap, BTreeSet};
use xlat86_arch::{CpuModel, Mode};
use xlat86_decoder::decode_insn;
use xlat86_host::{Frame, PROBE};
use xlat86_translator::{AddressForm, Config, Mark, Unit};

/// What may be said about a unit, apart from the `Unit` so that tests can make bad ones.
pub struct Subject<'a> {
    /// Host code.
    pub code: &'a [u8],
    /// Ascending marks.
    pub marks: &'a [Mark],
    /// Return addresses of calls of the leave routine.
    pub exits: Vec<u32>,
    /// EIP of the first guest instruction.
    pub eip: u32,
    /// The guest's code.
    pub guest: &'a [u8],
    /// How it was translated.
    pub config: &'a Config,
}

impl<'a> Subject<'a> {
    /// `unit`, translated from `guest` under `config`.
    #[must_use]
    pub fn new(unit: &'a Unit, guest: &'a [u8], config: &'a Config) -> Self {
        Subject {
            code: &unit.code,
            marks: &unit.marks,
            exits: unit.exits.iter().map(|x| x.site).collect(),
            eip: unit.eip,
            guest,
            config,
        }
    }
}

/// What breaks a rule in `subject`, a line each.
#[must_use]
pub fn violations(subject: &Subject<'_>) -> Vec<String> {
    let mut check = Check { s: subject, insns: BTreeMap::new(), out: Vec::new(), info: InstructionInfoFactory::new() };
    check.reach();
    check.no_overlap();
    let all: Vec<Instruction> = check.insns.values().copied().collect();
    for i in &all {
        check.instruction(i);
    }
    check.guest_registers(&all);
    check.out
}

struct Check<'a> {
    s: &'a Subject<'a>,
    /// Everything control can reach, by offset.
    insns: BTreeMap<u32, Instruction>,
    out: Vec<String>,
    info: InstructionInfoFactory,
}

/// Host register number of a general register, whatever part of it.
fn gpr(r: Register) -> Option<usize> {
    r.is_gpr().then(|| r.full_register().number())
}

const RSP: usize = 4;
/// Host registers that hold guest registers, R12 being ESP.
const GUEST: [usize; 8] = [0, 1, 2, 3, 5, 6, 7, 12];
const PINNED: [usize; 3] = [13, 14, 15];

fn is_write(a: OpAccess) -> bool {
    matches!(a, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// Does a register select a bit, however far away?
fn selects_bit(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && i.op1_kind() == OpKind::Register
}

/// `call [r14 + leave]`.
fn is_leave(i: &Instruction) -> bool {
    i.code() == Code::Call_rm64
        && i.op0_kind() == OpKind::Memory
        && (i.memory_base(), i.memory_index()) == (Register::R14, Register::None)
        && i.memory_displacement64() == offset_of!(Frame, leave) as u64
}

impl Check<'_> {
    fn bad(&mut self, i: &Instruction, why: &str) {
        self.out.push(format!("{:04x}  {i}: {why}", i.ip()));
    }

    fn decode(&self, at: u32) -> Option<Instruction> {
        let mut decoder = Decoder::with_ip(64, self.s.code.get(at as usize..)?, u64::from(at), DecoderOptions::NONE);
        let i = decoder.decode();
        (!i.is_invalid()).then_some(i)
    }

    /// Follows control from every entry.
    fn reach(&mut self) {
        let mut todo: Vec<u32> = self.s.marks.iter().filter(|m| m.boundary).map(|m| m.host).chain([0]).collect();
        while let Some(at) = todo.pop() {
            if self.insns.contains_key(&at) {
                continue;
            }
            let Some(i) = self.decode(at) else {
                self.out.push(format!("{at:04x}: control reaches what is no instruction of the unit"));
                continue;
            };
            self.insns.insert(at, i);
            let direct = matches!(i.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16);
            if direct {
                match u32::try_from(i.near_branch_target()) {
                    Ok(to) => todo.push(to),
                    Err(_) => self.bad(&i, "branches out of the unit"),
                }
            }
            let ends = match i.flow_control() {
                FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return => true,
                FlowControl::IndirectCall => is_leave(&i),
                _ => false,
            };
            if !ends {
                todo.push(i.next_ip32());
            }
        }
    }

    /// No byte belongs to two instructions: nobody jumps into the middle of one.
    fn no_overlap(&mut self) {
        let pairs: Vec<_> = self.insns.values().zip(self.insns.values().skip(1)).map(|(a, b)| (*a, *b)).collect();
        for (a, b) in pairs {
            if a.next_ip() > b.ip() {
                self.bad(&b, "stands inside another instruction");
            }
        }
    }

    fn instruction(&mut self, i: &Instruction) {
        if !is_harmless(i) {
            self.bad(i, "not for translated code");
        }
        self.control(i);
        self.memory(i);
        let written: Vec<_> = self.info.info(i).used_registers().to_vec();
        for u in written {
            let r = u.register();
            // XMM8 and XMM9 hold the comparison of code that checks itself.
            if (r.is_xmm() && r.number() > 9) || r.is_ymm() || r.is_zmm() || r.is_k() {
                self.bad(i, "a register that 32-bit code doesn't have");
            }
            let Some(n) = gpr(r).filter(|_| is_write(u.access())) else { continue };
            let stack = matches!(
                i.mnemonic(),
                Mnemonic::Push | Mnemonic::Pop | Mnemonic::Pushfq | Mnemonic::Popfq | Mnemonic::Call | Mnemonic::Ret
            );
            let to_rsp = i.op0_register() == Register::RSP || !stack;
            if PINNED.contains(&n) || n == RSP && to_rsp {
                self.bad(i, "writes a pinned register");
            }
        }
        // 32-bit writes clear the upper half, and narrower ones leave it clear.
        let wide = |n: u32| {
            let r = i.op_register(n);
            i.op_kind(n) == OpKind::Register && r.is_gpr64() && GUEST.contains(&r.number())
        };
        let implicit = matches!(
            i.mnemonic(),
            Mnemonic::Cqo | Mnemonic::Cdqe | Mnemonic::Lodsq | Mnemonic::Stosq | Mnemonic::Movsq | Mnemonic::Scasq
        );
        if (0..i.op_count()).any(wide) || implicit {
            self.bad(i, "64 bits of a guest register");
        }
    }

    fn control(&mut self, i: &Instruction) {
        let ok = match i.flow_control() {
            FlowControl::IndirectBranch => i.op0_register() == Register::R10 && self.through_table(i),
            FlowControl::IndirectCall if is_leave(i) => self.s.exits.contains(&i.next_ip32()),
            FlowControl::IndirectCall => {
                self.s.config.return_pairing && i.op0_register() == Register::R10 && self.through_table(i)
            }
            FlowControl::Return => self.s.config.return_pairing && i.code() == Code::Retnq,
            FlowControl::Call => self.s.config.return_pairing,
            FlowControl::Interrupt | FlowControl::XbeginXabortXend => false,
            _ => true,
        };
        if !ok {
            self.bad(i, "no way for control to go");
        }
    }

    /// Can control come to a place behind the instruction at `from`, up to `to`, other than straight from it?
    fn is_entered_between(&self, from: u64, to: u64) -> bool {
        let inside = from + 1..=to;
        let jumps = |x: &Instruction| x.op0_kind() == OpKind::NearBranch64 && inside.contains(&x.near_branch_target());
        let entries = self.s.marks.iter().filter(|m| m.boundary);
        let mut straight = self.insns.range(from as u32..to as u32).map(|(_, x)| x.next_ip());
        self.insns.values().any(jumps)
            || entries.map(|m| u64::from(m.host)).any(|at| inside.contains(&at))
            || !straight.all(|next| next == to || self.insns.contains_key(&(next as u32)))
    }

    /// Do `mov r10d, [r15 + r11*4]` and `lea r10, [r10 + r13]` stand before `i`, with nobody jumping in between?
    fn through_table(&self, i: &Instruction) -> bool {
        let mut before = self.insns.range(..i.ip32()).rev().map(|(_, x)| x).filter(|x| x.mnemonic() != Mnemonic::Nop);
        let (Some(lea), Some(load)) = (before.next(), before.next()) else { return false };
        !self.is_entered_between(load.ip(), i.ip())
            && load.code() == Code::Mov_r32_rm32
            && load.op0_register() == Register::R10D
            && is_table_entry(load)
            && lea.code() == Code::Lea_r64_m
            && lea.op0_register() == Register::R10
            && (lea.memory_base(), lea.memory_index(), lea.memory_displacement64()) == (Register::R10, Register::R13, 0)
            && lea.memory_index_scale() == 1
    }

    fn memory(&mut self, i: &Instruction) {
        let used: Vec<_> = self.info.info(i).used_memory().to_vec();
        let stack = matches!(
            i.mnemonic(),
            Mnemonic::Push | Mnemonic::Pop | Mnemonic::Pushfq | Mnemonic::Popfq | Mnemonic::Call | Mnemonic::Ret
        );
        for m in used.iter().filter(|m| m.access() != OpAccess::NoMemAccess) {
            if stack && m.base() == Register::RSP {
                continue;
            }
            let explicit = i.op_kinds().any(|k| k == OpKind::Memory);
            if !(explicit && self.is_known(i, is_write(m.access())) || self.is_confined(i, explicit)) {
                self.bad(i, "memory operand isn't confined");
            }
        }
    }

    /// A field of the frame, an entry of the jump table, a constant of the unit.
    fn is_known(&self, i: &Instruction, write: bool) -> bool {
        if !write && self.is_gs_probe(i) {
            return true;
        }
        if matches!(i.segment_prefix(), Register::FS | Register::GS) {
            return false;
        }
        if i.is_ip_rel_memory_operand() && i.memory_base() == Register::RIP {
            let size = i.memory_size().size() as u64;
            let end = i.ip_rel_memory_address().checked_add(size);
            let overlaps = |x: &Instruction| x.ip() < end.unwrap_or(0) && x.next_ip() > i.ip_rel_memory_address();
            return !write && end.is_some_and(|e| e <= self.s.code.len() as u64) && !self.insns.values().any(overlaps);
        }
        let frame = i.memory_base() == Register::R14
            && i.memory_index() == Register::None
            && i.memory_displacement64() + i.memory_size().size() as u64 <= size_of::<Frame>() as u64;
        frame || !write && (is_table_entry(i) || self.is_probe(i) || self.is_segment_probe(i))
    }

    /// The load that faults while FS or GS can't be used, from the address that the frame has for that.
    fn is_segment_probe(&self, i: &Instruction) -> bool {
        let field =
            |x: &Instruction| [Frame::USABLE, Frame::USABLE + 8].contains(&(x.memory_displacement64() as usize));
        i.code() == Code::Mov_r8_rm8
            && (i.memory_base(), i.memory_index(), i.memory_displacement64()) == (Register::R8, Register::None, 0)
            && self.insns.range(..i.ip32()).next_back().is_some_and(|(_, x)| {
                (x.code(), x.op0_register()) == (Code::Mov_r64_rm64, Register::R8)
                    && (x.memory_base(), x.memory_index()) == (Register::R14, Register::None)
                    && field(x)
                    && !self.is_entered_between(x.ip(), i.ip())
            })
    }

    /// A landing's load: the probe, at which GS begins where memory is the host's low 4 GB, indexed by 32 bits.
    fn is_gs_probe(&self, i: &Instruction) -> bool {
        self.s.config.address_form == AddressForm::Low
            && self.s.config.return_pairing
            && (i.code(), i.op0_register()) == (Code::Mov_r32_rm32, Register::R10D)
            && i.segment_prefix() == Register::GS
            && (i.memory_base(), i.memory_index(), i.memory_displ_size()) == (Register::R11D, Register::None, 4)
    }

    /// A landing's load elsewhere: the probe, indexed by the 32 bits that LEA has just computed.
    fn is_probe(&self, i: &Instruction) -> bool {
        let before = self.insns.range(..i.ip32()).rev().map(|(_, x)| x).find(|x| x.mnemonic() != Mnemonic::Nop);
        i.code() == Code::Mov_r32_rm32
            && (i.memory_base(), i.memory_index(), i.memory_index_scale()) == (Register::R14, Register::R10, 1)
            && i.memory_displacement64() == u64::from(PROBE)
            && before.is_some_and(|x| x.code() == Code::Lea_r32_m && x.op0_register() == Register::R10D)
    }

    /// Addressed by 32 bits, or as good as, in the segment that the configuration says.
    fn is_confined(&self, i: &Instruction, explicit: bool) -> bool {
        // XLAT's index is AL.
        let narrow = |r: Register| r == Register::None || r.is_gpr32() || r == Register::AL;
        let implicit = i.op_kinds().all(|k| {
            use OpKind as K;
            !matches!(
                k,
                K::MemorySegRSI | K::MemorySegRDI | K::MemoryESRDI | K::MemorySegSI | K::MemorySegDI | K::MemoryESDI
            )
        });
        let (base, index) = (i.memory_base(), i.memory_index());
        // A guest register has no upper half, so with a byte's displacement it stays close to the low 4 GB: nothing is there.
        let near = self.s.config.address_form == AddressForm::Low
            && index == Register::None
            && !selects_bit(i)
            && match gpr(base).filter(|_| base.is_gpr64()) {
                Some(n) => GUEST.contains(&n) && i8::try_from(i.memory_displacement64() as i64).is_ok(),
                None => base == Register::None && i.memory_displacement64() < 1 << 31,
            };
        let addressed = !explicit
            || near
            || narrow(base)
                && narrow(index)
                && (base != Register::None || index != Register::None || i.memory_displ_size() == 4);
        let segment = match self.s.config.address_form {
            AddressForm::Low => !matches!(i.segment_prefix(), Register::FS | Register::GS),
            AddressForm::Gs => i.segment_prefix() == Register::GS,
            // What confines it is the comparison before it, which isn't followed here: reported.
            AddressForm::Tlb => false,
        };
        implicit && addressed && segment
    }

    /// Every guest instruction leaves alone the registers that it doesn't write.
    fn guest_registers(&mut self, all: &[Instruction]) {
        let ends = self.s.marks.iter().skip(1).map(|m| m.host).chain([self.s.code.len() as u32]);
        let mut ranges: Vec<(u32, u32, u32)> = Vec::new();
        for (m, end) in self.s.marks.iter().zip(ends) {
            match ranges.last_mut() {
                Some((eip, _, e)) if *eip == m.eip => *e = end,
                _ => ranges.push((m.eip, m.host, end)),
            }
        }
        for (eip, from, to) in ranges {
            let inside: Vec<Instruction> = all.iter().filter(|i| (from..to).contains(&i.ip32())).copied().collect();
            self.one_guest_instruction(eip, from, to, &inside);
        }
    }

    fn one_guest_instruction(&mut self, eip: u32, from: u32, to: u32, inside: &[Instruction]) {
        let Some(bytes) = self.s.guest.get(eip.wrapping_sub(self.s.eip) as usize..) else { return };
        let Some(guest) = decode_insn(bytes, eip, Mode::USER32, CpuModel::MAX.features) else { return };
        let mut may: BTreeSet<usize> = self
            .info
            .info(&guest.iced)
            .used_registers()
            .iter()
            .filter(|u| is_write(u.access()))
            .filter_map(|u| gpr(u.register()))
            .collect();
        // ESP is R12, whose value at boundaries is the mark's business.
        may.insert(12);
        let mut states: BTreeMap<u32, Values> = BTreeMap::from([(from, Values::default())]);
        for i in inside {
            let Some(mut v) = states.remove(&i.ip32()) else { continue };
            // The callee is known to load its return address into a register and to return.
            let thunk =
                guest.iced.is_call_near() && i.code() == Code::Mov_r32_imm32 && i.immediate32() == guest.next_eip();
            if !thunk {
                v.execute(i, &mut self.info);
            }
            let direct = i.op0_kind() == OpKind::NearBranch64;
            let target = direct.then(|| i.near_branch_target() as u32);
            let falls = !matches!(
                i.flow_control(),
                FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return
            ) && !is_leave(i);
            let out = (direct || !falls) && !target.is_some_and(|t| (from..to).contains(&t));
            if out || falls && i.next_ip32() >= to {
                let touched: Vec<usize> =
                    GUEST.into_iter().filter(|r| !may.contains(r) && v.0[*r] != Value::Original(*r as u8)).collect();
                if !touched.is_empty() {
                    self.bad(
                        i,
                        &format!("leaves host registers {touched:?} changed, which {} doesn't write", guest.iced),
                    );
                }
            }
            for next in target.into_iter().chain(falls.then_some(i.next_ip32())).filter(|t| (from..to).contains(t)) {
                states.entry(next).and_modify(|w| w.meet(&v)).or_insert_with(|| v.clone());
            }
        }
    }
}

/// `[r15 + r11*4]`: an entry for any 32-bit R11, whose upper half is zero wherever it is loaded.
fn is_table_entry(i: &Instruction) -> bool {
    (i.memory_base(), i.memory_index(), i.memory_index_scale(), i.memory_displacement64())
        == (Register::R15, Register::R11, 4, 0)
        && i.memory_size().size() == 4
}

/// May `i` be in translated code at all? What changes system state, enters a kernel or is privileged may not, nor what saves or loads more
/// state than the guest has.
fn is_harmless(i: &Instruction) -> bool {
    use Mnemonic as M;
    let system = matches!(
        i.mnemonic(),
        M::Syscall
            | M::Sysenter
            | M::Int
            | M::Int1
            | M::Iretq
            | M::Iretd
            | M::In
            | M::Out
            | M::Hlt
            | M::Cli
            | M::Sti
            | M::Cpuid
            | M::Fxsave
            | M::Fxrstor
            | M::Fxsave64
            | M::Fxrstor64
            | M::Xsave
            | M::Xrstor
            | M::Wrpkru
            | M::Wrfsbase
            | M::Wrgsbase
            | M::Rdfsbase
            | M::Rdgsbase
            | M::Swapgs
    );
    let vex = i.encoding() != iced_x86::EncodingKind::Legacy && !matches!(i.mnemonic(), M::Pext | M::Pdep | M::Shrx);
    let segment =
        i.op_kinds().enumerate().any(|(n, k)| k == OpKind::Register && i.op_register(n as u32).is_segment_register());
    !(system || vex || segment || i.is_privileged())
}

/// What a host register holds, as far as the question needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    /// What that register held where the guest instruction began.
    Original(u8),
    /// The same with its two low bytes exchanged.
    Swapped(u8),
    Other,
}

#[derive(Clone)]
struct Values([Value; 16]);

impl Default for Values {
    fn default() -> Self {
        Values(core::array::from_fn(|r| Value::Original(r as u8)))
    }
}

impl Values {
    fn meet(&mut self, other: &Values) {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            if *a != b {
                *a = Value::Other;
            }
        }
    }

    fn execute(&mut self, i: &Instruction, info: &mut InstructionInfoFactory) {
        let (a, b) = (i.op0_register(), i.op1_register());
        let registers = i.op0_kind() == OpKind::Register && i.op_count() == 2 && i.op1_kind() == OpKind::Register;
        if i.mnemonic() == Mnemonic::Mov && registers && a.is_gpr32() && b.is_gpr32() {
            self.0[a.number()] = self.0[b.number()];
            return;
        }
        if i.mnemonic() == Mnemonic::Xchg && registers && a != b && a.is_gpr8() && gpr(a) == gpr(b) {
            let v = &mut self.0[gpr(a).expect("a general register")];
            *v = match *v {
                Value::Original(r) => Value::Swapped(r),
                Value::Swapped(r) => Value::Original(r),
                Value::Other => Value::Other,
            };
            return;
        }
        for u in info.info(i).used_registers().iter().filter(|u| is_write(u.access())) {
            if let Some(n) = gpr(u.register()) {
                self.0[n] = Value::Other;
            }
        }
    }
}

/// Guest bytes for the translator, at `eip`; nothing is around them.
pub struct Bytes<'a> {
    /// EIP of the first.
    pub eip: u32,
    /// They.
    pub bytes: &'a [u8],
    /// They may change unnoticed.
    pub volatile: bool,
}

impl xlat86_translator::Source for Bytes<'_> {
    fn peek(&mut self, eip: u32, to: &mut [u8]) -> usize {
        let Some(rest) = self.bytes.get(eip.wrapping_sub(self.eip) as usize..) else { return 0 };
        let n = rest.len().min(to.len()).min(4096 - (eip & 0xfff) as usize);
        to[..n].copy_from_slice(&rest[..n]);
        n
    }
    fn is_volatile(&self, _: u32) -> bool {
        self.volatile
    }
    fn depend(&mut self, _: u32) {}
    fn known(&self, _: u32) -> bool {
        false
    }
}

/// Translates what a fuzzer gives (two bytes of settings, then guest code) and checks every unit in it.
///
/// # Panics
/// A rule is broken.
pub fn check_input(input: &[u8]) {
    let [flags, place, code @ ..] = input else { return };
    let bit = |n: u8| flags >> n & 1 != 0;
    let config = Config {
        address_form: if bit(0) { AddressForm::Gs } else { AddressForm::Low },
        return_pairing: !bit(1),
        flag_liveness: !bit(2),
        lazy_esp: !bit(3),
        extended: !bit(4),
        max_insns: if bit(5) { 1 } else { 96 },
        ..Config::default()
    };
    let eip = 0x0804_8000 + u32::from(*place) * 16;
    // Whole pages, as memory has them.
    let mut bytes = code.to_vec();
    bytes.resize(code.len().max(1).next_multiple_of(4096) + 8192 - (eip & 0xfff) as usize, 0xcc);
    let mut source = Bytes { eip, bytes: &bytes, volatile: bit(6) };
    let mut at = eip;
    while at < eip + code.len() as u32 {
        let Some(unit) = xlat86_translator::translate(at, Mode::USER32, CpuModel::MAX.features, &config, &mut source)
        else {
            return;
        };
        let guest = &bytes[(at - eip) as usize..];
        let found = violations(&Subject::new(&unit, guest, &config));
        let shown = &guest[..unit.len.min(64) as usize];
        assert!(found.is_empty(), "{config:?}\n{shown:02x?}\n{}", found.join("\n"));
        at += unit.len.max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Generator, Rng, Units};
    use proptest::prelude::*;
    use xlat86_translator::Fix;

    const EIP: u32 = 0x0804_8000;

    /// What is wrong with `code` as the translation of `guest` (one instruction), before an exit.
    fn wrong(code: &[u8], guest: &[u8]) -> String {
        let leave = [0x41, 0xff, 0x16];
        let code = [code, &leave].concat();
        let mark = Mark { host: 0, eip: EIP, fix: Fix::default(), boundary: true, exact: true };
        let guest = [guest, &[0xcc; 16]].concat();
        let config = Config::default();
        let end = code.len() as u32;
        let subject =
            Subject { code: &code, marks: &[mark], exits: vec![end], eip: EIP, guest: &guest, config: &config };
        violations(&subject).join("\n")
    }

    const MOV_EAX_FROM_EBX: [u8; 2] = [0x8b, 0x03];

    #[test]
    fn good_code_passes() {
        assert_eq!(wrong(&[0x67, 0x8b, 0x03], &MOV_EAX_FROM_EBX), "");
        assert_eq!(wrong(&[0x8b, 0x03], &MOV_EAX_FROM_EBX), "");
        // lea r8d, [rcx]; mov ecx, 5; mov ecx, r8d: saved by LEA isn't recognised, by MOV it is.
        assert_eq!(wrong(&[0x41, 0x89, 0xc8, 0xb9, 5, 0, 0, 0, 0x44, 0x89, 0xc1], &[0x90]), "");
        // xchg al, ah; xchg al, ah
        assert_eq!(wrong(&[0x86, 0xc4, 0x86, 0xc4], &[0x90]), "");
    }

    #[test]
    fn the_checker_bites() {
        for (what, code) in [
            ("isn't confined", &[0x65, 0x67, 0x8b, 0x03][..]), // mov eax, gs:[ebx]
            ("isn't confined", &[0x65, 0x67, 0x41, 0x8b, 0x83, 0, 0, 0, 0]), // mov eax, gs:[r11d+0]
            ("isn't confined", &[0x65, 0x67, 0x45, 0x8b, 0x92, 0, 0, 0, 0]), // mov r10d, gs:[r10d+0]
            ("isn't confined", &[0x65, 0x45, 0x8b, 0x93, 0, 0, 0, 0]), // mov r10d, gs:[r11+0]
            ("isn't confined", &[0x64, 0x67, 0x45, 0x8b, 0x93, 0, 0, 0, 0]), // mov r10d, fs:[r11d+0]
            ("isn't confined", &[0x65, 0x67, 0x4d, 0x8b, 0x93, 0, 0, 0, 0]), // mov r10, gs:[r11d+0]
            ("isn't confined", &[0x65, 0x67, 0x45, 0x89, 0x93, 0, 0, 0, 0]), // mov gs:[r11d+0], r10d
            ("isn't confined", &[0xa4]),                       // movsb
            ("isn't confined", &[0xf3, 0xab]),                 // rep stosd
            ("isn't confined", &[0x8b, 0x44, 0x24, 0x08]),     // mov eax, [rsp+8]
            ("isn't confined", &[0x8b, 0x05, 0, 0, 0, 0]),     // mov eax, [rip]
            ("isn't confined", &[0x67, 0x8b, 0x05, 0, 0, 0, 0]), // mov eax, [eip]
            ("isn't confined", &[0x41, 0x8b, 0x00]),           // mov eax, [r8]
            ("isn't confined", &[0x8b, 0x04, 0x0b]),           // mov eax, [rbx+rcx]
            ("isn't confined", &[0x8b, 0x83, 0x80, 0, 0, 0]),  // mov eax, [rbx+80h]
            ("isn't confined", &[0x8b, 0x04, 0x25, 0, 0, 0, 0x80]), // mov eax, [-80000000h]
            ("isn't confined", &[0x41, 0x8b, 0x86, 0, 2, 0, 0]), // mov eax, [r14+200h]
            ("isn't confined", &[0x41, 0x8b, 0x45, 0]),        // mov eax, [r13]
            ("isn't confined", &[0x47, 0x89, 0x14, 0x9f]),     // mov [r15+r11*4], r10d
            ("isn't confined", &[0x0f, 0xa3, 0x03]),           // bt [rbx], eax
            ("pinned", &[0x41, 0xbe, 0, 0, 0, 0]),             // mov r14d, 0
            ("pinned", &[0x49, 0xff, 0xc7]),                   // inc r15
            ("pinned", &[0x48, 0x83, 0xc4, 8]),                // add rsp, 8
            ("pinned", &[0x5c]),                               // pop rsp
            ("64 bits", &[0x48, 0x89, 0xd8]),                  // mov rax, rbx
            ("64 bits", &[0x48, 0x01, 0xc0]),                  // add rax, rax
            ("no way", &[0xff, 0xe0]),                         // jmp rax
            ("no way", &[0x41, 0xff, 0xe2]),                   // jmp r10, from nowhere
            ("no way", &[0xff, 0xd0]),                         // call rax
            ("no way", &[0xcc]),                               // int3
            ("no way", &[0x48, 0xcb]),                         // retf
            ("no instruction", &[0xe9, 0, 1, 0, 0]),           // jmp far ahead
            ("out of the unit", &[0xe9, 0, 0xff, 0xff, 0xff]), // jmp far back
            ("inside another", &[0xeb, 1, 0xb8, 0x90, 0x90, 0x90, 0x90, 0x74, 0xf9]), // jz into an immediate
            ("not for", &[0x0f, 0x05]),                        // syscall
            ("not for", &[0x0f, 0xa2]),                        // cpuid
            ("not for", &[0xf4]),                              // hlt
            ("not for", &[0x8e, 0xd8]),                        // mov ds, eax
            ("not for", &[0xf3, 0x48, 0x0f, 0xae, 0xd0]),      // wrfsbase rax
            ("not for", &[0xc5, 0xf8, 0x77]),                  // vzeroupper
            ("doesn't have", &[0x66, 0x45, 0x0f, 0xef, 0xd2]), // pxor xmm10, xmm10
            ("doesn't write", &[0xb9, 0, 0, 0, 0]),            // mov ecx, 0
            ("doesn't write", &[0x86, 0xc9, 0x86, 0xcd]),      // xchg cl, ch, once
            ("doesn't write", &[0x74, 3, 0x44, 0x89, 0xc1]),   // jz +3; mov ecx, r8d
        ] {
            let found = wrong(code, &MOV_EAX_FROM_EBX);
            assert!(found.contains(what), "{code:02x?}: {what} expected, found {found:?}");
        }
    }

    #[test]
    fn an_unknown_exit_is_noticed() {
        let leave = [0x41, 0xff, 0x16];
        assert!(wrong(&leave, &MOV_EAX_FROM_EBX).contains("no way"));
    }

    #[test]
    fn what_the_translator_makes_of_random_instructions_keeps_the_rules() {
        let mut generator = Generator { rng: Rng(7) };
        for n in 0..6000u32 {
            let units = if n % 2 == 0 { Units::Integer } else { Units::Float };
            let mut input = vec![(n >> 1) as u8, (n >> 3) as u8];
            while input.len() < 60 {
                input.extend(generator.encoding(units).map(|(bytes, _)| bytes).unwrap_or_default());
            }
            check_input(&input);
        }
    }

    #[test]
    fn corpus_holds() {
        crate::replay("translate", check_input);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn what_the_translator_makes_of_any_bytes_keeps_the_rules(input in prop::collection::vec(any::<u8>(), 2..80)) {
            check_input(&input);
        }
    }
}
