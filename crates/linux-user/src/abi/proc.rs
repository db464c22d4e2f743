//! Process, resource and system layouts.

use super::{HostTimespec, Timespec32, layout, offsets};

layout! {
    /// `struct rusage`: two timevals and fourteen longs.
    Rusage = 72 { utime: Timespec32, stime: Timespec32, counters: [u32; 14] }
}

layout! {
    /// The host's `struct rusage`.
    HostRusage = 144 { utime: HostTimespec, stime: HostTimespec, counters: [i64; 14] }
}

impl From<&HostRusage> for Rusage {
    fn from(h: &HostRusage) -> Self {
        let time = |t: HostTimespec| Timespec32 { sec: t.sec as u32, frac: t.frac as u32 };
        Rusage { utime: time(h.utime), stime: time(h.stime), counters: h.counters.map(|v| v as u32) }
    }
}

layout! {
    /// `struct rlimit` of 32 bits.
    Rlimit = 8 { cur: u32, max: u32 }
}

layout! {
    /// The host's `struct rlimit`, and `rlimit64` everywhere.
    HostRlimit = 16 { cur: u64, max: u64 }
}

layout! {
    /// `struct sysinfo`.
    Sysinfo = 64 {
        uptime: u32, loads: [u32; 3], totalram: u32, freeram: u32, sharedram: u32, bufferram: u32, totalswap: u32,
        freeswap: u32, procs: u16, pad: u16, totalhigh: u32, freehigh: u32, mem_unit: u32, tail: [u8; 8],
    }
}
offsets!(Sysinfo { procs: 40, totalhigh: 44 });

layout! {
    /// The host's `struct sysinfo`.
    HostSysinfo = 112 {
        uptime: i64, loads: [u64; 3], ram: [u64; 4], swap: [u64; 2], procs: u16, pad: u16, pad2: u32, high: [u64; 2],
        mem_unit: u32, tail: u32,
    }
}

impl From<&HostSysinfo> for Sysinfo {
    fn from(h: &HostSysinfo) -> Self {
        // The kernel's rule: when memory doesn't fit in 32 bits of the unit, count in pages.
        let mut shift = 0;
        if h.ram[0] >> 32 != 0 || h.swap[0] >> 32 != 0 {
            let mut unit = h.mem_unit;
            while unit < 4096 {
                unit <<= 1;
                shift += 1;
            }
        }
        let m = |v: u64| (v >> shift) as u32;
        Sysinfo {
            uptime: h.uptime as u32,
            loads: h.loads.map(|v| v as u32),
            totalram: m(h.ram[0]),
            freeram: m(h.ram[1]),
            sharedram: m(h.ram[2]),
            bufferram: m(h.ram[3]),
            totalswap: m(h.swap[0]),
            freeswap: m(h.swap[1]),
            procs: h.procs,
            pad: 0,
            totalhigh: m(h.high[0]),
            freehigh: m(h.high[1]),
            mem_unit: h.mem_unit << shift,
            tail: [0; 8],
        }
    }
}

layout! {
    /// `struct new_utsname`, the same on both.
    Utsname = 390 {
        sysname: [u8; 65], nodename: [u8; 65], release: [u8; 65], version: [u8; 65], machine: [u8; 65], domainname: [u8; 65],
    }
}

layout! {
    /// `struct user_desc` (set_thread_area, modify_ldt).
    UserDesc = 16 { entry: u32, base: u32, limit: u32, flags: u32 }
}

impl UserDesc {
    fn bit(&self, n: u32) -> u64 {
        u64::from(self.flags >> n & 1)
    }

    /// True when this clears an entry (`LDT_empty` and `LDT_zero`).
    pub fn is_empty(&self) -> bool {
        // read_exec_only and seg_not_present with everything else clear, or all zero.
        self.base == 0 && self.limit == 0 && (self.flags & 0x7f == 0x28 || self.flags & 0x7f == 0)
    }

    /// The descriptor this describes (SDM vol. 3A, figure 3-8), with the accessed bit set as Linux does.
    pub fn descriptor(&self) -> u64 {
        let (base, limit) = (u64::from(self.base), u64::from(self.limit));
        let contents = u64::from(self.flags >> 1 & 3);
        let typ = (self.bit(3) ^ 1) << 1 | contents << 2 | 1;
        limit & 0xffff
            | (base & 0xff_ffff) << 16
            | typ << 40
            | 1 << 44
            | 3 << 45
            | (self.bit(5) ^ 1) << 47
            | (limit >> 16 & 0xf) << 48
            | self.bit(6) << 52
            | self.bit(0) << 54
            | self.bit(4) << 55
            | (base >> 24) << 56
    }

    /// What get_thread_area reports for a descriptor.
    pub fn from_descriptor(entry: u32, d: u64) -> Self {
        let bit = |n: u32| (d >> n & 1) as u32;
        let base = (d >> 16 & 0xff_ffff | d >> 56 << 24) as u32;
        let limit = (d & 0xffff | d >> 32 & 0xf_0000) as u32;
        let flags = bit(54)
            | ((d >> 42 & 3) as u32) << 1
            | (bit(41) ^ 1) << 3
            | bit(55) << 4
            | (bit(47) ^ 1) << 5
            | bit(52) << 6;
        UserDesc { entry, base, limit, flags }
    }
}

layout! {
    /// The host's `struct clone_args` (clone3), the same on both.
    CloneArgs = 88 {
        flags: u64, pidfd: u64, child_tid: u64, parent_tid: u64, exit_signal: u64, stack: u64, stack_size: u64, tls: u64,
        set_tid: u64, set_tid_size: u64, cgroup: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_desc_round_trips_through_a_descriptor() {
        // glibc's TLS entry: 32-bit data, limit in pages, usable.
        let d = UserDesc { entry: 12, base: 0xf7fc_1234, limit: 0xf_ffff, flags: 0x51 };
        assert_eq!(d.descriptor(), 0xf7df_f3fc_1234_ffff);
        assert_eq!(UserDesc::from_descriptor(12, d.descriptor()), d);
    }
}
