//! The dispatcher of a CPU that carries a whole system.
//!
//! It differs from a user program's ([`crate::dbt`]) in what code is: what lies at an address depends on the guest's page tables, so code
//! is found by physical page and mode, and the jump table, which knows only addresses, is one of several ([`Spaces`]). Accesses that
//! the software TLB can't answer come here; most are answered by filling it, and the instruction starts again.

use crate::crossing::{Cross, in_gdt};
use crate::dbt::{apply, segments_permit};
use crate::fx;
use crate::fx::Home;
use crate::process::Connect;
use crate::quick::Crossed;
use crate::system::spaces::Spaces;
use crate::system::window::{WindowFault, Windows};
use crate::{Engine, Exit, Vcpu};
use xlat86_arch::{CpuState, Gva, Mode, PAGE_SIZE, Seg, Segment, cr0, cr4, eflags};
use xlat86_decoder::MAX_INSN_LEN;
use xlat86_host::{Left, with_pending};
use xlat86_interp::Stop;
use xlat86_softmmu::Mmu;
use xlat86_translator::{Cache, CodeKey, ExitKind, Full, Place, Quick, Source, Tables};

/// Instructions that the interpreter executes at a time where code isn't translated.
const STRETCH: u64 = 256;

/// Why the CPU is outside translated code.
pub(crate) enum Outside {
    /// Go on at EIP, and spare the next one this leave.
    Connect(Connect),
    /// Go on at EIP, maybe under another mode.
    Go,
    /// The same, and note that this is where the instruction leads.
    Cross(Cross),
    /// Go on at EIP, with each access checked by itself; always, where left at this host address, if given.
    Careful(Option<u64>),
    /// The interpreter executes the instruction at EIP.
    Interpret,
    /// Something asynchronous wants attention.
    Stopped,
}

impl Vcpu {
    pub(crate) fn run_system_translated(&mut self) -> Exit {
        loop {
            if let Some(exit) = self.attend() {
                return exit;
            }
            if let Some(exit) = self.run_until_event() {
                return exit;
            }
        }
    }

    /// Runs until there may be something to attend to. `None`: look.
    fn run_until_event(&mut self) -> Option<Exit> {
        let mut connect = None;
        let mut mode = self.translatable_mode();
        let mut careful = 0;
        let mut cross = None;
        loop {
            if self.lockstep.is_some() && self.is_time_up() {
                return None;
            }
            let outside = if self.state.interrupt_shadow {
                // What holds interrupts off lasts for one instruction, after which somebody has to look.
                Outside::Interpret
            } else {
                let Some(mode) = mode else { return self.interpret_stretch() };
                let mode = self.choose_reach(mode);
                let mode = Mode(mode.0 | core::mem::take(&mut careful));
                match self.system_code(mode, connect.take().filter(|_| self.lockstep.is_none())) {
                    Some(offset) if self.lockstep.is_some() => match self.lockstep_system(mode, offset, cross.take()) {
                        Ok(outside) => outside,
                        Err(text) => return Some(Exit::Diverged(text)),
                    },
                    Some(offset) => {
                        let cross = cross.take();
                        self.timed(mode, |cpu| cpu.enter_system(offset, cross))
                    }
                    None => Outside::Interpret,
                }
            };
            cross = None;
            match outside {
                Outside::Cross(how) => {
                    if self.must_attend() {
                        return None;
                    }
                    cross = Some(how);
                }
                Outside::Connect(how) => connect = Some(how),
                Outside::Stopped => return None,
                Outside::Careful(site) => {
                    connect = site.map(|site| Connect::Jump { site });
                    careful = Mode::CAREFUL;
                }
                Outside::Go => {
                    if self.must_attend() {
                        return None;
                    }
                }
                Outside::Interpret => {
                    let shadow = self.state.interrupt_shadow;
                    if let Some(exit) = self.step_system() {
                        return Some(exit);
                    }
                    if shadow || self.must_attend() || Self::pending() {
                        return None;
                    }
                }
            }
            mode = self.translatable_mode();
        }
    }

    /// The mode to translate under, if the current one is translated: flat 32-bit protected mode at CPL 0 or 3, without anything that has
    /// to be looked at after or during each instruction.
    pub(crate) fn translatable_mode(&self) -> Option<Mode> {
        /// Enable bits of DR7.
        const BREAKPOINTS: u32 = 0xff;
        const FLAT32: u16 = Mode::CODE32 | Mode::STACK32 | Mode::FLAT | Mode::PROTECTED;
        let s = &self.state;
        let mut mode = s.mode();
        let alignment = s.cpl == 3 && s.cr0 & cr0::AM != 0 && s.eflags & eflags::AC != 0;
        let plain = mode.has(FLAT32)
            && mode.0 & (Mode::VM86 | Mode::TRAP) == 0
            && matches!(s.cpl, 0 | 3)
            && s.dr[7] & BREAKPOINTS == 0
            && !alignment
            && segments_permit(s);
        if !plain {
            return None;
        }
        if s.cpl == 3 && s.cr4 & cr4::TSD != 0 || !self.platform.io.as_ref().is_some_and(|io| io.is_host_clock()) {
            mode.0 |= Mode::TSC_OFF;
        }
        if is_open(s.segment(Seg::Fs)) {
            mode.0 |= Mode::FS_OPEN;
        }
        // Kernels that keep their own data behind FS leave GS to the program: their code is the same whatever that has in it.
        if is_open(s.segment(Seg::Gs)) && (s.cpl == 3 || !mode.has(Mode::FS_OPEN)) {
            mode.0 |= Mode::GS_OPEN;
        }
        Some(mode)
    }

    /// Arena offset of the code for EIP under `mode`, to be connected as `connect` says. `None`: the interpreter finds out why there is none.
    pub(crate) fn system_code(&mut self, mode: Mode, connect: Option<Connect>) -> Option<u32> {
        self.mmu.sync(&self.state);
        self.choose_space(Mode(mode.0 & !Mode::CAREFUL));
        let eip = self.state.eip;
        let page = self.mmu.code_page(Gva(eip)).ok().filter(|&p| p < 1 << 20)?;
        let key = CodeKey::new(eip, page, mode);
        let generation = self.process.generation();
        let crosses = eip % PAGE_SIZE > PAGE_SIZE - MAX_INSN_LEN as u32;
        if !self.spaces().is_noted(eip >> 12) {
            let process = self.process.clone();
            self.note_page(eip >> 12, page, process.cache().tables());
        }
        let memo = &mut self.system.as_mut().expect("a system's CPU").memo;
        if connect.is_none()
            && let Some(offset) = memo.get(key, generation)
        {
            return Some(offset);
        }
        let process = self.process.clone();
        loop {
            let mut cache = process.cache();
            if crosses && let Some(second) = cache.second_page(key) {
                // It holds as long as the guest has the same page behind the first.
                if self.mmu.code_page(next_page(eip)) != Ok(second) {
                    cache.forget(key);
                    process.dropped();
                }
            }
            if let Some(offset) = cache.lookup(key) {
                if crosses && let Some(second) = cache.second_page(key) {
                    self.note_page(next_page(eip).page(), second, cache.tables());
                }
                match connect {
                    Some(Connect::Jump { site }) => cache.chain(site),
                    Some(Connect::Table) => {
                        let global = |page| self.mmu.peek_code(page).is_some_and(|p| p.1);
                        let global = global(eip >> 12) && (!crosses || global(next_page(eip).page()));
                        cache.publish(self.spaces().current(), key, global);
                    }
                    Some(Connect::Changed { .. }) | None => {}
                }
                if !crosses {
                    self.system_mut().memo.put(key, generation, offset);
                }
                return Some(offset);
            }
            let mut source = PagedCode {
                mmu: &mut self.mmu,
                windows: &self.system.as_ref().expect("a system's CPU").windows,
                cache: &cache,
                key,
                mode,
                pages: Vec::new(),
            };
            let unit = process.translate(&cache, eip, mode, &mut source)?;
            let pages = source.pages;
            let inserted = process.insert(&mut cache, unit, key, pages);
            drop(cache);
            if inserted == Err(Full) {
                process.evict();
            }
        }
    }

    /// Code on linear page `page`, which is physical page `physical`, is about to be entered.
    #[cold]
    fn note_page(&mut self, page: u32, physical: u32, tables: &mut Tables) {
        let global = self.mmu.peek_code(page).is_some_and(|p| p.1);
        self.spaces().note(page, physical, global, tables);
    }

    fn spaces(&mut self) -> &mut Spaces {
        &mut self.system.as_mut().expect("a system's CPU").spaces
    }

    /// Sees to it that the jump table in use is right for `mode` and the current address space.
    fn choose_space(&mut self, mode: Mode) {
        self.see_forgotten();
        let spaces = &mut self.system.as_mut().expect("a system's CPU").spaces;
        let frame = self.frame.as_mut().expect("translating");
        let cr3 = self.state.cr3;
        if !spaces.is_current(mode, cr3) {
            let chosen = spaces
                .choose_at_once(mode, cr3)
                .unwrap_or_else(|| spaces.choose(mode, cr3, self.process.cache().tables(), &self.mmu));
            frame.use_returns(usize::from(mode.has(Mode::USER)), chosen.base, chosen.changed);
            if chosen.changed {
                frame.forget_crossings();
            }
            if chosen.replaced && mode.has(Mode::USER) {
                self.mmu.cool();
            }
        }
    }

    /// Withdraws what relied on mappings that the guest has invalidated.
    #[inline]
    fn see_forgotten(&mut self) {
        let spaces = &mut self.system.as_mut().expect("a system's CPU").spaces;
        let frame = self.frame.as_mut().expect("translating");
        if let Some(forgotten) = self.mmu.take_forgotten() {
            if forgotten.all || forgotten.local || forgotten.pages.iter().any(|&page| in_gdt(&self.state, page)) {
                frame.forget_crossings();
            }
            if spaces.forget(&forgotten, &mut self.process.cache()) {
                frame.reset_all_returns();
                frame.forget_crossings();
            }
        }
    }

    /// Runs translated code from arena offset `offset` until it leaves for a reason that can't be dealt with at once.
    pub(crate) fn enter_system(&mut self, mut offset: u32, cross: Option<Cross>) -> Outside {
        let evictions = self.process.evictions();
        if evictions != self.evictions_seen {
            self.evictions_seen = evictions;
            self.frame.as_mut().expect("translating").reset_all_returns();
        }
        self.fill_system_frame();
        self.note_crossing(cross);
        let arena = self.arena.clone().expect("translating");
        let lockstep = self.process.config().engine == Engine::Lockstep;
        // EIP when what `offset` belongs to has been carried out already.
        let mut done = None;
        loop {
            self.stats.entries += 1;
            let frame = self.frame.as_mut().expect("translating");
            frame.enter(&arena, offset);
            self.see_world();
            let frame = self.frame.as_mut().expect("translating");
            let finished = done.take();
            let &xlat86_host::Frame { left, site, target, address, .. } = &*frame.regs();
            self.trace_exit(left, site, target);
            match left {
                Left::NotEntered => {
                    // The registers are those of a boundary that may be biased, when an instruction was to start again.
                    let at = arena.base() + u64::from(offset);
                    self.take_system_frame();
                    match finished {
                        Some(eip) => self.state.eip = eip,
                        None => self.repair_at(at),
                    }
                    return Outside::Stopped;
                }
                Left::Call => {}
                Left::Stopped => {
                    self.stats.leave_async += 1;
                    self.take_system_frame();
                    self.repair_at(site);
                    return Outside::Stopped;
                }
                Left::Trap if self.process.cache().mismatched(site) => {
                    self.take_system_frame();
                    self.returned_elsewhere(target);
                    return Outside::Connect(Connect::Table);
                }
                Left::Trap => {
                    self.stats.leave_fault += 1;
                    let what = self.after_window_fault(site);
                    if let WindowFault::Again(at) = what {
                        offset = at;
                        continue;
                    }
                    self.take_system_frame();
                    self.repair_at(site);
                    return if matches!(what, WindowFault::Anew) { Outside::Go } else { Outside::Interpret };
                }
            }
            let generation = self.process.generation();
            let known = self.system_mut().memo.exit(site, generation);
            let exit = match known {
                Some(exit) => exit,
                None => match self.place(site) {
                    Some(Place::Exit(exit)) => {
                        self.system_mut().memo.put_exit(site, generation, exit);
                        exit
                    }
                    Some(Place::Miss) => {
                        self.stats.leave_miss += 1;
                        self.take_system_frame();
                        self.state.eip = target as u32;
                        return Outside::Connect(Connect::Table);
                    }
                    place => unreachable!("translated code left at {site:#x}: {place:?}"),
                },
            };
            let outside = match exit.kind {
                ExitKind::Access { size, write, again, fix } => {
                    self.stats.leave_access += 1;
                    let admitted = self.mmu.admit(Gva(address as u32), size.into(), write);
                    if let (Ok(true), Some(again)) = (admitted, again) {
                        offset = (site - arena.base()) as u32 - exit.site + again;
                        continue;
                    }
                    self.take_system_frame();
                    apply(fix, &mut self.state);
                    self.state.eip = exit.eip;
                    // If the guest may not: this access isn't all that the instruction does, and another fault may come first.
                    Outside::Interpret
                }
                ExitKind::Careful { target: eip, size, write, .. } => {
                    self.stats.leave_access += 1;
                    self.take_system_frame();
                    self.state.eip = eip;
                    let crosses = address as u32 % PAGE_SIZE + u32::from(size) > PAGE_SIZE;
                    // A fault is the business of the access that it is about.
                    match self.mmu.admit(Gva(address as u32), size.into(), write) {
                        Ok(true) => Outside::Go,
                        _ => Outside::Careful(crosses.then_some(site)),
                    }
                }
                // In lockstep the interpreter uses the port, when everything before it has been compared.
                ExitKind::Quick { what: Quick::Port { size, out }, next } if !lockstep => {
                    self.stats.leave_quick += 1;
                    if self.port(target as u16, size, out) {
                        // The next instruction's code follows the call that left.
                        (offset, done) = ((site - arena.base()) as u32, Some(next));
                        continue;
                    }
                    self.take_system_frame();
                    self.state.eip = next;
                    Outside::Go
                }
                ExitKind::Quick { what: Quick::Invlpg, next } => {
                    self.stats.leave_quick += 1;
                    self.mmu.invalidate(Gva(target as u32));
                    if self.see_forgotten_page(target as u32, next) {
                        (offset, done) = ((site - arena.base()) as u32, Some(next));
                        continue;
                    }
                    self.take_system_frame();
                    self.state.eip = next;
                    Outside::Go
                }
                ExitKind::Thunk { target, again, fix, .. } => {
                    self.stats.leave_link += 1;
                    if self.fold(site, target) {
                        offset = (site - arena.base()) as u32 - exit.site + again;
                        continue;
                    }
                    self.take_system_frame();
                    apply(fix, &mut self.state);
                    self.state.eip = exit.eip;
                    Outside::Go
                }
                ExitKind::Quick { what, next } => {
                    self.stats.leave_quick += 1;
                    self.take_system_frame();
                    self.state.eip = exit.eip;
                    match self.quick(what, target, next) {
                        Some(Crossed::Noted(cross)) => Outside::Cross(cross),
                        Some(Crossed::Unnoted) => Outside::Go,
                        None => Outside::Interpret,
                    }
                }
                ExitKind::Changed => {
                    self.stats.leave_changed += 1;
                    self.take_system_frame();
                    self.state.eip = exit.eip;
                    self.process.cache().retire_at(site);
                    self.process.dropped();
                    Outside::Connect(Connect::Changed { site })
                }
                ExitKind::Link { target, .. } => {
                    self.stats.leave_link += 1;
                    self.take_system_frame();
                    self.state.eip = target;
                    Outside::Connect(Connect::Jump { site })
                }
                ExitKind::Interpret | ExitKind::SoftInt { .. } => {
                    self.stats.leave_interpret += 1;
                    self.take_system_frame();
                    self.state.eip = exit.eip;
                    Outside::Interpret
                }
            };
            return outside;
        }
    }

    /// Takes INVLPG's effect into account. False if the code that goes on at `eip` may be affected.
    fn see_forgotten_page(&mut self, invalidated: u32, eip: u32) -> bool {
        let near = |page: u32| page.wrapping_sub(eip >> 12) & 0xf_ffff <= 1;
        if near(invalidated >> 12) || self.mmu.has_forgotten_more() {
            return false;
        }
        self.see_forgotten();
        true
    }

    /// Has the folded call that left at host address `site` rely on what its thunk at `target` is now. False when it has changed: the call is
    /// translated anew, and not folded again.
    fn fold(&mut self, site: u64, target: u32) -> bool {
        let Some(key) = self.process.cache().key_at(site) else { return false };
        let (evictions, Mode(mode)) = (self.process.evictions(), key.mode());
        let eip = core::mem::replace(&mut self.state.eip, target);
        let found = self.system_code(Mode(mode & !Mode::CAREFUL), Some(Connect::Table)).is_some();
        let page = self.mmu.code_page(Gva(target));
        self.state.eip = eip;
        if self.process.evictions() != evictions {
            return false;
        }
        let mut cache = self.process.cache();
        if found && page.is_ok_and(|page| cache.fold(site, page)) {
            return true;
        }
        if let Some(Place::Exit(exit)) = cache.place(site, true) {
            self.system.as_mut().expect("a system's CPU").windows.give_up(exit.eip, key.page());
        }
        cache.retire_at(site);
        drop(cache);
        self.process.dropped();
        self.stats.retranslated += 1;
        false
    }

    /// What left with a call that returns to host address `site`.
    fn place(&self, site: u64) -> Option<Place> {
        self.process.cache().place(site, true)
    }

    /// Makes the state that of the guest instruction whose code host address `at` is in.
    fn repair_at(&mut self, at: u64) {
        match self.process.cache().place(at, false) {
            Some(Place::Inside(mark)) => {
                self.state.eip = mark.eip;
                apply(mark.fix, &mut self.state);
            }
            place => unreachable!("translated code at {at:#x}: {place:?}"),
        }
    }

    /// Hands the guest's registers to translated code. The interrupt flag goes apart.
    fn fill_system_frame(&mut self) {
        self.choose_world();
        let state = &mut self.state;
        // An instruction breakpoint that RF would hold off doesn't exist while code is translated; the next instruction clears it.
        state.eflags &= !eflags::RF;
        let awaited = self.system.as_ref().is_some_and(|s| s.window_wanted);
        let frame = self.frame.as_mut().expect("translating").regs();
        frame.gpr = state.gpr;
        frame.flags = state.eflags;
        frame.system_flags = state.eflags & !(eflags::LIVE | eflags::IF);
        frame.interrupt_flag = state.eflags & eflags::IF;
        frame.interrupt_awaited = if awaited { eflags::IF } else { 0 };
        frame.tsc_offset = state.msr.tsc_offset;
        frame.control = [state.cr0, 0, state.cr2, state.cr3, state.cr4];
        if self.fx_home == Home::State {
            fx::to_host(&state.fx, frame);
        }
        self.fx_home = Home::Host;
    }

    /// Takes the guest's registers back; EIP follows from where it left.
    fn take_system_frame(&mut self) {
        let state = &mut self.state;
        let frame = self.frame.as_mut().expect("translating").regs();
        state.gpr = frame.gpr;
        let apart = eflags::LIVE | eflags::IF;
        state.eflags = (state.eflags & !apart) | (frame.flags & eflags::LIVE) | frame.interrupt_flag;
    }

    /// Executes the instruction at EIP on the interpreter. `None`: go on.
    fn step_system(&mut self) -> Option<Exit> {
        let at = Gva(self.state.segment(Seg::Cs).base.wrapping_add(self.state.eip));
        // Code pages are watched for writes; what lies on two pages isn't kept.
        let whole = at.page_offset() <= PAGE_SIZE - MAX_INSN_LEN as u32;
        self.mmu.sync(&self.state);
        let code = |page| self.process.physical().is_some_and(|m| m.is_code(page));
        let watched = whole && self.mmu.code_page(at).is_ok_and(code);
        let (home, frame, process) = (&mut self.fx_home, &mut self.frame, &self.process);
        let before = |state: &mut CpuState, fx: bool| {
            if fx {
                fx::bring(home, &mut state.fx, frame, process);
                *home = Home::State;
            }
        };
        let (state, mmu, platform) = (&mut self.state, &mut self.mmu, &mut self.platform);
        let stop = with_pending(|flag| self.interp.step_after(state, mmu, platform, watched, flag, before));
        self.note_step();
        self.settle(stop)
    }

    fn note_step(&mut self) {
        let code = self.interp.stepped() as usize;
        let stepped = &mut self.system_mut().stepped;
        if stepped.len() <= code {
            stepped.resize(code + 1, 0);
        }
        stepped[code] += 1;
    }

    /// Executes some instructions on the interpreter, whose mode isn't translated.
    fn interpret_stretch(&mut self) -> Option<Exit> {
        self.fx_mut();
        let stop =
            with_pending(|flag| self.interp.run(&mut self.state, &mut self.mmu, &mut self.platform, flag, STRETCH));
        match stop {
            Stop::Budget => None,
            stop => self.settle(stop),
        }
    }

    /// Has the instruction just executed made something possible that [`Vcpu::attend`] has to see to?
    fn must_attend(&self) -> bool {
        let awaited = self.system.as_ref().is_some_and(|s| s.window_wanted || s.nmi_pending);
        awaited || self.state.halted || self.is_time_up()
    }
}

fn next_page(eip: u32) -> Gva {
    Gva(eip).page_base().wrapping_add(PAGE_SIZE)
}

/// Can all of the 4 GB from this segment's base be read and written without a check?
fn is_open(s: &Segment) -> bool {
    s.attr.present() && s.attr.readable() && s.attr.writable() && s.limit == u32::MAX && !s.attr.expand_down()
}

/// Guest code as the translator reads it, through the guest's page tables.
struct PagedCode<'a> {
    mmu: &'a mut Mmu,
    windows: &'a Windows,
    cache: &'a Cache,
    key: CodeKey,
    mode: Mode,
    pages: Vec<u32>,
}

impl Source for PagedCode<'_> {
    fn peek(&mut self, eip: u32, to: &mut [u8]) -> usize {
        let in_page = (PAGE_SIZE - eip % PAGE_SIZE) as usize;
        let n = in_page.min(to.len());
        match self.mmu.fetch(Gva(eip), &mut to[..n]) {
            Ok(Some(n)) => n,
            Ok(None) | Err(_) => 0,
        }
    }

    fn depend(&mut self, eip: u32) {
        if let Ok(page) = self.mmu.code_page(Gva(eip))
            && !self.pages.contains(&page)
        {
            self.pages.push(page);
        }
    }

    fn is_volatile(&self, _eip: u32) -> bool {
        // Every write of the guest or its devices is noticed.
        false
    }

    fn known(&self, eip: u32) -> bool {
        (eip ^ self.key.eip()) >> 12 == 0 && self.cache.starts_at(CodeKey::new(eip, self.key.page(), self.mode))
    }

    fn has_run(&self, eip: u32) -> bool {
        self.mmu.has_run(eip >> 12)
    }

    fn keeps_faulting(&self, eip: u32) -> bool {
        self.windows.keeps_faulting(eip, self.key.page())
    }
}
