//! Where blocks end, and what they say about it.

use xlat86_arch::{CpuModel, Features, Mode};
use xlat86_decoder::{Block, BlockEnd, Kind, decode_block, decode_block_into, decode_insn};

const NOP: u8 = 0x90;
const CALL: [u8; 5] = [0xe8, 0, 0, 0, 0];

fn block(bytes: &[u8], page_left: usize, mode: Mode, limit: usize) -> Block {
    decode_block(bytes, 0x1000, page_left, mode, CpuModel::MAX.features, limit)
}

fn check(bytes: &[u8], page_left: usize, limit: usize, insns: usize, len: u32, end: BlockEnd, crosses: bool) {
    let b = block(bytes, page_left, Mode::USER32, limit);
    assert_eq!((b.insns.len(), b.len, b.end, b.crosses_page), (insns, len, end, crosses), "{bytes:02x?}");
}

#[test]
fn ends() {
    use BlockEnd::{ControlFlow, Invalid, Limit, PageEnd, Truncated};
    let nops = [NOP; 16];
    let call = [&[NOP, NOP][..], &CALL, &nops].concat();
    check(&call, 4096, 64, 3, 7, ControlFlow, false);
    check(&nops, 4096, 3, 3, 3, Limit, false);
    check(&nops, 4096, 0, 1, 1, Limit, false);
    check(&[NOP, 0x0f, 0x0b, NOP], 4096, 64, 2, 3, Invalid, false);
    // The page ends: after an instruction, inside a later one, inside the first one, and just after a jump.
    check(&nops, 5, 64, 5, 5, PageEnd, false);
    check(&call, 6, 64, 2, 2, PageEnd, false);
    check(&call[..6], 6, 64, 2, 2, PageEnd, false);
    check(&call[2..], 1, 64, 1, 5, ControlFlow, true);
    check(&[0x05, 0, 0, 0, 0, NOP], 4, 64, 1, 5, PageEnd, true);
    check(&call, 7, 64, 3, 7, ControlFlow, false);
    // The bytes end.
    check(&[], 4096, 64, 0, 0, Truncated, false);
    check(&call[2..5], 3, 64, 0, 0, Truncated, false);
    check(&call[..6], 4096, 64, 2, 2, Truncated, false);
}

#[test]
fn trap_flag_makes_blocks_of_one() {
    let b = block(&[NOP; 4], 4096, Mode(Mode::USER32.0 | Mode::TRAP), 64);
    assert_eq!((b.insns.len(), b.end), (1, BlockEnd::Limit));
}

#[test]
fn mode_changes_end_blocks() {
    // MOV SS; POPF; STI; MOV CR0; MOV DR7; LGDT doesn't, nor do CLI, IN and MOV from CR0.
    for bytes in [&[0x8e, 0xd0][..], &[0x9d], &[0xfb], &[0x0f, 0x22, 0xc0], &[0x0f, 0x23, 0xf8]] {
        let b = block(&[bytes, &[NOP; 2]].concat(), 4096, Mode::USER32, 64);
        assert_eq!((b.insns.len(), b.end), (1, BlockEnd::ControlFlow), "{bytes:02x?}");
        assert_eq!(b.insns[0].kind, Kind::Sensitive);
    }
    for bytes in [&[0x0f, 0x01, 0x10][..], &[0xfa], &[0xe4, 0x60], &[0x0f, 0x20, 0xc0]] {
        let b = block(&[bytes, &[NOP, 0xc3]].concat(), 4096, Mode::USER32, 64);
        assert_eq!((b.insns.len(), b.insns[0].kind), (3, Kind::Sensitive), "{bytes:02x?}");
    }
}

#[test]
fn addresses_wrap_at_4_gb() {
    let b = decode_block(&[NOP, NOP, 0xeb, 0xfc], u32::MAX, 4096, Mode::USER32, CpuModel::MAX.features, 64);
    let eips: Vec<u32> = b.insns.iter().map(|i| i.eip()).collect();
    assert_eq!(eips, [u32::MAX, 0, 1]);
    assert_eq!(b.insns[2].iced.near_branch32(), u32::MAX);
}

#[test]
fn sixteen_bit_targets_wrap_at_64_kb() {
    let b = decode_block(&[0xeb, 0x10], 0xfff8, 4096, Mode(0), CpuModel::MAX.features, 64);
    assert_eq!(b.insns[0].iced.near_branch16(), 0x000a);
}

#[test]
fn a_reused_block_forgets_what_it_held() {
    let mut b = block(&CALL, 2, Mode::USER32, 64);
    assert!(b.crosses_page);
    decode_block_into(&mut b, &[NOP, 0xc3], 7, 4096, Mode::USER32, CpuModel::MAX.features, 64);
    assert_eq!(b, decode_block(&[NOP, 0xc3], 7, 4096, Mode::USER32, CpuModel::MAX.features, 64));
}

#[test]
fn one_instruction_is_what_it_is_in_a_block() {
    let bytes = (0..=255).map(|modrm| [0x8e, modrm]).chain([
        [0x0f, 0xa2],
        [0x9d, 0x0f],
        [0x66, 0x9d],
        [0x66, 0x8e],
        [0x0f, 0x0b],
    ]);
    for bytes in bytes.map(|[a, b]| [a, b, 0xd8, NOP, 0, 0, 0, 0]) {
        for mode in [Mode::USER32, Mode::default(), Mode(Mode::USER32.0 | Mode::TRAP)] {
            for (features, eip) in [(CpuModel::MAX.features, 0x1234), (Features::default(), u32::MAX - 1)] {
                let alone = decode_insn(&bytes, eip, mode, features).expect("whole");
                let among = decode_block(&bytes, eip, 4096, mode, features, 1).insns[0];
                assert_eq!(alone, among);
                let all = |i: &iced_x86::Instruction| (i.ip(), i.next_ip(), i.len(), i.code_size(), format!("{i:?}"));
                assert_eq!(all(&alone.iced), all(&among.iced), "{bytes:02x?} at {eip:x} in {mode:?}");
            }
        }
    }
    assert!(decode_insn(&[0x0f], 0, Mode::USER32, CpuModel::MAX.features).is_none());
    assert!(decode_insn(&[0x8e], 0, Mode::USER32, CpuModel::MAX.features).is_none());
}
