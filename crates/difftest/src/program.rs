//! Random small programs: what single instructions can't show. Functions that call each other, loops, jumps, balanced and
//! unbalanced use of the stack, code that changes its own next instructions, system calls, and random instructions of every
//! kind in between.
//!
//! Programs end: calls go to later functions only, loops count in memory that nothing else is aimed at. A store that
//! strikes it anyway, or ESP gone astray, makes a program that faults or is cut off by the caller's limit.

use crate::campaign::silicon_judges;
use crate::case::Case;
use crate::engine::{Program, with_tls};
use crate::fpu;
use crate::generate::{self, Generator};
use crate::rng::Rng;
use crate::state::{AT, DATA};
use core::ops::Range;
use iced_x86::Register;
use xlat86_arch::{CpuModel, CpuState, FxState, Mode, Reg, eflags};
use xlat86_decoder::{Kind, decode_insn};

/// Bytes of code: two pages, the first instruction near the end of the first half.
const CODE_LEN: usize = 0x2000;
/// Bytes of data: the random operands' page, then the stack's and the loop counters'.
const DATA_LEN: u32 = 0x2000;
const STACK: u32 = DATA + 0x1c00;
const COUNTERS: u32 = DATA + 0x1f00;
/// Where functions start.
const START: u32 = crate::state::CODE;

/// The memory of these programs.
pub const LAYOUT: [Range<u32>; 2] = [START..START + CODE_LEN as u32, DATA..DATA + DATA_LEN];

/// A place in the code that something names before it is known.
type Label = usize;

/// Draws programs.
pub struct Programs {
    rng: Rng,
    insns: Generator,
    encodings: Vec<Vec<u8>>,
}

impl Default for Programs {
    fn default() -> Self {
        // Without those that show the x87's pointers, which the host may have forgotten.
        let mut encodings = fpu::encodings();
        encodings.retain(|e| silicon_judges(fpu::decode(e).code()));
        Programs { rng: Rng::new(0), insns: Generator { rng: generate::Rng(0) }, encodings }
    }
}

impl Programs {
    /// Program `number`, whose outermost loop runs `rounds` times.
    pub fn program(&mut self, number: u64, rounds: u32) -> Program {
        (self.rng, self.insns.rng) = (Rng::new(number), generate::Rng(!number));
        let start = AT - START + self.rng.below(0xc00) as u32;
        let functions = 1 + self.rng.below(4) as usize;
        let mut b = Builder {
            all: self,
            code: vec![0xcc; start as usize],
            labels: Vec::new(),
            uses: Vec::new(),
            functions: 0,
            loops: 0,
        };
        b.functions = functions;
        b.labels = vec![None; functions];
        for f in 0..functions {
            b.function(f, if f == 0 { rounds } else { 0 });
        }
        let code = b.finish();
        let mut cpu = with_tls();
        let mut g = Rng::new(self.rng.next());
        for r in &mut cpu.gpr {
            *r = match g.below(3) {
                0 => DATA + 0x100 + g.below(0x800) as u32,
                1 => g.below(64) as u32,
                _ => g.next() as u32,
            };
        }
        cpu.gpr[Reg::Esp as usize] = STACK;
        cpu.eflags |= g.next() as u32 & eflags::LIVE;
        cpu.fx = FxState { mxcsr_mask: FxState::INIT.mxcsr_mask, ..FxState::INIT };
        cpu.fx.xmm[..8].fill_with(|| u128::from(g.next()) << 64 | u128::from(g.next()));
        let data = (0..DATA_LEN).map(|i| (i as u8).wrapping_mul(167)).collect();
        Program { cpu: CpuState { eip: START + start, ..cpu }, memory: vec![(START, code), (DATA, data)] }
    }
}

/// Does function `f` remove the 4-byte argument that its callers push?
fn pops(f: usize) -> bool {
    f % 2 == 1
}

struct Builder<'a> {
    all: &'a mut Programs,
    code: Vec<u8>,
    labels: Vec<Option<u32>>,
    /// Offset of a 4-byte field, its label, and whether it is relative.
    uses: Vec<(usize, Label, bool)>,
    functions: usize,
    loops: u32,
}

impl Builder<'_> {
    fn rng(&mut self) -> &mut Rng {
        &mut self.all.rng
    }

    fn below(&mut self, n: u64) -> u8 {
        self.all.rng.below(n) as u8
    }

    fn emit(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    fn imm32(&mut self, v: u32) {
        self.emit(&v.to_le_bytes());
    }

    fn label(&mut self) -> Label {
        self.labels.push(None);
        self.labels.len() - 1
    }

    fn bind(&mut self, l: Label) {
        self.labels[l] = Some(self.code.len() as u32);
    }

    /// `opcode` with a 32-bit displacement to, or the address of, `l`.
    fn refer(&mut self, opcode: &[u8], l: Label, relative: bool) {
        self.emit(opcode);
        self.uses.push((self.code.len(), l, relative));
        self.imm32(0);
    }

    fn finish(mut self) -> Vec<u8> {
        for (at, l, relative) in core::mem::take(&mut self.uses) {
            let to = self.labels[l].expect("every label is bound");
            let v = if relative { to.wrapping_sub(at as u32 + 4) } else { START + to };
            self.code[at..at + 4].copy_from_slice(&v.to_le_bytes());
        }
        self.code.resize(CODE_LEN, 0xcc);
        self.code
    }

    /// Any register but ESP.
    fn reg(&mut self) -> u8 {
        self.rng().pick(&[0, 1, 2, 3, 5, 6, 7])
    }

    fn function(&mut self, f: usize, rounds: u32) {
        self.bind(f);
        let n = 2 + self.rng().below(10);
        self.counted(rounds, |b| b.statements(n, f, 0));
        match f {
            0 => self.emit(&[0xcc]),
            _ if pops(f) => self.emit(&[0xc2, 4, 0]),
            _ => self.emit(&[0xc3]),
        }
    }

    /// `body`, `n` times over when `n` isn't 0.
    fn counted(&mut self, n: u32, body: impl FnOnce(&mut Self)) {
        if n == 0 || self.loops >= 0x30 {
            return body(self);
        }
        let counter = COUNTERS + 4 * self.loops;
        self.loops += 1;
        self.emit(&[0xc7, 0x05]);
        self.imm32(counter);
        self.imm32(n);
        let head = self.label();
        self.bind(head);
        body(self);
        self.emit(&[0xff, 0x0d]);
        self.imm32(counter);
        let back = self.labels[head].expect("bound") as i32 - (self.code.len() as i32 + 2);
        match i8::try_from(back) {
            Ok(short) if self.rng().one_in(2) => self.emit(&[0x75, short as u8]),
            _ => self.refer(&[0x0f, 0x85], head, true),
        }
    }

    fn statements(&mut self, n: u64, f: usize, depth: u32) {
        for _ in 0..n {
            if self.code.len() > CODE_LEN - 0x400 {
                return;
            }
            self.statement(f, depth);
        }
    }

    fn statement(&mut self, f: usize, depth: u32) {
        match self.rng().below(16) {
            0..3 => self.random_insn(),
            3 => self.random_fpu(),
            4..7 => self.stack(f, depth),
            7 if depth < 3 => {
                let n = 1 + self.rng().below(4);
                let rounds = 1 + self.rng().below(5) as u32;
                self.counted(rounds, |b| b.statements(n, f, depth + 1));
            }
            8 | 9 => self.conditional(f, depth),
            10 | 11 => self.call(f),
            12 => self.esp_operand(),
            13 => self.segment_operand(),
            14 => self.change_code(),
            15 => match self.below(8) {
                0 => self.emit(&[0xcd, 0x80]),
                1 => self.emit(&[0x9c, 0x9d]),
                2 => self.emit(&[0x9f, 0x9e]),
                _ => self.jump(),
            },
            _ => self.random_insn(),
        }
    }

    /// An instruction of [`Generator`]'s, with its address registers set just before.
    fn random_insn(&mut self) {
        let (case, insn) = loop {
            let case = self.all.insns.next_case();
            let insn =
                decode_insn(&case.bytes, AT, Mode::USER32, CpuModel::MAX.features).expect("it was decoded before");
            let names = |r: Register| r == Register::ESP || r == Register::SP;
            let esp = (0..insn.iced.op_count()).any(|n| names(insn.iced.op_register(n)))
                || insn.iced.memory_base() == Register::ESP;
            if matches!(insn.kind, Kind::Plain | Kind::String) && !(esp && self.below(64) != 0) {
                break (case, insn);
            }
        };
        let mut used: Vec<u8> = match insn.kind {
            Kind::String => vec![1, 6, 7],
            _ if insn.iced.memory_base() == Register::BX || insn.iced.mnemonic() == iced_x86::Mnemonic::Xlatb => {
                vec![3]
            }
            _ => Vec::new(),
        };
        for r in [insn.iced.memory_base(), insn.iced.memory_index()] {
            if r.is_gpr32() && r != Register::ESP {
                used.push(r.number() as u8);
            }
        }
        for r in used {
            self.emit(&[0xb8 | r]);
            self.imm32(case.regs.gpr[r as usize]);
        }
        let Case { bytes, .. } = case;
        self.emit(&bytes);
    }

    /// A floating-point or vector instruction; those with memory find it at EBX.
    fn random_fpu(&mut self) {
        let i = self.all.rng.below(self.all.encodings.len() as u64) as usize;
        let bytes = self.all.encodings[i].clone();
        let at = DATA + 0x200 + 16 * u32::from(self.below(64));
        self.emit(&[0xbb]);
        self.imm32(at);
        self.emit(&bytes);
    }

    /// Pushes, statements, and the pops that match.
    fn stack(&mut self, f: usize, depth: u32) {
        let (r, s) = (self.reg(), self.reg());
        let n = 4 * (1 + self.below(8));
        let inner = |b: &mut Self| {
            let n = b.rng().below(3);
            b.statements(n, f, depth + 1);
        };
        match self.below(14) {
            0 => {
                self.emit(&[0x50 | r]);
                inner(self);
                self.emit(&[0x58 | s]);
            }
            1 => {
                self.emit(&[0x50 | r, 0x50 | s, 0x54]);
                inner(self);
                self.emit(&[0x83, 0xc4, 12]);
            }
            2 => {
                self.emit(&[0x83, 0xec, n]);
                inner(self);
                self.emit(&[0x83, 0xc4, n]);
            }
            3 => {
                self.emit(&[0x8d, 0x64, 0x24, n.wrapping_neg()]);
                inner(self);
                self.emit(&[0x8d, 0x64, 0x24, n]);
            }
            4 => {
                self.emit(&[0x55, 0x89, 0xe5, 0x83, 0xec, n]);
                inner(self);
                self.emit(&[0x8d, 0x65, 0x00, 0x5d]);
            }
            5 => {
                self.emit(&[0xc8, n, 0, 0]);
                inner(self);
                self.emit(&[0xc9]);
            }
            6 => {
                self.emit(&[0x60]);
                inner(self);
                self.emit(&[0x61]);
            }
            7 => {
                self.emit(&[0x9c]);
                inner(self);
                self.emit(&[0x9d]);
            }
            8 => self.emit(&[0x6a, n, 0xff, 0x34, 0x24, 0x8f, 0x44, 0x24, 0x00, 0x58 | r]),
            9 => self.emit(&[0x54, 0x5c]),
            10 => self.emit(&[0x94, 0x94]),
            11 => self.emit(&[0x66, 0x50 | r, 0x66, 0x6a, n, 0x66, 0x58 | s, 0x66, 0x8f, 0x44, 0x24, 0xfe]),
            12 => self.emit(&[0x89, 0xe0 | r, 0x50 | s, 0x89, 0xc4 | r << 3]),
            _ => self.emit(&[0x0e, 0x1e, 0x83, 0xc4, 8]),
        }
    }

    fn conditional(&mut self, f: usize, depth: u32) {
        let (over, cc) = (self.label(), self.below(16));
        match self.below(4) {
            0 => {
                let start = self.code.len() + 2;
                let opcode = 0xe0 + self.below(4);
                self.emit(&[0xb9, 1 + self.below_copy(3), 0, 0, 0][..if opcode == 0xe3 { 0 } else { 5 }]);
                let start = if opcode == 0xe3 { start } else { start + 5 };
                self.emit(&[opcode, 0]);
                self.random_insn();
                let distance = self.code.len() - start;
                self.code[start - 1] = distance as u8;
                self.labels[over] = Some(self.code.len() as u32);
            }
            1 => {
                let r = self.reg();
                // Two jumps in a row, and a compare just before.
                self.emit(&[0x85, 0xc0 | r << 3 | r]);
                self.refer(&[0x0f, 0x80 | cc], over, true);
                self.refer(&[0x0f, 0x80 | cc ^ 5], over, true);
                self.statements(2, f, depth + 1);
                self.bind(over);
            }
            _ => {
                self.refer(&[0x0f, 0x80 | cc], over, true);
                let n = self.rng().below(4);
                self.statements(n, f, depth + 1);
                self.bind(over);
            }
        }
    }

    fn below_copy(&self, n: u8) -> u8 {
        (self.code.len() % usize::from(n)) as u8
    }

    fn call(&mut self, f: usize) {
        let r = self.reg();
        if f + 1 >= self.functions {
            // The ways to read EIP.
            return match self.below(2) {
                0 => self.emit(&[0xe8, 0, 0, 0, 0, 0x58 | r]),
                _ => {
                    let (thunk, over) = (self.label(), self.label());
                    self.refer(&[0xe8], thunk, true);
                    self.refer(&[0xe9], over, true);
                    self.bind(thunk);
                    self.emit(&[0x8b, 0x04 | r << 3, 0x24, 0xc3]);
                    self.bind(over);
                }
            };
        }
        let later = (self.functions - f - 1) as u64;
        let to = f + 1 + self.rng().below(later) as usize;
        if pops(to) {
            self.emit(&[0x50 | r]);
        }
        match self.below(6) {
            0 => {
                self.refer(&[0xb8 | r], to, false);
                self.emit(&[0xff, 0xd0 | r]);
            }
            1 => {
                // Through memory: on the stack, addressed by ESP, below the argument.
                self.refer(&[0x68], to, false);
                self.emit(&[0x8f, 0x44, 0x24, 0xe0, 0xff, 0x54, 0x24, 0xe0]);
            }
            2 => {
                // A tail call: the function returns to after this.
                let back = self.label();
                self.refer(&[0x68], back, false);
                self.refer(&[0xe9], to, true);
                self.bind(back);
            }
            _ => self.refer(&[0xe8], to, true),
        }
    }

    /// Unconditional jumps: direct, through a register, and by a return that no call made.
    fn jump(&mut self) {
        let (over, r) = (self.label(), self.reg());
        match self.below(4) {
            0 => {
                self.refer(&[0xb8 | r], over, false);
                self.emit(&[0xff, 0xe0 | r]);
            }
            1 => {
                self.refer(&[0x68], over, false);
                self.emit(&[0xc3]);
            }
            2 => {
                self.refer(&[0x68], over, false);
                self.emit(&[0x58 | r, 0xff, 0xe0 | r]);
            }
            _ => self.refer(&[0xe9], over, true),
        }
        self.emit(&[0xcc]);
        self.bind(over);
    }

    /// Operands based on ESP, beside every kind of register.
    fn esp_operand(&mut self) {
        let (r, disp) = (self.below(8), self.below(16) * 4);
        let modrm = 0x44 | r << 3;
        let op: &[u8] = match self.below(9) {
            0 => &[0x88],
            1 => &[0x8a],
            2 => &[0x00],
            3 => &[0x86],
            4 => &[0x0f, 0xb0],
            5 => &[0x0f, 0xc0],
            6 => &[0x38],
            7 => &[0x12],
            _ => &[0xf0, 0x0f, 0xc0],
        };
        self.emit(op);
        self.emit(&[modrm, 0x24, disp]);
        if self.below(4) == 0 {
            let r = self.reg();
            self.emit(&[0x0f, 0xb7, 0x44 | r << 3, 0x24, disp, 0x29, 0x44 | r << 3, 0x24, disp]);
        }
    }

    /// Thread-local storage, in every addressing form.
    fn segment_operand(&mut self) {
        let fs = self.below(2) == 0;
        let prefix = if fs { 0x64 } else { 0x65 };
        let base = if fs { crate::engine::FS_BASE } else { crate::engine::GS_BASE };
        let offset = (DATA + 0x300 + u32::from(self.below(200))).wrapping_sub(base);
        let (r, x) = (self.rng().pick(&[0, 2, 3, 6, 7]), self.below(8));
        match self.below(6) {
            0 => {
                self.emit(&[prefix, 0xa0 + self.below_copy(4)]);
                self.imm32(offset);
            }
            1 => {
                self.emit(&[0xb8 | r]);
                self.imm32(offset);
                self.emit(&[prefix, 0x01, x << 3 | r]);
            }
            2 => {
                // [r + ecx * 4 + 8]
                self.emit(&[0xb9, 3, 0, 0, 0, 0xb8 | r]);
                self.imm32(offset);
                self.emit(&[prefix, 0x11, 0x44 | (x & 3) << 3, 0x88 | r, 8]);
            }
            3 => {
                // A selector to [r + ecx * 2]; FS and DS.
                self.emit(&[0xb9, 3, 0, 0, 0, 0xb8 | r]);
                self.imm32(offset);
                self.emit(&[prefix, 0x8c, self.below_copy(2) << 3 | 0x14, 0x48 | r]);
            }
            4 if fs => {
                // 16-bit addressing reaches the data through FS.
                self.emit(&[0xbb]);
                self.imm32(offset);
                self.emit(&[prefix, 0x67, 0x8a, x << 3 | 7, prefix, 0x67, 0x01, 0x47 | (x & 3) << 3, 0x10]);
            }
            _ => {
                // Through the stack: pushed from there, popped to there, called through.
                self.emit(&[0xb8 | r]);
                self.imm32(offset);
                self.emit(&[prefix, 0xff, 0x30 | r, prefix, 0x8f, r]);
            }
        }
    }

    /// Stores into the operand of an instruction further on, or just passed in a loop.
    fn change_code(&mut self) {
        let (label, value, r) = (self.label(), self.below(256), self.rng().pick(&[0, 1, 2, 3]));
        self.refer(&[0xc6, 0x05], label, false);
        self.emit(&[value]);
        if self.below(2) == 0 {
            self.random_insn();
        }
        self.emit(&[0xb0 | r]);
        self.bind(label);
        self.emit(&[0x11]);
    }
}
