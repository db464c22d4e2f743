//! The host's clock as the guest sees it.

/// The time stamp counter.
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC has no side effects.
    unsafe { core::arch::x86_64::_rdtsc() }
}
