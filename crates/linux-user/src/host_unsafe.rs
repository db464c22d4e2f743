//! Raw calls to the host's kernel: the only unsafe code of user mode.
//!
//! An [`Arg`] is built only from a number, from a guest address (below 4 GB, where nothing but guest memory ever
//! lives) or from a Rust reference, so the kernel can write only to guest memory or to what was lent to it mutably. That
//! covers calls whose effect goes through their pointers. Calls that change *mappings* take bare addresses; [`call`]
//! refuses them, and the functions below make them with addresses that are 32 bits wide by type.

use std::ffi::CStr;
use std::io::Read;
use std::marker::PhantomData;
use syscalls::{Errno, Sysno};
use xlat86_host::syscall::{self, NotStarted};
use zerocopy::{FromBytes, IntoBytes};

/// One argument of a host system call.
#[derive(Clone, Copy)]
pub struct Arg<'a>(u64, PhantomData<&'a mut ()>);

impl<'a> Arg<'a> {
    const fn of(v: u64) -> Self {
        Arg(v, PhantomData)
    }
    /// A signed guest value (descriptor, pid, int), sign-extended.
    pub const fn int(v: u32) -> Self {
        Self::of(v as i32 as i64 as u64)
    }
    /// An unsigned guest value or a guest address, zero-extended.
    pub const fn uint(v: u32) -> Self {
        Self::of(v as u64)
    }
    /// A 64-bit number. Not for pointers: nothing accepts one.
    pub const fn wide(v: u64) -> Self {
        Self::of(v)
    }
    /// The null pointer, or zero.
    pub const NULL: Arg<'static> = Arg::of(0);
    /// Memory the kernel reads.
    pub fn input<T: IntoBytes + zerocopy::Immutable + ?Sized>(v: &'a T) -> Self {
        Self::of(v.as_bytes().as_ptr() as u64)
    }
    /// Memory the kernel writes, of the size that the call writes for its other arguments.
    pub fn output<T: FromBytes + IntoBytes + ?Sized>(v: &'a mut T) -> Self {
        Self::of(v.as_mut_bytes().as_mut_ptr() as u64)
    }
    /// A path or another string.
    pub fn cstr(v: &'a CStr) -> Self {
        Self::of(v.as_ptr() as u64)
    }
    /// The value itself, for structures that hold pointers.
    pub fn raw(self) -> u64 {
        self.0
    }
}

/// Calls that act on addresses as such. They have their own functions here, or no business in user mode.
const ADDRESS_CALLS: [Sysno; 12] = [
    Sysno::mmap,
    Sysno::munmap,
    Sysno::mremap,
    Sysno::mprotect,
    Sysno::pkey_mprotect,
    Sysno::brk,
    Sysno::shmat,
    Sysno::shmdt,
    Sysno::remap_file_pages,
    Sysno::madvise,
    Sysno::arch_prctl,
    Sysno::rt_sigreturn,
];

fn spread(args: &[Arg<'_>]) -> [u64; 6] {
    let mut a = [0; 6];
    for (to, from) in a.iter_mut().zip(args) {
        *to = from.0;
    }
    a
}

/// Makes a host system call to its end. A signal that arrives meanwhile makes a blocking call give `EINTR`.
pub(crate) fn call(nr: Sysno, args: &[Arg<'_>]) -> Result<u64, Errno> {
    if ADDRESS_CALLS.contains(&nr) {
        return Err(Errno::ENOSYS);
    }
    raw(nr, spread(args))
}

/// Makes a host system call on behalf of the guest: not started when a signal waits for the guest.
pub(crate) fn interruptible(nr: Sysno, args: &[Arg<'_>]) -> Result<Result<u64, Errno>, NotStarted> {
    if ADDRESS_CALLS.contains(&nr) {
        return Ok(Err(Errno::ENOSYS));
    }
    // SAFETY: `Arg` admits only memory that is the guest's or lent for this call; calls on addresses are excluded above.
    let r = unsafe { syscall::interruptible(i64::from(nr.id()), spread(args)) }?;
    Ok(Errno::from_ret(r as usize).map(|v| v as u64))
}

fn raw(nr: Sysno, a: [u64; 6]) -> Result<u64, Errno> {
    let a = a.map(|v| v as usize);
    // SAFETY: either as in `interruptible`, or one of this file's functions that name guest addresses only.
    let r = unsafe { syscalls::raw::syscall6(nr.id() as usize, a[0], a[1], a[2], a[3], a[4], a[5]) };
    Errno::from_ret(r).map(|v| v as u64)
}

/// The guest's window: the host's low 4 GB.
pub(crate) fn low_window() -> xlat86_host::Window {
    xlat86_host::install_fault_handlers();
    // SAFETY: the emulator is a position-independent program, loaded far above 4 GB with everything the C library maps; only
    // this file maps below, and only for the guest. The handlers have just been installed.
    unsafe { xlat86_host::Window::low() }
}

/// A value of the emulator's own auxiliary vector, 0 if absent.
pub(crate) fn auxv(kind: u64) -> u64 {
    // SAFETY: reads a table of the C library.
    unsafe { libc::getauxval(kind) }
}

/// Host mapping flag: fail rather than replace.
pub(crate) const MAP_FIXED_NOREPLACE: u32 = libc::MAP_FIXED_NOREPLACE as u32;

/// Maps `len` bytes at exactly `addr`; `flags` holds `MAP_FIXED` or `MAP_FIXED_NOREPLACE`, `prot` never execution.
pub(crate) fn map(addr: u32, len: u32, prot: u32, flags: u32, fd: i32, offset: u64) -> Result<(), Errno> {
    let fixed = libc::MAP_FIXED as u32 | MAP_FIXED_NOREPLACE;
    if flags & fixed == 0 || u64::from(addr) + u64::from(len) > 1 << 32 {
        return Err(Errno::EINVAL);
    }
    let prot = u64::from(prot & !(libc::PROT_EXEC as u32));
    let at = raw(Sysno::mmap, [addr.into(), len.into(), prot, flags.into(), fd as i64 as u64, offset])?;
    if at != u64::from(addr) {
        // A kernel older than 4.17 takes NOREPLACE as a hint.
        raw(Sysno::munmap, [at, len.into(), 0, 0, 0, 0])?;
        return Err(Errno::EEXIST);
    }
    Ok(())
}

/// Unmaps guest pages.
pub(crate) fn unmap(addr: u32, len: u32) -> Result<(), Errno> {
    raw(Sysno::munmap, [addr.into(), len.into(), 0, 0, 0, 0]).map(drop)
}

/// Changes the protection of guest pages; execution stays off on the host.
pub(crate) fn protect(addr: u32, len: u32, prot: u32) -> Result<(), Errno> {
    let prot = u64::from(prot & !(libc::PROT_EXEC as u32));
    raw(Sysno::mprotect, [addr.into(), len.into(), prot, 0, 0, 0]).map(drop)
}

/// Moves or resizes guest pages to exactly `new`.
pub(crate) fn remap(old: u32, old_len: u32, new_len: u32, flags: u32, new: u32) -> Result<u32, Errno> {
    raw(Sysno::mremap, [old.into(), old_len.into(), new_len.into(), flags.into(), new.into(), 0]).map(|v| v as u32)
}

/// Advice on guest pages.
pub(crate) fn advise(addr: u32, len: u32, advice: u32) -> Result<(), Errno> {
    raw(Sysno::madvise, [addr.into(), len.into(), advice.into(), 0, 0, 0]).map(drop)
}

/// Attaches a System V segment at exactly `addr`.
pub(crate) fn shm_attach(id: u32, addr: u32, flags: u32) -> Result<(), Errno> {
    raw(Sysno::shmat, [Arg::int(id).0, addr.into(), u64::from(flags & !0o100_000), 0, 0, 0]).map(drop)
}

/// Detaches the System V segment at `addr`.
pub(crate) fn shm_detach(addr: u32) -> Result<(), Errno> {
    raw(Sysno::shmdt, [addr.into(), 0, 0, 0, 0, 0]).map(drop)
}

/// Sends this thread the signal that shows `block` to whoever traces this process; `info` makes its siginfo from the
/// block's address. Back when the tracer lets the thread go on; it may have written to the block, and only there.
pub(crate) fn announce<T: FromBytes + IntoBytes>(block: &mut T, info: fn(u64) -> crate::abi::HostSiginfo) {
    let info = info(Arg::output(block).0);
    let (pid, tid) = (std::process::id(), xlat86_host::signals::thread_id() as u32);
    let sig = Arg::int(xlat86_host::signals::KICK as u32);
    let _ = call(Sysno::rt_tgsigqueueinfo, &[Arg::int(pid), Arg::int(tid), sig, Arg::input(&info)]);
}

/// Does any process trace this thread?
pub(crate) fn is_traced() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    status.lines().any(|l| l.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
}

/// Reads memory of another process.
pub(crate) fn peer_read(pid: u32, at: u64, to: &mut [u8]) -> Result<(), Errno> {
    let len = to.len() as u64;
    peer(Sysno::process_vm_readv, pid, at, Arg::output(to).0, len)
}

/// Writes memory of another process. Only a tracer's: of the block that the other has shown it.
pub(crate) fn peer_write(pid: u32, at: u64, from: &[u8]) -> Result<(), Errno> {
    peer(Sysno::process_vm_writev, pid, at, Arg::input(from).0, from.len() as u64)
}

fn peer(nr: Sysno, pid: u32, at: u64, local: u64, len: u64) -> Result<(), Errno> {
    let (local, remote) = ([local, len], [at, len]);
    let n = call(nr, &[Arg::int(pid), Arg::input(&local), Arg::uint(1), Arg::input(&remote), Arg::uint(1), Arg::NULL])?;
    if n == len { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Tells the host's kernel where a guest's program, stack, arguments and environment are, so that /proc shows every
/// process those rather than the emulator's. A kernel that can't be told goes on showing the emulator's. The auxiliary
/// vector is in guest memory; the kernel takes its 32-bit pairs for 64-bit words, and gives them out as they are.
pub(crate) fn describe_process(code: (u32, u32), placed: &crate::stack::Placed) {
    let (args, env, (auxv, auxv_size)) = (placed.args, placed.env, placed.auxv);
    // The emulator's own heap has to stay what it is: field 47 of its stat line, and where the heap ends now.
    let mut stat = [0; 1024];
    let len = std::fs::File::open("/proc/self/stat").and_then(|mut f| f.read(&mut stat)).unwrap_or(0);
    let stat = String::from_utf8_lossy(&stat[..len]);
    let after_name = stat.rsplit_once(')').map_or("", |s| s.1);
    let Some(start_brk) = after_name.split_whitespace().nth(47 - 3).and_then(|f| f.parse::<u64>().ok()) else { return };
    let Ok(brk) = raw(Sysno::brk, [0; 6]) else { return };
    let (code, args, env) = (wide(code), wide(args), wide(env));
    // struct prctl_mm_map: code, data, heap, stack, arguments, environment; auxiliary vector and its
    // size, with no other program file.
    let size_and_no_exe = u64::from(u32::MAX) << 32 | u64::from(auxv_size);
    let map: [u64; 13] = [
        code.0,
        code.1,
        code.0,
        code.1,
        start_brk,
        brk,
        placed.esp.into(),
        args.0,
        args.1,
        env.0,
        env.1,
        auxv.into(),
        size_and_no_exe,
    ];
    // The map's numbers only describe; of them the kernel acts on the heap's alone, and these are its own.
    let args =
        [libc::PR_SET_MM as u64, libc::PR_SET_MM_MAP as u64, map.as_ptr() as u64, size_of_val(&map) as u64, 0, 0];
    let _ = raw(Sysno::prctl, args);
}

fn wide((from, to): (u32, u32)) -> (u64, u64) {
    (from.into(), to.into())
}

/// The host's answer to reading `clock`, through its vDSO: no kernel entry for the usual ones.
pub(crate) fn clock_gettime(clock: i32) -> Result<(i64, i64), Errno> {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is ours.
    match unsafe { libc::clock_gettime(clock, &mut ts) } {
        0 => Ok((ts.tv_sec, ts.tv_nsec)),
        _ => Err(Errno::last()),
    }
}

/// The CPU that this thread runs on.
pub(crate) fn cpu() -> Option<u32> {
    // SAFETY: no arguments.
    u32::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// Which of the two processes after a fork this is.
pub(crate) enum Forked {
    /// The child.
    Child,
    /// The parent, with the child's pid.
    Parent(u32),
}

/// Forks the process. Only the calling thread lives on in the child.
pub(crate) fn fork() -> Result<Forked, Errno> {
    // SAFETY: the C library's fork keeps its own locks consistent; the caller holds this process's.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        -1 => Err(Errno::last()),
        pid => Ok(Forked::Parent(pid as u32)),
    }
}

/// Forks with flags of clone (namespaces, another exit signal), and a descriptor for the child if asked for.
pub(crate) fn fork_with(flags: u64, pidfd: Option<&mut u32>) -> Result<Forked, Errno> {
    let fd_flag = if pidfd.is_some() { libc::CLONE_PIDFD as u64 } else { 0 };
    let fd_at = pidfd.map_or(0, |p| Arg::output(p).0);
    let flags = flags & !(libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_SETTLS) as u32 as u64 | fd_flag;
    // Without CLONE_VM and with no stack given, the child is a copy that returns here as the parent does.
    match raw(Sysno::clone, [flags, 0, fd_at, 0, 0, 0])? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as u32)),
    }
}

/// Runs `child` in a new process that shares this one's memory, as vfork does: the calling thread waits until the child
/// has executed another program or died. `child` runs on a stack of its own and must not return normally: its
/// result is the exit status.
///
/// The child uses the caller's thread-locals, which is sound because the caller stands still.
pub(crate) fn vfork(flags: i32, child: &mut dyn FnMut() -> i32) -> Result<u32, Errno> {
    const STACK: usize = 1 << 20;
    extern "C" fn enter(arg: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `arg` is the reference that `vfork` passed; its caller waits for us.
        let child = unsafe { &mut *arg.cast::<&mut dyn FnMut() -> i32>() };
        child()
    }
    let stack = new_stack(STACK)?;
    let mut child = child;
    let flags = flags & !libc::CLONE_SETTLS | libc::CLONE_VM | libc::CLONE_VFORK;
    // SAFETY: the stack is ours and outlives the child's use of this memory (CLONE_VFORK); `child` likewise.
    let pid = unsafe { libc::clone(enter, stack.top(), flags, (&raw mut child).cast()) };
    if pid < 0 { Err(Errno::last()) } else { Ok(pid as u32) }
}

/// Runs `f` on a new, detached thread with a stack of `stack` bytes.
///
/// Not by the standard library, which takes a lock of its own whenever a thread of its making begins or ends: in the child of a fork that
/// struck meanwhile, it would stay locked. The C library's fork sees to those of its threads.
pub(crate) fn spawn(stack: usize, f: impl FnOnce() + Send + 'static) -> Result<(), Errno> {
    type Main = Box<dyn FnOnce() + Send>;
    extern "C" fn enter(arg: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: the box that `spawn` has given away, to this thread alone.
        let f = unsafe { Box::from_raw(arg.cast::<Main>()) };
        f();
        std::ptr::null_mut()
    }
    let arg: *mut Main = Box::into_raw(Box::new(Box::new(f)));
    // SAFETY: the attributes are initialised before they are used and live until the thread is made; `enter` takes `arg` over if it is.
    let error = unsafe {
        let (mut thread, mut attr) = (std::mem::zeroed(), std::mem::zeroed());
        libc::pthread_attr_init(&mut attr);
        libc::pthread_attr_setstacksize(&mut attr, stack);
        libc::pthread_attr_setdetachstate(&mut attr, libc::PTHREAD_CREATE_DETACHED);
        let error = libc::pthread_create(&mut thread, &attr, enter, arg.cast());
        libc::pthread_attr_destroy(&mut attr);
        error
    };
    if error != 0 {
        // SAFETY: no thread has taken it.
        drop(unsafe { Box::from_raw(arg) });
        return Err(Errno::new(error));
    }
    Ok(())
}

struct Stack(*mut libc::c_void, usize);

impl Stack {
    fn top(&self) -> *mut libc::c_void {
        self.0.wrapping_byte_add(self.1)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped by `new_stack`, and nobody runs on it any more.
        unsafe { libc::munmap(self.0, self.1) };
    }
}

fn new_stack(len: usize) -> Result<Stack, Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping wherever the host likes: above 4 GB, as it is for every mapping without an address.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if p == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(Stack(p, len)) }
}

/// Ends the process, all threads of it, without running anything else.
pub(crate) fn exit_group(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// Ends only the calling thread. For the main thread the process lives on while others do.
pub(crate) fn exit_thread(status: i32) -> ! {
    loop {
        // SAFETY: ends the thread; its Rust frames are never returned to, and own nothing that others wait for.
        unsafe { libc::syscall(libc::SYS_exit, i64::from(status)) };
    }
}

/// Replaces this process by another program. Returns only on failure.
pub(crate) fn execve(path: &CStr, argv: &[std::ffi::CString], envp: &[std::ffi::CString]) -> Errno {
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: null-terminated lists of null-terminated strings, alive during the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Errno::last()
}

/// Replaces this process by the program in descriptor `fd`. Returns only on failure.
pub(crate) fn execve_fd(fd: i32, argv: &[std::ffi::CString], envp: &[std::ffi::CString]) -> Errno {
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: as in `execve`.
    unsafe { libc::syscall(libc::SYS_execveat, fd, c"".as_ptr(), argv.as_ptr(), envp.as_ptr(), libc::AT_EMPTY_PATH) };
    Errno::last()
}

fn pointers(v: &[std::ffi::CString]) -> Vec<*const libc::c_char> {
    v.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Restores the default action of `sig`, opens the mask for it and sends it to this process: how a guest dies of it. With `core`,
/// its core has been written to the current directory, and its parent is to hear of one.
pub(crate) fn die_by_signal(sig: i32, core: bool) -> ! {
    // The host's kernel says so only if it writes one itself: as little as it may, to where nobody finds it.
    let kernels_own = if core && enter_nowhere().is_ok() { 4096 } else { 0 };
    let _ = std::fs::write("/proc/self/coredump_filter", "0");
    // SAFETY: plain calls.
    unsafe {
        let limit = libc::rlimit { rlim_cur: kernels_own, rlim_max: kernels_own };
        libc::setrlimit(libc::RLIMIT_CORE, &limit);
        libc::signal(sig, libc::SIG_DFL);
        let bit = 1u64 << (sig - 1);
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_UNBLOCK, &bit, 0usize, 8usize);
        libc::kill(libc::getpid(), sig);
        libc::_exit(128 + sig)
    }
}

/// Makes the current directory a file system of this process's own that is mounted nowhere. Without privileges this takes a user
/// namespace, which a process with several threads can't enter.
fn enter_nowhere() -> Result<u64, Errno> {
    if let Err(e) = call(Sysno::unshare, &[Arg::uint((libc::CLONE_NEWNS | libc::CLONE_FS) as u32)]) {
        crate::root::own_user_namespace().map_err(|_| e)?;
    }
    let fs = call(Sysno::fsopen, &[Arg::cstr(c"tmpfs"), Arg::NULL])? as u32;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    call(Sysno::fsconfig, &[Arg::int(fs), Arg::uint(FSCONFIG_CMD_CREATE), Arg::NULL, Arg::NULL, Arg::NULL])?;
    let mount = call(Sysno::fsmount, &[Arg::int(fs), Arg::NULL, Arg::NULL])? as u32;
    call(Sysno::fchdir, &[Arg::int(mount)])
}

/// Takes the default action of a signal that stops the process (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU) and comes back.
pub(crate) fn stop_process() {
    // SAFETY: stops this process until SIGCONT.
    unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
}

/// What this process was started with, noted before the Rust runtime changed it.
pub(crate) mod inherited {
    use std::io::Read;
    use std::sync::atomic::{AtomicU8, Ordering};

    static SIGPIPE_IGNORED: AtomicU8 = AtomicU8::new(0);
    static CLOSED: AtomicU8 = AtomicU8::new(0);

    // The Rust runtime ignores SIGPIPE and opens /dev/null on closed standard descriptors before `main`; a guest must see
    // neither. Initialisers run before the runtime's start.
    // SAFETY: an initialiser array entry is a function pointer of this type.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static NOTE: extern "C" fn() = {
        extern "C" fn note() {
            // SAFETY: reading the disposition and probing descriptors changes nothing.
            unsafe {
                let mut sa: libc::sigaction = std::mem::zeroed();
                libc::sigaction(libc::SIGPIPE, std::ptr::null(), &mut sa);
                SIGPIPE_IGNORED.store((sa.sa_sigaction == libc::SIG_IGN) as u8, Ordering::Relaxed);
                for fd in 0..3 {
                    if libc::fcntl(fd, libc::F_GETFD) < 0 {
                        CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
                    }
                }
            }
        }
        note
    };

    /// Undoes what the Rust runtime did, just before the guest starts.
    pub(crate) fn restore() {
        // SAFETY: SIG_DFL is a valid disposition; the descriptors are those the runtime opened.
        unsafe {
            if SIGPIPE_IGNORED.load(Ordering::Relaxed) == 0 {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            }
            for fd in 0..3 {
                if CLOSED.load(Ordering::Relaxed) >> fd & 1 != 0 {
                    libc::close(fd);
                }
            }
        }
    }

    /// The signals that this process was started with ignored: bit `sig - 1`.
    pub(crate) fn ignored() -> u64 {
        // One file says it of all; without /proc each is asked for.
        let mut status = [0; 4096];
        let len = std::fs::File::open("/proc/self/status").and_then(|mut f| f.read(&mut status)).unwrap_or(0);
        let all = ignored_in(&status[..len]);
        let all = all.unwrap_or_else(|| (1..=64).filter(|&sig| is_ignored(sig)).map(|sig| 1 << (sig - 1)).sum());
        let pipe = 1 << (libc::SIGPIPE - 1);
        all & !pipe | if SIGPIPE_IGNORED.load(Ordering::Relaxed) != 0 { pipe } else { 0 }
    }

    /// What /proc's `status` says.
    pub(super) fn ignored_in(status: &[u8]) -> Option<u64> {
        let line = status.split(|&b| b == b'\n').find_map(|l| l.strip_prefix(b"SigIgn:\t"))?;
        u64::from_str_radix(std::str::from_utf8(line.get(..16)?).ok()?, 16).ok()
    }

    /// By the raw call: the C library's refuses the two signals that it keeps for itself, and posix_spawn may leave those ignored.
    pub(super) fn is_ignored(sig: i32) -> bool {
        // The handler, flags, restorer and mask.
        let mut action = [0u64; 4];
        let args = [sig as u64, 0, action.as_mut_ptr() as u64, size_of::<u64>() as u64, 0, 0];
        super::raw(super::Sysno::rt_sigaction, args).is_ok() && action[0] == libc::SIG_IGN as u64
    }
}

/// A file for a descriptor that a host call has just created for the emulator itself.
pub(crate) fn own_fd(fd: i32) -> std::fs::File {
    use std::os::fd::FromRawFd;
    // SAFETY: the caller passes on a descriptor fresh from the kernel, which nobody else owns.
    unsafe { std::fs::File::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::inherited;

    #[test]
    fn ignored_signals_are_those_the_kernel_says() {
        let agree = || {
            let status = std::fs::read("/proc/self/status").unwrap();
            let all = inherited::ignored_in(&status).expect("a line of them");
            // Test programs ignore SIGPIPE, as all of Rust's do.
            all >> (libc::SIGPIPE - 1) & 1 != 0
                && (1..=64).all(|sig| inherited::is_ignored(sig) == (all >> (sig - 1) & 1 != 0))
        };
        // Tests beside this one may change a disposition in between.
        assert!((0..1000).any(|_| agree()));
        assert_eq!(inherited::ignored_in(b"Name:\tx\nSigIgn:\t00000000000010"), None);
        assert_eq!(inherited::ignored_in(b"SigIgn:\t0000000100000002\nSigCgt:\t1"), Some(1 << 32 | 2));
    }
}
