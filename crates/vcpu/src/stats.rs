//! What running has cost.

use iced_x86::Code;
use std::fmt;
use xlat86_softmmu::{MmuStats, ShadowStats};
use xlat86_translator::CacheStats;

/// Counters of one run, shown by `--stats`.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    /// What the translation cache did.
    pub cache: CacheStats,
    /// What a system's software TLBs did.
    pub mmu: MmuStats,
    /// What a system's shadow windows did.
    pub shadow: ShadowStats,
    /// Times translated code was entered.
    pub entries: u64,
    /// Leaves because a direct jump wasn't chained yet.
    pub leave_link: u64,
    /// Leaves because an indirect jump found no translation.
    pub leave_miss: u64,
    /// Leaves for an instruction that the interpreter executes.
    pub leave_interpret: u64,
    /// Leaves of a system for a sensitive instruction that is dealt with without the interpreter.
    pub leave_quick: u64,
    /// Leaves because a checked access had to go the slow way.
    pub leave_access: u64,
    /// Leaves because a translation found its guest code changed.
    pub leave_changed: u64,
    /// Leaves for a system call or another software interrupt.
    pub leave_soft_int: u64,
    /// Leaves because of a host fault.
    pub leave_fault: u64,
    /// Leaves because something asynchronous happened.
    pub leave_async: u64,
    /// Guest returns that didn't come back to their call.
    pub return_mismatches: u64,
    /// Instructions that the interpreter executed.
    pub interpreted: u64,
    /// Units dropped because an access through a window kept being a page fault, to be made anew without.
    pub retranslated: u64,
    /// Writes to pages holding translated code.
    pub code_writes: u64,
    /// Blocks compared in lockstep.
    pub lockstep_blocks: u64,
    /// Instructions in them.
    pub lockstep_insns: u64,
    /// What a system's CPU left translated code for most, to have it interpreted, and how often.
    pub most_interpreted: [Option<(Code, u64)>; 16],
}

impl Stats {
    /// Adds the counters of a CPU that ends.
    pub(crate) fn add(&mut self, o: &Stats) {
        self.mmu += o.mmu;
        self.shadow += o.shadow;
        self.entries += o.entries;
        self.leave_link += o.leave_link;
        self.leave_miss += o.leave_miss;
        self.leave_interpret += o.leave_interpret;
        self.leave_quick += o.leave_quick;
        self.retranslated += o.retranslated;
        self.leave_access += o.leave_access;
        self.leave_changed += o.leave_changed;
        self.leave_soft_int += o.leave_soft_int;
        self.leave_fault += o.leave_fault;
        self.leave_async += o.leave_async;
        self.return_mismatches += o.return_mismatches;
        self.interpreted += o.interpreted;
        self.code_writes += o.code_writes;
        self.lockstep_blocks += o.lockstep_blocks;
        self.lockstep_insns += o.lockstep_insns;
        if o.most_interpreted[0].is_some() {
            self.most_interpreted = o.most_interpreted;
        }
    }
}

impl Stats {
    /// All counters by name, for programs to read. Times are in nanoseconds.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, u64); 36] {
        let c = &self.cache;
        [
            ("units", c.units),
            ("adopted", c.adopted),
            ("insns", c.insns),
            ("guest_bytes", c.guest_bytes),
            ("host_bytes", c.host_bytes),
            ("translation_ns", c.time.as_nanos() as u64),
            ("chains", c.chains),
            ("invalidated", c.invalidated),
            ("retired", c.retired),
            ("evicted", c.evicted),
            ("evictions", c.evictions),
            ("entries", self.entries),
            ("leave_link", self.leave_link),
            ("leave_miss", self.leave_miss),
            ("leave_interpret", self.leave_interpret),
            ("leave_quick", self.leave_quick),
            ("leave_access", self.leave_access),
            ("leave_changed", self.leave_changed),
            ("leave_soft_int", self.leave_soft_int),
            ("leave_fault", self.leave_fault),
            ("leave_async", self.leave_async),
            ("return_mismatches", self.return_mismatches),
            ("interpreted", self.interpreted),
            ("code_writes", self.code_writes),
            ("leaves", self.leaves()),
            ("tlb_fills", self.mmu.fills),
            ("tlb_flushes", self.mmu.flushes),
            ("page_faults", self.mmu.page_faults),
            ("mmio", self.mmu.mmio),
            ("retranslated", self.retranslated),
            ("shadow_windows", self.shadow.windows),
            ("shadow_dropped", self.shadow.dropped),
            ("shadow_mapped", self.shadow.mapped),
            ("shadow_unmapped", self.shadow.unmapped),
            ("shadow_resyncs", self.shadow.resyncs),
            ("shadow_changed_tables", self.shadow.changed_tables),
        ]
    }

    /// Times that translated code was left, for any reason.
    #[must_use]
    pub fn leaves(&self) -> u64 {
        let for_code =
            self.leave_link + self.leave_miss + self.leave_interpret + self.leave_access + self.leave_changed;
        for_code + self.leave_quick + self.leave_soft_int + self.leave_fault + self.leave_async
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.cache;
        let per = |a: f64, b: u64| if b == 0 { 0.0 } else { a / b as f64 };
        let rows: [(&str, String); 25] = [
            ("units translated", c.units.to_string()),
            ("units of earlier runs", c.adopted.to_string()),
            ("guest instructions translated", c.insns.to_string()),
            ("host bytes per guest byte", format!("{:.2}", per(c.host_bytes as f64, c.guest_bytes))),
            ("translation time per guest instruction", format!("{:.0} ns", per(c.time.as_nanos() as f64, c.insns))),
            ("jumps chained", c.chains.to_string()),
            ("units invalidated", c.invalidated.to_string()),
            ("units outdated", c.retired.to_string()),
            ("units evicted", c.evicted.to_string()),
            ("regions evicted", c.evictions.to_string()),
            ("entries", self.entries.to_string()),
            ("leaves: unchained jump", self.leave_link.to_string()),
            ("leaves: indirect jump without translation", self.leave_miss.to_string()),
            ("leaves: interpreted instruction", self.leave_interpret.to_string()),
            ("leaves: quick sensitive instruction", self.leave_quick.to_string()),
            ("leaves: slow memory access", self.leave_access.to_string()),
            ("leaves: guest code changed", self.leave_changed.to_string()),
            ("leaves: software interrupt", self.leave_soft_int.to_string()),
            ("leaves: host fault", self.leave_fault.to_string()),
            ("leaves: asynchronous", self.leave_async.to_string()),
            ("return mismatches", self.return_mismatches.to_string()),
            ("instructions interpreted", self.interpreted.to_string()),
            ("writes to translated pages", self.code_writes.to_string()),
            ("blocks compared in lockstep", self.lockstep_blocks.to_string()),
            ("instructions compared in lockstep", self.lockstep_insns.to_string()),
        ];
        for (name, value) in rows {
            writeln!(f, "{name:<44}{value:>16}")?;
        }
        let (m, s) = (&self.mmu, &self.shadow);
        let system: [(&str, u64); 11] = [
            ("TLB: pages filled in", m.fills),
            ("TLB: flushes", m.flushes),
            ("guest page faults", m.page_faults),
            ("accesses to devices by memory", m.mmio),
            ("units retranslated for their page faults", self.retranslated),
            ("shadow: windows made", s.windows),
            ("shadow: windows dropped", s.dropped),
            ("shadow: pages mapped", s.mapped),
            ("shadow: pages unmapped", s.unmapped),
            ("shadow: windows compared with page tables", s.resyncs),
            ("shadow: page tables that had changed", s.changed_tables),
        ];
        // A user program has none of this.
        for (name, value) in system.iter().filter(|_| m.fills != 0) {
            writeln!(f, "{name:<44}{value:>16}")?;
        }
        for (code, n) in self.most_interpreted.iter().flatten() {
            writeln!(f, "{:<44}{n:>16}", format!("interpreted: {code:?}"))?;
        }
        Ok(())
    }
}
