//! What lockstep says about a difference: everything needed to understand and reproduce it.

use super::plan::{Path, Plan};
use super::{Claim, Lockstep};
use crate::Vcpu;
use iced_x86::{Code, Decoder, DecoderOptions, Formatter, GasFormatter};
use std::fmt::{Debug, Write as _};
use xlat86_arch::{CpuState, FxState, Gva, eflags};

impl Vcpu {
    /// Describes how the current state differs from what was expected. `None`: only where the manual leaves things undefined.
    pub(super) fn report(&mut self, l: &Lockstep, path: &Path, plan: &Plan, claim: Claim) -> Option<String> {
        let differences = self.differences(l, path, claim);
        if differences.is_empty() {
            return None;
        }
        let eip = plan.key.eip();
        let mut out = format!("code at {eip:08x} differs:\n{differences}\nguest code:\n");
        let bytes = self.guest_bytes(eip, plan.info.len);
        listing(&mut out, 32, eip.into(), &bytes);
        out.push_str("\nhost code:\n");
        let (arena, code) = (self.arena.as_ref().expect("translating"), &plan.info.code);
        listing(&mut out, 64, 0, &arena.read(code.start as usize, code.len()));
        let way: Vec<String> = path.insns(l.insns).map(|i| format!("{:x}", i.eip())).collect();
        let _ = writeln!(out, "\nthe interpreter's way: {}", way.join(" "));
        let _ = writeln!(out, "\nstate before:\n{}", registers(&l.before));
        let _ = writeln!(out, "state after (interpreter):\n{}", registers(&l.expected));
        let _ = writeln!(out, "state after (translated):\n{}", registers(&self.state));
        let _ = writeln!(out, "changes by the interpreter, and what is there after translated code:");
        for c in &l.changes {
            let mut now = *c;
            self.mmu.note(core::slice::from_mut(&mut now));
            let _ =
                writeln!(out, "  [{:08x}] {} -> {}, {}", c.at, hex(c.old()), hex(c.new_bytes()), hex(now.new_bytes()));
        }
        let _ = writeln!(out, "to reproduce: the bytes {} at {eip:08x} from the state before", hex(&bytes));
        Some(out)
    }

    /// What differs, a line each.
    pub(super) fn differences(&mut self, l: &Lockstep, path: &Path, claim: Claim) -> String {
        let mut out = String::new();
        let (a, b) = (&l.expected, &self.state);
        for (name, i) in ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"].iter().zip(0..) {
            differ(&mut out, name, &Hex(a.gpr[i].into()), &Hex(b.gpr[i].into()));
        }
        differ(&mut out, "eip", &Hex(a.eip.into()), &Hex(b.eip.into()));
        for (name, i) in ["es", "cs", "ss", "ds", "fs", "gs"].iter().zip(0..) {
            differ(&mut out, name, &a.seg[i], &b.seg[i]);
        }
        differ(&mut out, "ldtr, tr", &(a.ldtr, a.tr), &(b.ldtr, b.tr));
        differ(&mut out, "gdtr, idtr", &(a.gdtr, a.idtr), &(b.gdtr, b.idtr));
        differ(&mut out, "cr0 to 4", &(a.cr0, a.cr2, a.cr3, a.cr4), &(b.cr0, b.cr2, b.cr3, b.cr4));
        differ(&mut out, "dr", &a.dr, &b.dr);
        differ(&mut out, "msr", &a.msr, &b.msr);
        let rest = |s: &CpuState| (s.cpl, s.halted, s.nmi_masked);
        differ(&mut out, "cpl, halted, NMI", &rest(a), &rest(b));
        if b.interrupt_shadow {
            differ(&mut out, "interrupt shadow", &a.interrupt_shadow, &true);
        }
        if l.float {
            float_state(&mut out, &a.fx, &b.fx);
        }
        if claim == Claim::Behind {
            differ(&mut out, "fault", &l.fault, &None);
        }
        let (a, b) = (a.eflags, b.eflags);
        if a != b {
            let defined = !undefined_flags(l, path) & !stale_flags(l, path, claim);
            differ(&mut out, "eflags", &Hex((a & defined).into()), &Hex((b & defined).into()));
        }
        for c in &l.changes {
            let mut now = *c;
            self.mmu.note(core::slice::from_mut(&mut now));
            differ(&mut out, &format!("[{:08x}]", c.at), &Bytes(c.new_bytes()), &Bytes(now.new_bytes()));
        }
        for w in l.walks.iter().filter(|w| w.old() != w.new_bytes() && !l.changes.iter().any(|c| c.at == w.at)) {
            differ(&mut out, &format!("page-table entry [{:08x}]", w.at), &Bytes(w.old()), &Bytes(w.new_bytes()));
        }
        out
    }
}

/// Status flags that don't matter where translated code was left. It may say so itself ([`xlat86_translator::BlockInfo::stale`]); and a POPF that turns
/// out to be the interpreter's business has been looked at by then, for which the flags that it replaces were free.
fn stale_flags(l: &Lockstep, path: &Path, claim: Claim) -> u32 {
    let eip = l.expected.eip;
    let end = path.positions(eip).into_iter().find(|p| p.done == l.insns).filter(|_| claim == Claim::Before);
    let Some((plan, n)) = end.and_then(|p| p.before) else { return 0 };
    let replaced = plan.insns.get(n).is_some_and(|i| i.code() == Code::Popfd);
    if replaced || plan.info.stale.contains(&eip) { eflags::STATUS } else { 0 }
}

/// Status flags that the manual leaves undefined at the end of the replay.
fn undefined_flags(l: &Lockstep, path: &Path) -> u32 {
    path.insns(l.insns).fold(0, |undefined, insn| {
        let i = &insn.iced;
        let settled = i.rflags_written() | i.rflags_cleared() | i.rflags_set();
        (undefined & !to_eflags(settled)) | to_eflags(i.rflags_undefined())
    })
}

fn differ<T: Debug + PartialEq>(out: &mut String, name: &str, interp: &T, dbt: &T) {
    if interp != dbt {
        let _ = writeln!(out, "  {name:<8} interpreter {interp:x?}, translated {dbt:x?}");
    }
}

fn float_state(out: &mut String, a: &FxState, b: &FxState) {
    let words = [("fcw", a.fcw, b.fcw), ("fsw", a.fsw, b.fsw), ("ftw", a.ftw.into(), b.ftw.into())];
    for (name, a, b) in words {
        differ(out, name, &Hex(a.into()), &Hex(b.into()));
    }
    differ(out, "mxcsr", &Hex(a.mxcsr.into()), &Hex(b.mxcsr.into()));
    for i in 0..8 {
        differ(out, &format!("st{i}"), &Hex(u128::from_le_bytes(a.st[i])), &Hex(u128::from_le_bytes(b.st[i])));
        differ(out, &format!("xmm{i}"), &Hex(a.xmm[i]), &Hex(b.xmm[i]));
    }
}

#[derive(PartialEq)]
struct Hex(u128);

impl Debug for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

#[derive(PartialEq)]
struct Bytes<'a>(&'a [u8]);

impl Debug for Bytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(self.0))
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
         eflags={:08x} cpl={}\n{:?}",
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
        s.cpl,
        s.fx
    )
}
