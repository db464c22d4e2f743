//! Host signals on behalf of a guest.
//!
//! The embedder *watches* the signals its guest handles. One that arrives is noted, all others are blocked, and
//! translated code leaves; the embedder then takes it with [`take_pending`], deals with it, and lets the rest in again with
//! [`set_mask`]. So the kernel keeps every queue, and no signal is lost or reordered.

use crate::slot::{self, RawSiginfo};
use crate::trap::{self, SYNC_SIGNALS};
use std::io;

/// The bit of `sig` in a kernel signal mask.
#[must_use]
pub const fn bit(sig: i32) -> u64 {
    1 << (sig - 1)
}

/// What one emulator thread sends another to make it leave translated code. Hardly anything else uses this number: the hardware it
/// was meant for never was. So what isn't marked as a kick is the guest's.
pub const KICK: i32 = libc::SIGSTKFLT;
/// Marks a kick: `si_errno`.
const MARK: i32 = 0x7861_386b;

const fn blockable() -> u64 {
    let mut mask = !bit(KICK);
    let mut i = 0;
    while i < SYNC_SIGNALS.len() {
        mask &= !bit(SYNC_SIGNALS[i]);
        i += 1;
    }
    mask
}

/// Everything that may be blocked while the emulator runs.
const BLOCKABLE: u64 = blockable();

/// What waits while a handler runs: two that noted a signal at once would note it in the same place.
pub(crate) const HELD_IN_HANDLERS: u64 = BLOCKABLE | bit(KICK);

/// Blocks every asynchronous signal in the context that a handler returns to.
pub(crate) fn block_all_in(set: &mut libc::sigset_t) {
    // SAFETY: the kernel's signal set in a ucontext is 8 bytes at the start of the libc type.
    unsafe { *(&raw mut *set).cast::<u64>() = BLOCKABLE };
}

/// Synchronous signals and kicks: not blocked on the host while the guest runs (a process that faults with its signal blocked is killed).
pub const ALWAYS_OPEN: u64 = !BLOCKABLE;

/// What the host does with a signal on the guest's behalf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// The kernel's default action.
    Default,
    /// Nothing.
    Ignore,
    /// Note it for [`take_pending`].
    Watch,
}

/// Sets the disposition of `sig`, with those of the flags SA_RESTART, SA_NOCLDSTOP and SA_NOCLDWAIT that the guest chose.
/// Works for every signal from 1 to 64 but SIGKILL and SIGSTOP. The synchronous ones stay with the fault handler, which
/// notes those that a process sent.
pub fn set_disposition(sig: i32, disposition: Disposition, flags: i32) -> io::Result<()> {
    if SYNC_SIGNALS.contains(&sig) {
        trap::install_fault_handlers();
        return Ok(());
    }
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
        Disposition::Watch => trap::async_handler(),
    };
    trap::install(sig, handler, flags)
}

/// Starts noting `sig` for [`take_pending`]. With `restart`, the kernel restarts an interrupted system call by its
/// own rules: [`crate::syscall::interruptible`] then reports it as not started.
pub fn watch(sig: i32, restart: bool) -> io::Result<()> {
    if SYNC_SIGNALS.contains(&sig) {
        trap::install_fault_handlers();
        return Ok(());
    }
    trap::install(sig, trap::async_handler(), if restart { libc::SA_RESTART } else { 0 })
}

/// Stops noting `sig`: back to the default action, or ignored.
pub fn unwatch(sig: i32, ignore: bool) -> io::Result<()> {
    if SYNC_SIGNALS.contains(&sig) {
        return Ok(());
    }
    // SAFETY: SIG_DFL and SIG_IGN are valid dispositions.
    let r = unsafe { libc::signal(sig, if ignore { libc::SIG_IGN } else { libc::SIG_DFL }) };
    if r == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The oldest noted signal of this thread, if any. All signals stay blocked until [`set_mask`].
#[must_use]
pub fn take_pending() -> Option<RawSiginfo> {
    let old = swap_mask(BLOCKABLE);
    let info = slot::pop_pending();
    if info.is_none() {
        swap_mask(old);
    }
    info
}

/// The number of this thread's oldest noted signal, which stays noted.
#[must_use]
pub fn next_pending() -> Option<i32> {
    slot::oldest_pending()
}

/// Sets the current thread's signal mask (kernel layout, bit `sig - 1`). The synchronous ones stay unblocked on the host.
pub fn set_mask(mask: u64) {
    swap_mask(mask & BLOCKABLE);
}

/// The current thread's signal mask on the host.
#[must_use]
pub fn mask() -> u64 {
    // SAFETY: a null new set only reads.
    unsafe { change_mask(core::ptr::null()) }
}

/// Sets the mask that a program is to have which is about to be executed, the synchronous signals included.
pub fn hand_on_mask(mask: u64) {
    swap_mask(mask);
}

fn swap_mask(mask: u64) -> u64 {
    // SAFETY: a valid 8-byte set.
    unsafe { change_mask(&mask) }
}

/// # Safety
/// `new` is null or points to a kernel signal set.
unsafe fn change_mask(new: *const u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: both sets are 8 bytes, as the last argument says. The raw call: libc's would keep its own two signals open.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, new, &mut old, 8usize) };
    old
}

/// Makes thread `tid` of process `pid`, which shares this memory, stop running guest code soon: it leaves at the next guest instruction boundary. If it is
/// doing something else it will notice before it next enters.
pub fn kick(pid: i32, tid: i32) {
    expect_kicks();
    let mut info: RawSiginfo = [0; 128];
    for (word, value) in info.chunks_exact_mut(4).zip([KICK, MARK, libc::SI_QUEUE]) {
        word.copy_from_slice(&value.to_ne_bytes());
    }
    // SAFETY: a signal to a thread in this memory, with a handler installed, and a whole siginfo. A thread that has ended is no matter.
    unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, KICK, info.as_ptr()) };
}

/// Is this signal of number [`KICK`] a kick? One that says nothing about its sender, a process in this namespace, has lost what it said: the
/// host's kernel was short of memory, or its user at the limit of waiting signals.
pub(crate) fn is_kick(info: &RawSiginfo) -> bool {
    let word = |i: usize| i32::from_ne_bytes([info[4 * i], info[4 * i + 1], info[4 * i + 2], info[4 * i + 3]]);
    let (errno, code, pid) = (word(1), word(2), word(4));
    code == libc::SI_QUEUE && errno == MARK || code == libc::SI_USER && errno == 0 && pid == 0
}

/// Has the current thread do what a kick from another one would make it do.
pub fn kick_self() {
    slot::raise();
}

/// Says that the current thread has attended to its kicks: they no longer keep it from running guest code. Waiting signals still do.
pub fn attended() {
    slot::lower();
}

/// Makes sure that this process survives a kick.
pub fn expect_kicks() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        trap::install(KICK, trap::kick_handler(), libc::SA_RESTART).expect("handler for the kick signal");
    });
}

/// The kernel's id of the current process.
#[must_use]
pub fn process_id() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::getpid() }
}

/// The kernel's id of the current thread.
#[must_use]
pub fn thread_id() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::gettid() }
}

/// Gives the current thread an alternate signal stack, on which all handlers run. Once per thread, before it runs guest code.
pub fn use_alternate_stack() -> io::Result<()> {
    thread_local! {
        static STACK: std::cell::RefCell<Option<memmap2::MmapMut>> = const { std::cell::RefCell::new(None) };
    }
    STACK.with(|s| {
        let mut s = s.borrow_mut();
        if s.is_some() {
            return Ok(());
        }
        // Room for the kernel's frame with AVX-512 state (AT_MINSIGSTKSZ, under 4 KB) many times over.
        let map = memmap2::MmapOptions::new().len(64 << 10).no_reserve_swap().map_anon()?;
        let st = libc::stack_t { ss_sp: map.as_ptr() as *mut _, ss_flags: 0, ss_size: map.len() };
        // SAFETY: the stack lives as long as the thread.
        if unsafe { libc::sigaltstack(&st, core::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        *s = Some(map);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simultaneous_signals_are_noted_one_by_one() {
        use_alternate_stack().unwrap();
        let (first, second) = (libc::SIGUSR1, libc::SIGURG);
        for sig in [first, second] {
            watch(sig, false).unwrap();
        }
        let old = mask();
        set_mask(u64::MAX);
        // SAFETY: signals to this very thread, which are watched.
        unsafe {
            libc::pthread_kill(libc::pthread_self(), second);
            libc::pthread_kill(libc::pthread_self(), first);
        }
        // Both may come in now, and the kernel starts with the smaller number; the other one waits for its turn.
        for sig in [first, second] {
            set_mask(old);
            let number = |info: RawSiginfo| i32::from_le_bytes([info[0], info[1], info[2], info[3]]);
            assert_eq!(take_pending().map(number), Some(sig));
        }
        set_mask(old);
        assert_eq!(take_pending(), None);
    }
}
