//! Loads and stores that report a fault instead of dying of it.
//!
//! Each routine is a few instructions between two labels. The fault handler recognises an instruction pointer
//! in that range and continues at the `fail` label, which returns with the error flag set: no cost as long as
//! nothing faults. A store that faults has written nothing (a page-crossing store checks both pages first),
//! except in [`copy_in`] and [`copy_out`], which report how far they came.

use crate::slot::{self, HostFault};
use core::arch::global_asm;

/// The access faulted; what the kernel said is inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccessFault(pub HostFault);

/// RAX and RDX of a routine below.
#[repr(C)]
struct Ret {
    value: u64,
    failed: u64,
}

global_asm!(
    ".pushsection .text.xlat86_access, \"ax\", @progbits",
    ".balign 64",
    ".globl xlat86_access_start",
    "xlat86_access_start:",
    ".globl xlat86_load8, xlat86_load16, xlat86_load32, xlat86_load64, xlat86_load128, xlat86_store8, xlat86_store16, xlat86_store32, xlat86_store64, xlat86_store128, xlat86_cas8, xlat86_cas16, xlat86_cas32, xlat86_cas64, xlat86_copy",
    // rdi: address. rax: value, rdx: failed.
    "xlat86_load8:  movzx eax, byte ptr [rdi]",
    "xor edx, edx",
    "ret",
    "xlat86_load16: movzx eax, word ptr [rdi]",
    "xor edx, edx",
    "ret",
    "xlat86_load32: mov eax, [rdi]",
    "xor edx, edx",
    "ret",
    "xlat86_load64: mov rax, [rdi]",
    "xor edx, edx",
    "ret",
    // rdi: address, rsi: where to put the 16 bytes.
    "xlat86_load128: movdqu xmm0, [rdi]",
    "movdqu [rsi], xmm0",
    "xor edx, edx",
    "ret",
    // rdi: address, rsi: value.
    "xlat86_store8:  mov [rdi], sil",
    "xor edx, edx",
    "ret",
    "xlat86_store16: mov [rdi], si",
    "xor edx, edx",
    "ret",
    "xlat86_store32: mov [rdi], esi",
    "xor edx, edx",
    "ret",
    "xlat86_store64: mov [rdi], rsi",
    "xor edx, edx",
    "ret",
    // rdi: address, rsi: the 16 bytes.
    "xlat86_store128: movdqu xmm0, [rsi]",
    "movdqu [rdi], xmm0",
    "xor edx, edx",
    "ret",
    // rdi: address, rsi: expected, rdx: new. rax: what was there.
    "xlat86_cas8:  mov rax, rsi",
    "mov rcx, rdx",
    "lock cmpxchg [rdi], cl",
    "movzx eax, al",
    "xor edx, edx",
    "ret",
    "xlat86_cas16: mov rax, rsi",
    "mov rcx, rdx",
    "lock cmpxchg [rdi], cx",
    "movzx eax, ax",
    "xor edx, edx",
    "ret",
    "xlat86_cas32: mov eax, esi",
    "mov ecx, edx",
    "lock cmpxchg [rdi], ecx",
    "xor edx, edx",
    "ret",
    "xlat86_cas64: mov rax, rsi",
    "mov rcx, rdx",
    "lock cmpxchg [rdi], rcx",
    "xor edx, edx",
    "ret",
    // rdi: destination, rsi: source, rdx: bytes. rax: bytes not copied.
    "xlat86_copy: mov rcx, rdx",
    "rep movsb",
    "mov rax, rcx",
    "xor edx, edx",
    "ret",
    ".globl xlat86_access_end",
    "xlat86_access_end:",
    ".globl xlat86_access_fail",
    "xlat86_access_fail: mov rax, rcx",
    "mov edx, 1",
    "ret",
    ".popsection",
);

#[allow(unreachable_pub)]
unsafe extern "C" {
    static xlat86_access_start: u8;
    static xlat86_access_end: u8;
    static xlat86_access_fail: u8;
    fn xlat86_load8(p: *const u8) -> Ret;
    fn xlat86_load16(p: *const u8) -> Ret;
    fn xlat86_load32(p: *const u8) -> Ret;
    fn xlat86_load64(p: *const u8) -> Ret;
    fn xlat86_load128(p: *const u8, to: *mut u128) -> Ret;
    fn xlat86_store8(p: *mut u8, v: u64) -> Ret;
    fn xlat86_store16(p: *mut u8, v: u64) -> Ret;
    fn xlat86_store32(p: *mut u8, v: u64) -> Ret;
    fn xlat86_store64(p: *mut u8, v: u64) -> Ret;
    fn xlat86_store128(p: *mut u8, v: *const u128) -> Ret;
    fn xlat86_cas8(p: *mut u8, old: u64, new: u64) -> Ret;
    fn xlat86_cas16(p: *mut u8, old: u64, new: u64) -> Ret;
    fn xlat86_cas32(p: *mut u8, old: u64, new: u64) -> Ret;
    fn xlat86_cas64(p: *mut u8, old: u64, new: u64) -> Ret;
    fn xlat86_copy(to: *mut u8, from: *const u8, len: u64) -> Ret;
}

/// Where to continue when an instruction at `rip` faults, if it is one of the routines above.
pub(crate) fn fixup(rip: u64) -> Option<u64> {
    let start = &raw const xlat86_access_start as u64;
    let end = &raw const xlat86_access_end as u64;
    (start..end).contains(&rip).then_some(&raw const xlat86_access_fail as u64)
}

fn check(r: Ret) -> Result<u64, AccessFault> {
    if r.failed == 0 { Ok(r.value) } else { Err(AccessFault(slot::last())) }
}

/// Loads `size` (1, 2, 4 or 8) bytes.
///
/// # Safety
/// `p` is in a guest window (mapped or not), and [`crate::install_fault_handlers`] has run.
#[inline]
pub(crate) unsafe fn load(p: *const u8, size: usize) -> Result<u64, AccessFault> {
    // SAFETY: the routine reads only `p`, by the caller's contract guest memory, and survives a fault there.
    check(unsafe {
        match size {
            1 => xlat86_load8(p),
            2 => xlat86_load16(p),
            4 => xlat86_load32(p),
            _ => xlat86_load64(p),
        }
    })
}

/// Loads 16 bytes. Not atomic.
///
/// # Safety
/// As for [`load`].
pub(crate) unsafe fn load128(p: *const u8) -> Result<u128, AccessFault> {
    let mut v = 0;
    // SAFETY: as in `load`; `v` is ours.
    check(unsafe { xlat86_load128(p, &mut v) }).map(|_| v)
}

/// Stores the low `size` (1, 2, 4 or 8) bytes of `v`.
///
/// # Safety
/// As for [`load`].
#[inline]
pub(crate) unsafe fn store(p: *mut u8, size: usize, v: u64) -> Result<(), AccessFault> {
    // SAFETY: the routine writes only `p`, by the caller's contract guest memory, and survives a fault there.
    check(unsafe {
        match size {
            1 => xlat86_store8(p, v),
            2 => xlat86_store16(p, v),
            4 => xlat86_store32(p, v),
            _ => xlat86_store64(p, v),
        }
    })
    .map(drop)
}

/// Stores 16 bytes. Not atomic.
///
/// # Safety
/// As for [`load`].
pub(crate) unsafe fn store128(p: *mut u8, v: u128) -> Result<(), AccessFault> {
    // SAFETY: as in `store`.
    check(unsafe { xlat86_store128(p, &v) }).map(drop)
}

/// Atomically replaces `old` by `new`; gives what was there before.
///
/// # Safety
/// As for [`load`].
pub(crate) unsafe fn compare_exchange(p: *mut u8, size: usize, old: u64, new: u64) -> Result<u64, AccessFault> {
    // SAFETY: as in `store`.
    check(unsafe {
        match size {
            1 => xlat86_cas8(p, old, new),
            2 => xlat86_cas16(p, old, new),
            4 => xlat86_cas32(p, old, new),
            _ => xlat86_cas64(p, old, new),
        }
    })
}

/// Copies `len` bytes where one side is guest memory; on a fault gives the number of bytes that were copied.
///
/// # Safety
/// The other side is valid for `len` bytes; the guest side is in a guest window; handlers are installed.
pub(crate) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> Result<(), (usize, AccessFault)> {
    // SAFETY: the contract above.
    let r = unsafe { xlat86_copy(to, from, len as u64) };
    if r.failed == 0 { Ok(()) } else { Err((len - r.value as usize, AccessFault(slot::last()))) }
}
