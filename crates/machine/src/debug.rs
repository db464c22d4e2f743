//! Carrying out requests: what the monitor and the control socket see of a machine.

use crate::board::End;
use crate::control::{About, Answer, Request};
use crate::machine::Powered;
use std::collections::BTreeMap;
use std::fmt::Write;
use xlat86_arch::{CpuState, Reg, Seg};
use xlat86_vcpu::Exit;

/// Most memory in one answer.
const MOST: usize = 1 << 20;
/// Most instructions of one request: others wait for it.
const MOST_STEPS: u32 = 1_000_000;
const SEGMENTS: [(&str, Seg); 6] =
    [("es", Seg::Es), ("cs", Seg::Cs), ("ss", Seg::Ss), ("ds", Seg::Ds), ("fs", Seg::Fs), ("gs", Seg::Gs)];
const GENERAL: [(&str, Reg); 8] = [
    ("eax", Reg::Eax),
    ("ebx", Reg::Ebx),
    ("ecx", Reg::Ecx),
    ("edx", Reg::Edx),
    ("esi", Reg::Esi),
    ("edi", Reg::Edi),
    ("ebp", Reg::Ebp),
    ("esp", Reg::Esp),
];

fn registers(s: &CpuState) -> BTreeMap<String, u32> {
    let general = GENERAL.iter().map(|&(n, r)| (n, s.reg(r)));
    let selectors = SEGMENTS.iter().map(|&(n, r)| (n, s.segment(r).selector.into()));
    let control =
        [("eip", s.eip), ("eflags", s.eflags), ("cr0", s.cr0), ("cr2", s.cr2), ("cr3", s.cr3), ("cr4", s.cr4)];
    let rest = [("cpl", s.cpl.into()), ("halted", s.halted.into())];
    general.chain(selectors).chain(control).chain(rest).map(|(n, v)| (n.to_owned(), v)).collect()
}

/// The CPU's registers, for people.
pub(crate) fn describe_registers(s: &CpuState) -> String {
    let mut t = String::new();
    let line = |t: &mut String, items: &[(&str, u32)]| {
        for (i, (name, v)) in items.iter().enumerate() {
            let _ = write!(t, "{}{name:<6} {v:08x}", if i == 0 { "" } else { "   " });
        }
        t.push('\n');
    };
    let general: Vec<_> = GENERAL.iter().map(|&(n, r)| (n, s.reg(r))).collect();
    general.chunks(4).for_each(|four| line(&mut t, four));
    line(&mut t, &[("eip", s.eip), ("eflags", s.eflags), ("cpl", s.cpl.into()), ("halted", s.halted.into())]);
    line(&mut t, &[("cr0", s.cr0), ("cr2", s.cr2), ("cr3", s.cr3), ("cr4", s.cr4)]);
    for (name, seg) in SEGMENTS {
        let d = s.segment(seg);
        let _ = writeln!(
            t,
            "{name:<6} {:04x}  base {:08x}  limit {:08x}  attributes {:04x}",
            d.selector, d.base, d.limit, d.attr.0
        );
    }
    for (name, d) in [("ldtr", &s.ldtr), ("tr", &s.tr)] {
        let _ = writeln!(
            t,
            "{name:<6} {:04x}  base {:08x}  limit {:08x}  attributes {:04x}",
            d.selector, d.base, d.limit, d.attr.0
        );
    }
    for (name, d) in [("gdtr", &s.gdtr), ("idtr", &s.idtr)] {
        let _ = writeln!(t, "{name:<6}       base {:08x}  limit {:08x}", d.base, d.limit);
    }
    t
}

impl Powered {
    /// Does what `request` asks for.
    pub(crate) fn carry_out(&mut self, request: Request) -> Answer {
        let or = |ok: bool, why: &str| if ok { Answer::Done } else { Answer::Error(why.to_owned()) };
        match request {
            Request::Registers => Answer::Registers(registers(self.vcpu.state())),
            Request::Read { address, length, physical } => self.read(address, length, physical),
            Request::Info { about } => Answer::Text(self.describe(about)),
            Request::Serial { text } => {
                self.input.push(text.as_bytes());
                Answer::Done
            }
            Request::Key { name, press } => {
                let known = self.with_pc(|pc| match press {
                    Some(press) => pc.key(&name, press),
                    None => pc.key(&name, true) && pc.key(&name, false),
                });
                or(known, "there is no such key")
            }
            Request::PowerButton => {
                self.with_pc(crate::pc::Pc::press_power_button);
                Answer::Done
            }
            Request::Pause => {
                self.paused = true;
                Answer::Done
            }
            Request::Resume => {
                self.paused = false;
                Answer::Done
            }
            Request::Step { .. } if !self.paused => or(false, "pause the machine first"),
            Request::Step { count } if count > MOST_STEPS => {
                Answer::Error(format!("at most {MOST_STEPS} instructions at a time"))
            }
            Request::Step { count } => {
                for _ in 0..count {
                    if let Some(end) = self.with_pc(|pc| pc.power.ended()) {
                        return Answer::Text(format!("ended: {end:?}"));
                    }
                    if let Some(exit) = self.step() {
                        return Answer::Text(format!("stopped: {exit:?}"));
                    }
                }
                Answer::Registers(registers(self.vcpu.state()))
            }
            Request::Quit => {
                self.with_pc(|pc| pc.power.end(End::Quit));
                Answer::Done
            }
        }
    }

    /// Executes one instruction, or delivers an interrupt that waits.
    fn step(&mut self) -> Option<Exit> {
        if let Some(exit) = self.interrupts() {
            return Some(exit);
        }
        match self.vcpu.step() {
            // The request's own ring of the doorbell.
            Some(Exit::Interrupted) => self.vcpu.step(),
            other => other,
        }
    }

    fn read(&mut self, address: u64, length: usize, physical: bool) -> Answer {
        if length > MOST {
            return Answer::Error(format!("at most {MOST} bytes at a time"));
        }
        let mut bytes = vec![0; length];
        let there = if physical {
            self.memory.read(address, &mut bytes).is_ok()
        } else {
            u32::try_from(address).is_ok_and(|gva| self.vcpu.guest_read(gva, &mut bytes))
        };
        if !there {
            return Answer::Error(format!("not all of that is {}", if physical { "RAM" } else { "mapped" }));
        }
        Answer::Memory(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    fn describe(&mut self, about: About) -> String {
        let memory = |name: &str| name.starts_with("tlb") || name == "page_faults" || name == "mmio";
        let shadow = |name: &str| name.starts_with("shadow");
        match about {
            About::Registers => describe_registers(self.vcpu.state()),
            About::Irq => self.with_pc(|pc| pc.describe_interrupts()),
            About::Tlb => self.counters(memory),
            About::Shadow => self.counters(shadow),
            About::Blocks => self.counters(|name| !memory(name) && !shadow(name)),
        }
    }

    /// The counters whose names `belongs` takes, a line each.
    fn counters(&mut self, belongs: impl Fn(&str) -> bool) -> String {
        let all = self.stats().counters();
        let lines = all.iter().filter(|(name, _)| belongs(name)).map(|(name, v)| format!("{name:<22} {v}\n"));
        lines.collect()
    }
}
