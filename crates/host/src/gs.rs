//! The host's GS segment, which neither Rust nor libc uses: its base is that of a guest window, or where landings load from.

use crate::slot;

/// Makes `base` the base of the current thread's GS segment, which nothing else on this host uses.
pub fn set_gs_base(base: u64) {
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    const ARCH_SET_GS: i32 = 0x1001;
    static FAST: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        // SAFETY: no arguments that could be wrong.
        (unsafe { libc::getauxval(libc::AT_HWCAP2) }) & HWCAP2_FSGSBASE != 0
    });
    if slot::replace_gs_base(base) == Some(base) {
        return;
    }
    if *FAST {
        // SAFETY: the kernel says that the instruction is enabled; Rust and libc don't use GS.
        unsafe { core::arch::asm!("wrgsbase {}", in(reg) base, options(nostack, preserves_flags)) };
    } else {
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actual() -> u64 {
        const ARCH_GET_GS: i32 = 0x1004;
        let mut base = 0u64;
        // SAFETY: stores to the variable.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_GS, &raw mut base) };
        base
    }

    #[test]
    fn each_thread_has_its_base() {
        for base in [0x1000, 0x1000, 0x7fff_0000_0000, 0] {
            set_gs_base(base);
            assert_eq!(actual(), base);
            // The kernel hands a thread's base on to those it makes.
            std::thread::spawn(|| {
                set_gs_base(0x5000);
                assert_eq!(actual(), 0x5000);
            })
            .join()
            .unwrap();
            assert_eq!(actual(), base);
        }
    }

    #[test]
    fn a_new_thread_knows_no_base() {
        set_gs_base(0x1000);
        std::thread::spawn(|| {
            set_gs_base(0);
            assert_eq!(actual(), 0);
        })
        .join()
        .unwrap();
        set_gs_base(0);
    }
}
