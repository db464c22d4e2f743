//! What the CPUs of one guest share.

use crate::heat::Heat;
use crate::images::Images;
use crate::store::{FileId, Store};
use crate::world::{Member, World};
use crate::{Config, Engine, Error, Stats, lockstep, perf_map};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use xlat86_arch::{Gva, Mode, PAGE_SIZE};
use xlat86_softmmu::{CodeWrite, FlatSpace, PhysMemory, Watch};
use xlat86_translator::{AddressForm, Cache, CodeKey, Columns, Full, Source, TableId, Unit, listing, translate};

/// Retired translations that are kept until the world is stopped for their sake.
const MOST_RETIRED: usize = 512;

/// How translated code was left for want of a connection that can now be made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Connect {
    /// A direct jump, which left at host address `site`.
    Jump { site: u64 },
    /// An indirect jump.
    Table,
    /// The translation found its guest code changed, and left at `site`: it has to go.
    Changed { site: u64 },
}

/// What a guest's CPUs have as memory.
enum Memory {
    /// A user program's address space.
    Flat(Arc<FlatSpace>),
    /// A machine's physical memory.
    Physical(Arc<PhysMemory>),
}

/// A guest's memory and everything derived from its contents.
pub struct Process {
    memory: Memory,
    config: Config,
    /// `None` when the engine doesn't translate.
    cache: Option<Mutex<Cache>>,
    pub(crate) world: World,
    /// `None` when nothing is kept.
    images: Option<Mutex<Images>>,
    heat: Mutex<Heat>,
    /// Pages where system calls call out.
    call_outs: Mutex<Range<u32>>,
    /// Is any page hot? A hint, so that asking costs nothing.
    hot: AtomicBool,
    /// Counts evictions: return stacks made before the latest one name memory that may have been reused.
    evictions: AtomicU64,
    /// Counts changes of code, for the interpreters' private caches.
    changes: AtomicU64,
    /// Counts pages of a system's code that were dropped.
    drops: AtomicU64,
    /// Counts translations that were replaced because they found themselves outdated.
    retired: AtomicU64,
    pub(crate) stats: Mutex<Stats>,
}

impl Process {
    /// A guest over `space`. Fails when the host refuses memory for the translation cache.
    pub fn new(space: Arc<FlatSpace>, config: Config) -> Result<Arc<Process>, Error> {
        Self::over(Memory::Flat(space), config)
    }

    /// A guest system with physical memory `memory`. Fails when the host refuses memory for the translation cache.
    pub fn system(memory: Arc<PhysMemory>, mut config: Config) -> Result<Arc<Process>, Error> {
        config.translator.paged = true;
        config.translator.address_form = AddressForm::Tlb;
        Self::over(Memory::Physical(memory), config)
    }

    fn over(memory: Memory, mut config: Config) -> Result<Arc<Process>, Error> {
        if config.engine == Engine::Lockstep {
            config.translator = lockstep::config(&config.translator);
        }
        let cache = match config.engine {
            Engine::Interp => None,
            Engine::Dbt | Engine::Lockstep => Some(Mutex::new(
                Cache::new(&config.translator)
                    .map_err(|source| Error::Host { what: "no memory for the translation cache", source })?,
            )),
        };
        let images = images(&config).map(Mutex::new);
        Ok(Arc::new(Process {
            memory,
            images,
            config,
            cache,
            world: World::default(),
            heat: Mutex::new(Heat::new()),
            call_outs: Mutex::default(),
            hot: AtomicBool::new(false),
            evictions: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            drops: AtomicU64::new(0),
            retired: AtomicU64::new(0),
            stats: Mutex::default(),
        }))
    }

    /// The address space of a user program.
    ///
    /// # Panics
    /// When the guest is a system.
    #[must_use]
    pub fn space(&self) -> &Arc<FlatSpace> {
        match &self.memory {
            Memory::Flat(space) => space,
            Memory::Physical(_) => panic!("a system has no flat address space"),
        }
    }

    /// The physical memory of a system.
    #[must_use]
    pub fn physical(&self) -> Option<&Arc<PhysMemory>> {
        if let Memory::Physical(memory) = &self.memory { Some(memory) } else { None }
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Counters of the whole process so far, those of running CPUs not included.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut s = *self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(c) = &self.cache {
            s.cache = c.lock().unwrap_or_else(PoisonError::into_inner).stats();
        }
        s
    }

    pub(crate) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.as_ref().expect("the engine translates").lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with everything that is dropped from the cache. As long as some CPU is inside, only translations that check themselves
    /// are.
    pub(crate) fn generation(&self) -> u64 {
        self.changes() + self.evictions() + self.retired.load(Ordering::Acquire) + self.drops.load(Ordering::Acquire)
    }

    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Acquire)
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Does `change`, which alters mappings, permissions or contents of `ranges` (start and bytes) in whatever way, and drops
    /// everything derived from those pages before. Where they are executable no CPU runs guest code meanwhile: code that is translated
    /// while they change would be neither the old nor the new. Not to be called from inside [`crate::Vcpu::run`].
    pub fn change<T>(&self, ranges: &[(Gva, u32)], change: impl FnOnce() -> T) -> T {
        if let Some(mut images) = self.images() {
            for &(start, len) in ranges {
                images.forget(&(start.page()..(start.0.saturating_add(len.max(1) - 1) >> 12) + 1));
            }
        }
        self.forget_call_outs(ranges);
        let pages = || {
            let in_one = |&(start, len): &(Gva, u32)| start.page()..=start.0.saturating_add(len.max(1) - 1) >> 12;
            ranges.iter().flat_map(in_one)
        };
        if !pages().any(|p| self.space().page(Gva(p << 12)).prot().exec) {
            return change();
        }
        self.world.exclusively(|| {
            self.drop_pages(pages());
            change()
        })
    }

    /// From now on system calls in the `len` bytes at `start` (whole pages) are offered to [`Config::call_out`], until anything about these pages
    /// changes. Lockstep compares what both engines do of themselves, so there none are.
    pub fn call_out_at(&self, start: Gva, len: u32) {
        if self.config.engine == Engine::Dbt && self.config.call_out.is_some() {
            *self.call_outs() = start.page()..start.page() + len.div_ceil(PAGE_SIZE);
        }
    }

    fn forget_call_outs(&self, ranges: &[(Gva, u32)]) {
        let mut pages = self.call_outs();
        let touched = |&(start, len): &(Gva, u32)| {
            start.page() < pages.end && pages.start <= start.0.saturating_add(len.max(1) - 1) >> 12
        };
        if ranges.iter().any(touched) {
            *pages = 0..0;
        }
    }

    fn call_outs(&self) -> MutexGuard<'_, Range<u32>> {
        self.call_outs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn images(&self) -> Option<MutexGuard<'_, Images>> {
        Some(self.images.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The `len` bytes at `start` (whole pages) now hold the contents of `file` from `offset` on, privately, and can't be written.
    pub fn note_file(&self, start: Gva, len: u32, file: impl FnOnce() -> Option<FileId>, offset: u64) {
        if let Some(mut images) = self.images()
            && let Some(file) = file()
        {
            images.note(start.page()..start.page() + len.div_ceil(PAGE_SIZE), &file, offset);
        }
    }

    /// The pages at `start` now hold `contents` and can't be written. Not for contents that are translated in more ways than one: where no
    /// system calls call out, those of the vDSO.
    pub fn note_contents(&self, start: Gva, contents: &[u8]) {
        self.note_file(start, contents.len() as u32, || Some(FileId::of_contents(contents)), 0);
    }

    /// Keeps translations for later runs, if there are new ones. To be called when the guest ends.
    pub fn keep_code(&self) {
        if self.images.is_some() {
            // Whoever wants both takes the cache first.
            let cache = self.cache();
            if let Some(mut images) = self.images() {
                images.keep(&cache);
            }
        }
    }

    /// Takes over what earlier runs have left for the mapping that holds `eip`. True when that was something.
    fn adopt(&self, eip: u32, cache: &mut Cache) -> bool {
        let Some(mut images) = self.images() else { return false };
        images.take(eip >> 12, |image, file| {
            // First noticed, then used, as when code is read.
            image.pages().all(|p| self.space().mark_code(Gva(p << 12)) == Watch::Kept)
                && cache.adopt(image.clone(), file, Mode::USER32).unwrap_or(false)
        })
    }

    /// Does `fork`, which forks the host process, while every lock is free to be used in the child, whose only thread
    /// calls [`crate::Vcpu::after_fork`].
    pub fn around_fork<T>(&self, fork: impl FnOnce() -> T) -> T {
        let _turn = (self.config.engine == Engine::Lockstep).then(lockstep::turn);
        self.world.exclusively(|| {
            let _cache = self.cache.as_ref().map(|c| c.lock().unwrap_or_else(PoisonError::into_inner));
            let _stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
            let _code = self.space().lock_code();
            let _heat = self.heat();
            let _images = self.images();
            let _call_outs = self.call_outs();
            fork()
        })
    }

    /// Prepares guest memory for being written from outside the guest's CPUs, by a system call: the host protection
    /// that guards translated code is lifted where the guest itself may write, and that code dropped. What lies behind
    /// unmapped memory isn't written either: a call with a wild length doesn't walk the address space.
    pub fn prepare_write(&self, start: Gva, len: u32) {
        if len == 0 {
            return;
        }
        let mut at = start.page_base();
        loop {
            let page = self.space().page(at);
            if !page.prot().mapped {
                return;
            }
            if page.is_code() {
                self.code_write(at);
            }
            let next = at.wrapping_add(PAGE_SIZE);
            if next.0 == 0 || next.0.wrapping_sub(start.0) >= len {
                return;
            }
            at = next;
        }
    }

    /// Somebody is about to write to the page holding `addr`, or has faulted in trying. True when the write may
    /// be tried (again).
    pub(crate) fn code_write(&self, addr: Gva) -> bool {
        let page = self.space().page(addr);
        if !page.prot().write || !page.is_code() {
            return page.prot().write;
        }
        // From when the page can be written until its translations are gone nobody may run them: not even a thread that
        // itself writes there.
        self.world.exclusively(|| match self.space().resolve_write(addr) {
            CodeWrite::Dropped(pages) => {
                if self.heats(addr) {
                    self.space().heat(addr);
                }
                self.drop_pages(pages);
                true
            }
            CodeWrite::Retry => true,
            CodeWrite::NotOurs => false,
        })
    }

    fn heat(&self) -> MutexGuard<'_, Heat> {
        self.heat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write hits the translations of the page holding `addr`: is it hot from now on?
    fn heats(&self, addr: Gva) -> bool {
        let checks = self.config.engine == Engine::Dbt && self.config.translator.self_checking;
        let hot = checks && self.heat().written(addr.page(), Instant::now());
        if hot {
            self.hot.store(true, Ordering::Relaxed);
        }
        hot
    }

    /// Goes back to watching the pages that have stopped changing. Not to be called from inside.
    pub(crate) fn cool(&self) {
        if !self.hot.load(Ordering::Relaxed) {
            return;
        }
        let mut heat = self.heat();
        let pages = heat.cooled(Instant::now());
        if pages.is_empty() {
            return;
        }
        self.hot.store(heat.any(), Ordering::Relaxed);
        drop(heat);
        self.world.exclusively(|| {
            self.drop_pages(pages.iter().copied());
            for p in &pages {
                self.space().cool(Gva(p << 12));
            }
        });
    }

    /// Drops translations of code in physical page `page`, which is about to be written or has been. The interpreter of the system's
    /// one CPU is the caller's to tell.
    pub(crate) fn drop_physical(&self, page: u32) {
        self.world.exclusively(|| {
            if let Some(memory) = self.physical() {
                memory.drop_code(page);
            }
            if self.cache.is_some() {
                self.drops.fetch_add(1, Ordering::AcqRel);
                self.cache().invalidate_page(page);
            }
        });
    }

    /// Notes that something was dropped from the cache otherwise.
    pub(crate) fn dropped(&self) {
        self.drops.fetch_add(1, Ordering::AcqRel);
    }

    /// Drops what was derived from `pages`. To be called exclusively.
    fn drop_pages(&self, pages: impl Iterator<Item = u32>) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        if self.cache.is_some() {
            let mut cache = self.cache();
            for p in pages {
                cache.invalidate_page(p);
            }
        }
    }

    /// Translates the code at `eip`, which `source` has, to a unit that fits into `cache`; also gives when that began.
    pub(crate) fn translate(
        &self,
        cache: &Cache,
        eip: u32,
        mode: Mode,
        source: &mut dyn Source,
    ) -> Option<(Unit, Instant)> {
        let started = Instant::now();
        let mut config = self.config.translator;
        if mode.has(Mode::WINDOW) {
            config.address_form = AddressForm::Gs;
        }
        let unit = loop {
            let unit = translate(eip, mode, self.config.model.features, &config, source)?;
            if unit.code.len() <= cache.largest_unit() {
                break unit;
            }
            config.max_insns = unit.insns as usize / 2;
        };
        let trace = &self.config.tracing;
        trace.line(trace.block, || {
            let size = unit.code.len();
            format!("block {:08x} {} instructions, {} bytes, to {size} bytes", unit.eip, unit.insns, unit.len)
        });
        if trace.decode {
            let mut guest = vec![0; unit.len as usize];
            source.peek(eip, &mut guest);
            trace.line(true, || listing(&unit, &guest, Columns { guest: true, host: false }));
        }
        if let Some(columns) = self.config.dump {
            let mut guest = vec![0; unit.len as usize];
            source.peek(eip, &mut guest);
            eprintln!("{}", listing(&unit, &guest, columns));
        }
        Some((unit, started))
    }

    /// Places what [`Process::translate`] gave.
    pub(crate) fn insert(
        &self,
        cache: &mut Cache,
        (unit, started): (Unit, Instant),
        key: CodeKey,
        pages: Vec<u32>,
    ) -> Result<u32, Full> {
        let size = unit.code.len();
        let inserted = cache.insert(unit, key, pages);
        cache.add_time(started.elapsed());
        if let (Ok(offset), true) = (inserted, self.config.perf_map) {
            perf_map::add(cache.arena().base() + u64::from(offset), size, key.eip());
        }
        inserted
    }

    /// Makes room in the cache. No CPU is inside.
    pub(crate) fn evict(&self) {
        self.world.exclusively(|| {
            self.cache().evict();
            self.evictions.fetch_add(1, Ordering::AcqRel);
        });
    }

    /// Arena offset of the translation of `eip`, made if need be, and connected to what led there. `None` when it can't
    /// be translated: the interpreter tells why. `me` is inside.
    pub(crate) fn code_at(&self, eip: u32, mode: Mode, me: &Member, connect: Option<Connect>) -> Option<u32> {
        if let Some(Connect::Changed { site }) = connect {
            self.cache().retire_at(site);
            self.retired.fetch_add(1, Ordering::AcqRel);
        }
        let key = CodeKey::flat(eip, mode);
        loop {
            let mut cache = self.cache();
            if let Some(offset) = cache.lookup(key) {
                match connect {
                    Some(Connect::Jump { site }) => cache.chain(site),
                    Some(Connect::Table) => cache.publish(TableId::FIRST, key, true),
                    Some(Connect::Changed { .. }) | None => {}
                }
                return Some(offset);
            }
            if mode == Mode::USER32 && self.adopt(eip, &mut cache) {
                continue;
            }
            let full = cache.retired() >= MOST_RETIRED;
            if full {
                drop(cache);
                self.make_room(me, Cache::forget_retired);
                continue;
            }
            let checking = self.config.translator.self_checking;
            let mut source =
                GuestCode { process: self, space: self.space(), cache: &cache, mode, pages: Vec::new(), checking };
            let unit = self.translate(&cache, eip, mode, &mut source)?;
            let pages = source.pages;
            if let Some(p) = pages.iter().find(|p| self.space().is_volatile(Gva(*p << 12))) {
                self.heat().changed(*p, unit.1);
            }
            if mode == Mode::USER32
                && let Some(mut images) = self.images()
            {
                images.made(eip >> 12, unit.0.insns);
            }
            let inserted = self.insert(&mut cache, unit, key, pages);
            drop(cache);
            if inserted == Err(Full) {
                self.make_room(me, |cache| {
                    cache.evict();
                    self.evictions.fetch_add(1, Ordering::AcqRel);
                });
            }
        }
    }

    /// Does `f` to the cache while nobody is inside, not even `me`.
    fn make_room(&self, me: &Member, f: impl FnOnce(&mut Cache)) {
        self.world.come_out(me);
        self.world.exclusively(|| f(&mut self.cache()));
        self.world.go_inside(me);
    }
}

/// What the user's earlier runs have left, if it is to be used. Listings and the perf map are of what is translated now.
fn images(config: &Config) -> Option<Images> {
    let wanted = config.keep_code && config.engine == Engine::Dbt && config.dump.is_none() && !config.perf_map;
    let settings = || format!("{:?} {} {:?}", config.translator, config.model.name, config.model.features);
    wanted.then(|| Store::open(&settings())).flatten().map(Images::new)
}

/// Guest memory as the translator reads it.
struct GuestCode<'a> {
    process: &'a Process,
    space: &'a FlatSpace,
    cache: &'a Cache,
    mode: Mode,
    pages: Vec<u32>,
    /// Code that may change unnoticed can be translated.
    checking: bool,
}

impl Source for GuestCode<'_> {
    fn peek(&mut self, eip: u32, to: &mut [u8]) -> usize {
        let in_page = (PAGE_SIZE - (eip & (PAGE_SIZE - 1))) as usize;
        let n = in_page.min(to.len());
        // First noticed, then read: a write in between is seen.
        let readable = match self.space.mark_code(Gva(eip)) {
            Watch::Kept => true,
            Watch::Volatile => self.checking,
            Watch::NotExecutable => false,
        };
        if readable && self.space.window().read_bytes(eip, &mut to[..n]).is_ok() { n } else { 0 }
    }

    fn is_volatile(&self, eip: u32) -> bool {
        self.space.is_volatile(Gva(eip))
    }

    fn found_changed(&self, eip: u32) -> bool {
        self.cache.found_changed(eip)
    }

    fn depend(&mut self, eip: u32) {
        let page = eip >> 12;
        if !self.pages.contains(&page) {
            self.pages.push(page);
        }
    }

    fn known(&self, eip: u32) -> bool {
        self.cache.starts_at(CodeKey::flat(eip, self.mode))
    }

    fn calls_out(&self, eip: u32) -> bool {
        self.process.call_outs().contains(&(eip >> 12))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    /// A thread that ends the guest keeps its code beside others that translate.
    #[test]
    fn keeping_code_waits_for_nobody_who_waits_for_it() {
        let folder = std::env::temp_dir().join(format!("xlat86-process-{}", std::process::id()));
        let window = xlat86_host::scratch_low(&[]).unwrap();
        let space = Arc::new(FlatSpace::new(window));
        let mut process = Process::new(space, Config::default()).unwrap();
        let store = Store::at(&folder, "settings").expect("a folder of our own");
        Arc::get_mut(&mut process).unwrap().images = Some(Mutex::new(Images::new(store)));
        let (done, both) = mpsc::channel();
        let until = Instant::now() + Duration::from_secs(1);
        for keeps in [true, false] {
            let (process, done) = (process.clone(), done.clone());
            std::thread::spawn(move || {
                while Instant::now() < until {
                    if keeps {
                        process.keep_code();
                    } else {
                        // As `code_at` does.
                        let mut cache = process.cache();
                        process.adopt(0x1000, &mut cache);
                    }
                }
                let _ = done.send(());
            });
        }
        for _ in 0..2 {
            both.recv_timeout(Duration::from_secs(60)).expect("they wait for each other");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
