//! Writes what iced knows about each code as a constant table.
//!
//! iced computes its descriptions, texts included, all at once when the first one is asked for: several milliseconds, longer than a
//! small guest program runs.

use iced_x86::{
    Code, EncodingKind, Instruction, InstructionInfoFactory, InstructionInfoOptions, MandatoryPrefix, OpAccess, OpKind,
    Register,
};
use std::fmt::Write as _;
use std::path::Path;

/// Does `code` write to its first operand when that is memory?
fn writes_first(code: Code) -> bool {
    let mut insn = Instruction::default();
    insn.set_code(code);
    insn.set_op0_kind(OpKind::Memory);
    insn.set_memory_base(Register::EAX);
    let only = InstructionInfoOptions::NO_MEMORY_USAGE | InstructionInfoOptions::NO_REGISTER_USAGE;
    let access = InstructionInfoFactory::new().info_options(&insn, only).op0_access();
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let mut out = String::from("[\n");
    for code in Code::values() {
        let op = code.op_code();
        let mut kinds = [0; 5];
        for (to, from) in kinds.iter_mut().zip(op.op_kinds()) {
            *to = *from as u8;
        }
        let mandatory = match op.mandatory_prefix() {
            MandatoryPrefix::P66 => 0x66,
            MandatoryPrefix::PF2 => 0xf2,
            MandatoryPrefix::PF3 => 0xf3,
            _ => 0,
        };
        let legacy = op.encoding() == EncodingKind::Legacy && (op.mode16() || op.mode32()) && op.is_instruction();
        let _ = writeln!(
            out,
            "Facts {{ op_count: {}, op_kinds: {kinds:?}, mandatory_prefix: {mandatory}, legacy: {legacy}, repeats: {}, \
             group: {}, wait: {}, operand_size: {}, address_size: {}, writes_first: {} }},",
            op.op_count(),
            op.can_use_rep_prefix() || op.can_use_repne_prefix(),
            op.is_group() || op.is_rm_group(),
            op.fwait(),
            op.operand_size(),
            op.address_size(),
            op.op_count() > 0 && writes_first(code),
        );
    }
    out.push_str("]\n");
    let folder = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(Path::new(&folder).join("facts.rs"), out).expect("OUT_DIR is writable");
}
