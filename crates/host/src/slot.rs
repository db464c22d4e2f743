//! The per-thread slot through which signal handlers talk to safe code.
//!
//! This is the one thread-local of the workspace. A handler only stores here and redirects the interrupted
//! context; whoever it redirects to reads the record. Everything here is async-signal-safe: plain cells of
//! constant-initialised thread-local storage.

use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What the host's kernel said about a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostFault {
    /// Host address that was accessed (CR2); 0 when the host doesn't tell (general protection).
    pub addr: u64,
    /// Page-fault error code as in `xlat86_arch::PfError`; meaningful for trap number 14.
    pub error: u32,
    /// Host exception vector: 14 for page faults.
    pub trapno: u32,
    /// Signal number: SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP.
    pub signal: i32,
    /// `si_code` of that signal.
    pub code: i32,
}

/// A `siginfo_t` as the host kernel delivered it.
pub type RawSiginfo = [u8; 128];

/// Signals that can be waiting at once: after the first, the kernel holds back all but the five synchronous ones.
const PENDING: usize = 8;

struct Slot {
    fault: Cell<HostFault>,
    /// Something asynchronous wants attention: `pending` holds something, or another thread kicked this one. Read by assembly.
    flag: AtomicBool,
    /// Signals taken so far, and signals noted: number n is at n modulo [`PENDING`].
    taken: AtomicUsize,
    noted: AtomicUsize,
    pending: UnsafeCell<[RawSiginfo; PENDING]>,
    return_guards: Cell<[u64; 2]>,
    stepping: Cell<bool>,
    gs_base: Cell<Option<u64>>,
}

thread_local! {
    static SLOT: Slot = const {
        Slot {
            fault: Cell::new(HostFault { addr: 0, error: 0, trapno: 0, signal: 0, code: 0 }),
            flag: AtomicBool::new(false),
            taken: AtomicUsize::new(0),
            noted: AtomicUsize::new(0),
            pending: UnsafeCell::new([[0; 128]; PENDING]),
            return_guards: Cell::new([0; 2]),
            stepping: Cell::new(false),
            gs_base: Cell::new(None),
        }
    };
}

/// Records `fault` for the current thread.
pub(crate) fn record(fault: HostFault) {
    SLOT.with(|s| s.fault.set(fault));
}

/// The most recent fault of the current thread.
#[must_use]
pub fn last() -> HostFault {
    SLOT.with(|s| s.fault.get())
}

/// Address of the byte that is nonzero while something asynchronous waits for the current thread.
pub(crate) fn pending_flag() -> *const u8 {
    SLOT.with(|s| s.flag.as_ptr().cast_const().cast())
}

/// Calls `f` with the flag that is true while something asynchronous waits for the current thread.
pub fn with_pending<T>(f: impl FnOnce(&AtomicBool) -> T) -> T {
    SLOT.with(|s| f(&s.flag))
}

/// Makes the current thread attend to asynchronous matters, without a signal to deliver.
pub(crate) fn raise() {
    SLOT.with(|s| s.flag.store(true, Ordering::SeqCst));
}

/// Lowers the flag, unless signals are waiting. Whatever comes after raises it again.
pub(crate) fn lower() {
    SLOT.with(|s| {
        s.flag.store(false, Ordering::SeqCst);
        if s.waiting() != 0 {
            s.flag.store(true, Ordering::SeqCst);
        }
    });
}

impl Slot {
    /// Signals that wait.
    fn waiting(&self) -> usize {
        self.noted.load(Ordering::SeqCst).wrapping_sub(self.taken.load(Ordering::SeqCst))
    }

    /// The number of the next signal to be noted, for the caller alone, whatever handler interrupts this one. `None` when there is no room.
    fn reserve(&self) -> Option<usize> {
        let room = |n: usize| (self.waiting() < PENDING).then(|| n.wrapping_add(1));
        self.noted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).ok()
    }

    /// Puts `info` in the place of signal number `n`.
    fn fill(&self, n: usize, info: &RawSiginfo) {
        // SAFETY: only this thread touches the array; `n` is the caller's, and not read before the outermost handler has returned.
        unsafe { (*self.pending.get())[n % PENDING] = *info };
        self.flag.store(true, Ordering::SeqCst);
    }
}

/// Queues `info`. Called from handlers, which nest only for the synchronous signals.
pub(crate) fn push_pending(info: &RawSiginfo) {
    SLOT.with(|s| {
        if let Some(n) = s.reserve() {
            s.fill(n, info);
        }
    });
}

/// Takes the oldest waiting signal and lowers the flag when it was the last. Handlers that run meanwhile only add behind it.
pub(crate) fn pop_pending() -> Option<RawSiginfo> {
    let first = SLOT.with(|s| {
        let n = s.taken.load(Ordering::SeqCst);
        // SAFETY: only this thread touches the array, and no handler this place as long as it isn't taken.
        (s.waiting() != 0).then(|| unsafe { (*s.pending.get())[n % PENDING] }).inspect(|_| {
            s.taken.store(n.wrapping_add(1), Ordering::SeqCst);
        })
    });
    if SLOT.with(Slot::waiting) == 0 {
        lower();
    }
    first
}

/// The number of the oldest waiting signal.
pub(crate) fn oldest_pending() -> Option<i32> {
    SLOT.with(|s| {
        let n = s.taken.load(Ordering::SeqCst);
        // SAFETY: as in `pop_pending`.
        let first = unsafe { &(*s.pending.get())[n % PENDING] };
        (s.waiting() != 0).then(|| i32::from_le_bytes([first[0], first[1], first[2], first[3]]))
    })
}

/// Size of the inaccessible pages below return stacks.
pub(crate) const GUARD: usize = 4096;

/// Where the guards of the current thread's return stacks are, for the fault handler.
pub(crate) fn set_return_guards(guards: [u64; 2]) {
    SLOT.with(|s| s.return_guards.set(guards));
}

/// Is `addr` in the guard page of a return stack of the current thread?
pub(crate) fn in_return_guard(addr: u64) -> bool {
    SLOT.with(|s| s.return_guards.get().iter().any(|&start| addr.wrapping_sub(start) < GUARD as u64))
}

/// Is translated code of this thread being single-stepped to a boundary?
pub(crate) fn stepping() -> bool {
    SLOT.with(|s| s.stepping.get())
}

/// Sets [`stepping`].
pub(crate) fn set_stepping(on: bool) {
    SLOT.with(|s| s.stepping.set(on));
}

/// Notes that the current thread's GS segment begins at `base`, and gives what was noted before: nothing in a new thread, whose base is
/// that of the thread that made it.
pub(crate) fn replace_gs_base(base: u64) -> Option<u64> {
    SLOT.with(|s| s.gs_base.replace(Some(base)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_that_interrupts_another_loses_nothing() {
        let info = |n: u8| [n; 128];
        for round in 0..20u8 {
            push_pending(&info(1));
            // The second is interrupted by the third in between.
            let second = SLOT.with(Slot::reserve).unwrap();
            push_pending(&info(3));
            SLOT.with(|s| s.fill(second, &info(2)));
            assert_eq!(oldest_pending(), Some(0x0101_0101), "round {round}");
            assert_eq!([pop_pending(), pop_pending()].map(Option::unwrap), [info(1), info(2)]);
            assert!(with_pending(|f| f.load(Ordering::SeqCst)));
            assert_eq!(pop_pending(), Some(info(3)));
            assert!(!with_pending(|f| f.load(Ordering::SeqCst)));
            assert_eq!((pop_pending(), oldest_pending()), (None, None));
        }
        (0..2 * PENDING as u8).for_each(|n| push_pending(&info(n)));
        (0..PENDING as u8).for_each(|n| assert_eq!(pop_pending(), Some(info(n))));
        assert_eq!(pop_pending(), None, "there was no room");
    }
}
