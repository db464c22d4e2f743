//! Classic BPF programs as seccomp uses them: checked once, then run over the data of each system call.
//!
//! The kernel's subset (`seccomp_check_filter` and `bpf_check_classic`): 32-bit loads of the data, arithmetic, forward
//! jumps, sixteen words of scratch memory. Jumps only go forward, so every program ends.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// One instruction (`struct sock_filter`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Insn {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// Most instructions in a program (BPF_MAXINSNS).
pub(crate) const MAX: usize = 4096;
/// Words of scratch memory.
const MEMORY: u32 = 16;

const CLASS: u16 = 7;
const LD: u16 = 0;
const LDX: u16 = 1;
const ST: u16 = 2;
const STX: u16 = 3;
const ALU: u16 = 4;
const JMP: u16 = 5;
const RET: u16 = 6;
const MISC: u16 = 7;
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
/// Source of an operand: X, else the constant.
const X: u16 = 8;
const RET_A: u16 = 0x10;
const TXA: u16 = 0x80;

/// What a system call looks like to a filter (`struct seccomp_data`), as 32-bit words.
pub(crate) type Data = [u32; 16];

/// Does the kernel take this program?
pub(crate) fn is_valid(program: &[Insn]) -> bool {
    let in_range = |i: usize, offset: u32| (offset as usize) < program.len() - i - 1;
    let each = |(i, p): (usize, &Insn)| match (p.code & CLASS, p.code & !CLASS) {
        (LD, ABS) => p.k % 4 == 0 && (p.k as usize) < size_of::<Data>(),
        (LD | LDX, IMM | LEN) => true,
        (LD | LDX, MEM) | (ST | STX, 0) => p.k < MEMORY,
        // DIV by zero, and shifts that shift everything out.
        (ALU, 0x30) => p.k != 0,
        (ALU, 0x60 | 0x70) => p.k < 32,
        (ALU, 0x00 | 0x10 | 0x20 | 0x40 | 0x50 | 0xa0 | 0x80) => true,
        (ALU, 0x08 | 0x18 | 0x28 | 0x38 | 0x48 | 0x58 | 0x68 | 0x78 | 0xa8) => true,
        (JMP, 0x00) => in_range(i, p.k),
        (JMP, 0x10 | 0x20 | 0x30 | 0x40 | 0x18 | 0x28 | 0x38 | 0x48) => {
            in_range(i, p.jt.into()) && in_range(i, p.jf.into())
        }
        (RET, 0 | RET_A) | (MISC, 0 | TXA) => true,
        _ => false,
    };
    (1..=MAX).contains(&program.len())
        && program.iter().enumerate().all(each)
        && program.last().is_some_and(|p| p.code & CLASS == RET)
}

/// Runs a valid program.
pub(crate) fn run(program: &[Insn], data: &Data) -> u32 {
    let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; MEMORY as usize]);
    let mut at = 0;
    while let Some(p) = program.get(at) {
        at += 1;
        let (class, what) = (p.code & CLASS, p.code & !CLASS);
        match class {
            LD | LDX => {
                let v = match what {
                    ABS => data[p.k as usize / 4],
                    MEM => memory[p.k as usize],
                    LEN => size_of::<Data>() as u32,
                    _ => p.k,
                };
                *if class == LD { &mut a } else { &mut x } = v;
            }
            ST => memory[p.k as usize] = a,
            STX => memory[p.k as usize] = x,
            ALU => {
                let v = if what & X != 0 { x } else { p.k };
                a = match what & !X {
                    0x00 => a.wrapping_add(v),
                    0x10 => a.wrapping_sub(v),
                    0x20 => a.wrapping_mul(v),
                    // Division by an X of zero ends the program with 0.
                    0x30 => match a.checked_div(v) {
                        Some(q) => q,
                        None => return 0,
                    },
                    0x40 => a | v,
                    0x50 => a & v,
                    0x60 => a.wrapping_shl(v),
                    0x70 => a.wrapping_shr(v),
                    0xa0 => a ^ v,
                    _ => a.wrapping_neg(),
                };
            }
            JMP => {
                let v = if what & X != 0 { x } else { p.k };
                let taken = match what & !X {
                    0x10 => a == v,
                    0x20 => a > v,
                    0x30 => a >= v,
                    0x40 => a & v != 0,
                    _ => {
                        at += p.k as usize;
                        continue;
                    }
                };
                at += usize::from(if taken { p.jt } else { p.jf });
            }
            RET => return if what == RET_A { a } else { p.k },
            _ => *if what == TXA { &mut a } else { &mut x } = if what == TXA { x } else { a },
        }
    }
    // Not reached by a valid program.
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn i(code: u16, jt: u8, jf: u8, k: u32) -> Insn {
        Insn { code, jt, jf, k }
    }

    #[test]
    fn runs_what_filters_are_made_of() {
        // ld [0]; jeq 20, 0, 1; ret ERRNO|1; ld [16]; tax; ld imm 6; and x; ret a
        let p = [
            i(0x20, 0, 0, 0),
            i(0x15, 0, 1, 20),
            i(0x06, 0, 0, 0x5_0001),
            i(0x20, 0, 0, 16),
            i(0x07, 0, 0, 0),
            i(0x00, 0, 0, 6),
            i(0x5c, 0, 0, 0),
            i(0x16, 0, 0, 0),
        ];
        assert!(is_valid(&p));
        let mut data = [0; 16];
        data[0] = 20;
        assert_eq!(run(&p, &data), 0x5_0001);
        (data[0], data[4]) = (21, 0xff);
        assert_eq!(run(&p, &data), 6);
    }

    #[test]
    fn refuses_what_the_kernel_refuses() {
        let ret = i(0x06, 0, 0, 0);
        let bad = [
            vec![],
            vec![i(0x20, 0, 0, 0)],
            vec![i(0x20, 0, 0, 64), ret],
            vec![i(0x20, 0, 0, 2), ret],
            vec![i(0x05, 0, 0, 1), ret],
            vec![i(0x15, 1, 0, 0), ret],
            vec![i(0x34, 0, 0, 0), ret],
            vec![i(0x74, 0, 0, 32), ret],
            vec![i(0x02, 0, 0, 16), ret],
            // A load of a byte, and an indirect one: of packets, not of system calls.
            vec![i(0x30, 0, 0, 0), ret],
            vec![i(0x40, 0, 0, 0), ret],
        ];
        assert!(is_valid(&[ret]));
        for p in bad {
            assert!(!is_valid(&p), "{p:?}");
        }
    }
}
