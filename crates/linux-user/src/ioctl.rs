//! ioctl: one row per known request. Most carry structures without longs or pointers and go to the host as they
//! are; a row says how many bytes the kernel writes. Unknown requests are refused, because a structure that differs would
//! let the kernel write where the guest doesn't expect it.

use crate::abi::U64;
use crate::host_unsafe::{self as host, Arg};
use crate::task::Task;
use crate::{Stop, SysResult};
use syscalls::{Errno, Sysno};

/// What the argument is.
#[derive(Clone, Copy)]
enum Kind {
    /// A number, or memory that the kernel only reads, with the same layout on both.
    Same,
    /// Memory of the same layout, of which the kernel writes this many bytes.
    Writes(u32),
    /// The same, under another request number on the host.
    As(u64, u32),
    /// A long that the kernel writes.
    OutLong(u64),
    /// `struct ifconf`.
    IfConf,
    /// `struct ifreq`: 32 bytes here, 40 on the host.
    IfReq,
    /// `struct hd_geometry`: two bytes, a short, and a long that is wider on the host.
    Geometry,
    /// Two longs that the kernel writes.
    OldStamp,
}
use Kind::*;

/// Size of `struct termios` with c_line and 19 control characters.
const TERMIOS: u32 = 36;
const TERMIOS2: u32 = 44;
const TERMIO: u32 = 18;

/// Request, name, kind.
#[rustfmt::skip]
static TABLE: &[(u32, &str, Kind)] = &[
    (0x0001, "FIBMAP", Writes(4)),
    (0x0002, "FIGETBSZ", Writes(4)),
    (0x1260, "BLKGETSIZE", OutLong(0x1260)),
    (0x1261, "BLKFLSBUF", Same),
    (0x125d, "BLKROSET", Same),
    (0x125e, "BLKROGET", Writes(4)),
    (0x1268, "BLKSSZGET", Writes(4)),
    (0x1272, "BLKRASET", Same),
    (0x1277, "BLKDISCARD", Same),
    (0x1278, "BLKIOMIN", Writes(4)),
    (0x1279, "BLKIOOPT", Writes(4)),
    (0x127b, "BLKPBSZGET", Writes(4)),
    (0x4c00, "LOOP_SET_FD", Same),
    (0x4c01, "LOOP_CLR_FD", Same),
    (0x4c04, "LOOP_SET_STATUS64", Same),
    (0x4c05, "LOOP_GET_STATUS64", Writes(232)),
    (0x4c82, "LOOP_CTL_GET_FREE", Same),
    (0x5401, "TCGETS", Writes(TERMIOS)),
    (0x5402, "TCSETS", Same),
    (0x5403, "TCSETSW", Same),
    (0x5404, "TCSETSF", Same),
    (0x5405, "TCGETA", Writes(TERMIO)),
    (0x5406, "TCSETA", Same),
    (0x5407, "TCSETAW", Same),
    (0x5408, "TCSETAF", Same),
    (0x5409, "TCSBRK", Same),
    (0x540a, "TCXONC", Same),
    (0x540b, "TCFLSH", Same),
    (0x540c, "TIOCEXCL", Same),
    (0x540d, "TIOCNXCL", Same),
    (0x540e, "TIOCSCTTY", Same),
    (0x540f, "TIOCGPGRP", Writes(4)),
    (0x5410, "TIOCSPGRP", Same),
    (0x5411, "TIOCOUTQ", Writes(4)),
    (0x5412, "TIOCSTI", Same),
    (0x5413, "TIOCGWINSZ", Writes(8)),
    (0x5414, "TIOCSWINSZ", Same),
    (0x5415, "TIOCMGET", Writes(4)),
    (0x5416, "TIOCMBIS", Same),
    (0x5417, "TIOCMBIC", Same),
    (0x5418, "TIOCMSET", Same),
    (0x5419, "TIOCGSOFTCAR", Writes(4)),
    (0x541a, "TIOCSSOFTCAR", Same),
    (0x541b, "FIONREAD", Writes(4)),
    (0x541d, "TIOCCONS", Same),
    (0x5420, "TIOCPKT", Same),
    (0x5421, "FIONBIO", Same),
    (0x5422, "TIOCNOTTY", Same),
    (0x5423, "TIOCSETD", Same),
    (0x5424, "TIOCGETD", Writes(4)),
    (0x5425, "TCSBRKP", Same),
    (0x5427, "TIOCSBRK", Same),
    (0x5428, "TIOCCBRK", Same),
    (0x5429, "TIOCGSID", Writes(4)),
    (0x5441, "TIOCGPTPEER", Same),
    (0x5450, "FIONCLEX", Same),
    (0x5451, "FIOCLEX", Same),
    (0x5452, "FIOASYNC", Same),
    (0x5460, "FIOQSIZE", Writes(8)),
    (0x8901, "FIOSETOWN", Same),
    (0x8902, "SIOCSPGRP", Same),
    (0x8903, "FIOGETOWN", Writes(4)),
    (0x8904, "SIOCGPGRP", Writes(4)),
    (0x8905, "SIOCATMARK", Writes(4)),
    (0x8910, "SIOCGIFNAME", IfReq),
    (0x8912, "SIOCGIFCONF", IfConf),
    (0x8913, "SIOCGIFFLAGS", IfReq),
    (0x8914, "SIOCSIFFLAGS", IfReq),
    (0x8915, "SIOCGIFADDR", IfReq),
    (0x8916, "SIOCSIFADDR", IfReq),
    (0x8917, "SIOCGIFDSTADDR", IfReq),
    (0x8919, "SIOCGIFBRDADDR", IfReq),
    (0x891b, "SIOCGIFNETMASK", IfReq),
    (0x891c, "SIOCSIFNETMASK", IfReq),
    (0x891d, "SIOCGIFMETRIC", IfReq),
    (0x8921, "SIOCGIFMTU", IfReq),
    (0x8922, "SIOCSIFMTU", IfReq),
    (0x8927, "SIOCGIFHWADDR", IfReq),
    (0x8933, "SIOCGIFINDEX", IfReq),
    (0x8942, "SIOCGIFTXQLEN", IfReq),
    // _IOW and _IOR with a size: numbers with a long or pointer differ from the host's.
    (0x4004_6602, "FS_IOC_SETFLAGS", As(0x4008_6602, 0)),
    (0x4004_9409, "FICLONE", Same),
    (0x4020_940d, "FICLONERANGE", Same),
    (0x4004_5431, "TIOCSPTLCK", Same),
    (0x4004_5436, "TIOCSIG", Same),
    (0x402c_542b, "TCSETS2", Same),
    (0x402c_542c, "TCSETSW2", Same),
    (0x402c_542d, "TCSETSF2", Same),
    (0x4004_54ca, "TUNSETIFF", IfReq),
    (0x4004_54cb, "TUNSETPERSIST", Same),
    (0x4004_54cc, "TUNSETOWNER", Same),
    (0x8004_54cf, "TUNGETFEATURES", Writes(4)),
    (0x8004_54d2, "TUNGETIFF", IfReq),
    (0x8004_1272, "BLKGETSIZE64", As(0x8008_1272, 8)),
    (0x8004_5200, "RNDGETENTCNT", Writes(4)),
    (0x8004_5430, "TIOCGPTN", Writes(4)),
    (0x8004_5432, "TIOCGDEV", Writes(4)),
    (0x8004_5438, "TIOCGPKT", Writes(4)),
    (0x8004_5439, "TIOCGPTLCK", Writes(4)),
    (0x8004_5440, "TIOCGEXCL", Writes(4)),
    (0x8004_6601, "FS_IOC_GETFLAGS", As(0x8008_6601, 4)),
    (0x8004_7601, "FS_IOC_GETVERSION", As(0x8008_7601, 4)),
    (0x801c_581f, "FS_IOC_FSGETXATTR", Writes(28)),
    (0x401c_5820, "FS_IOC_FSSETXATTR", Same),
    (0x802c_542a, "TCGETS2", Writes(TERMIOS2)),
    (0xc020_660b, "FS_IOC_FIEMAP", Writes(32 + 56 * 4096)),
    (0x0000_b701, "NS_GET_USERNS", Same),
    (0x0000_b702, "NS_GET_PARENT", Same),
    (0x0000_b703, "NS_GET_NSTYPE", Same),
    // Disks, loop devices, consoles, network devices, input, clocks.
    (0x0301, "HDIO_GETGEO", Geometry),
    (0x1263, "BLKRAGET", OutLong(0x1263)),
    (0x1264, "BLKFRASET", Same),
    (0x1265, "BLKFRAGET", OutLong(0x1265)),
    (0x1267, "BLKSECTGET", Writes(2)),
    (0x125f, "BLKRRPART", Same),
    (0x127a, "BLKALIGNOFF", Writes(4)),
    (0x127c, "BLKDISCARDZEROES", Writes(4)),
    (0x127d, "BLKSECDISCARD", Same),
    (0x127e, "BLKROTATIONAL", Writes(2)),
    (0x127f, "BLKZEROOUT", Same),
    (0x4c06, "LOOP_CHANGE_FD", Same),
    (0x4c07, "LOOP_SET_CAPACITY", Same),
    (0x4c08, "LOOP_SET_DIRECT_IO", Same),
    (0x4c09, "LOOP_SET_BLOCK_SIZE", Same),
    (0x4c0a, "LOOP_CONFIGURE", Same),
    (0x4c80, "LOOP_CTL_ADD", Same),
    (0x4c81, "LOOP_CTL_REMOVE", Same),
    (0x4b33, "KDGKBTYPE", Writes(1)),
    (0x4b31, "KDGETLED", Writes(1)),
    (0x4b32, "KDSETLED", Same),
    (0x4b3a, "KDSETMODE", Same),
    (0x4b3b, "KDGETMODE", Writes(4)),
    (0x4b44, "KDGKBMODE", Writes(4)),
    (0x4b45, "KDSKBMODE", Same),
    (0x4b2f, "KIOCSOUND", Same),
    (0x4b30, "KDMKTONE", Same),
    (0x5600, "VT_OPENQRY", Writes(4)),
    (0x5601, "VT_GETMODE", Writes(8)),
    (0x5602, "VT_SETMODE", Same),
    (0x5603, "VT_GETSTATE", Writes(6)),
    (0x5605, "VT_RELDISP", Same),
    (0x5606, "VT_ACTIVATE", Same),
    (0x5607, "VT_WAITACTIVE", Same),
    (0x545c, "TIOCMIWAIT", Same),
    (0x545d, "TIOCGICOUNT", Writes(80)),
    (0x8906, "SIOCGSTAMP_OLD", OldStamp),
    (0x8907, "SIOCGSTAMPNS_OLD", OldStamp),
    (0x8911, "SIOCSIFLINK", IfReq),
    (0x8918, "SIOCSIFDSTADDR", IfReq),
    (0x891a, "SIOCSIFBRDADDR", IfReq),
    (0x891e, "SIOCSIFMETRIC", IfReq),
    (0x8923, "SIOCSIFNAME", IfReq),
    (0x8924, "SIOCSIFHWADDR", IfReq),
    (0x8931, "SIOCADDMULTI", IfReq),
    (0x8932, "SIOCDELMULTI", IfReq),
    (0x8935, "SIOCGIFPFLAGS", IfReq),
    (0x8934, "SIOCSIFPFLAGS", IfReq),
    (0x8943, "SIOCSIFTXQLEN", IfReq),
    (0x8947, "SIOCGMIIPHY", IfReq),
    (0x8948, "SIOCGMIIREG", IfReq),
    (0x894b, "SIOCOUTQNSD", Writes(4)),
    (0x894c, "SIOCGSKNS", Same),
    (0x8953, "SIOCDARP", Same),
    (0x8954, "SIOCGARP", Writes(68)),
    (0x8955, "SIOCSARP", Same),
    (0x89a0, "SIOCBRADDBR", Same),
    (0x89a1, "SIOCBRDELBR", Same),
    (0x89a2, "SIOCBRADDIF", IfReq),
    (0x89a3, "SIOCBRDELIF", IfReq),
    (0x4004_1271, "BLKBSZSET", As(0x4008_1271, 0)),
    (0x8004_1270, "BLKBSZGET", As(0x8008_1270, 4)),
    (0x4004_54c9, "TUNSETDEBUG", Same),
    (0x4004_54cd, "TUNSETLINK", Same),
    (0x4004_54ce, "TUNSETGROUP", Same),
    (0x4004_54d0, "TUNSETOFFLOAD", Same),
    (0x4004_54d1, "TUNSETTXFILTER", Same),
    (0x8004_54d3, "TUNGETSNDBUF", Writes(4)),
    (0x4004_54d4, "TUNSETSNDBUF", Same),
    (0x8004_54d7, "TUNGETVNETHDRSZ", Writes(4)),
    (0x4004_54d8, "TUNSETVNETHDRSZ", Same),
    (0x4004_54d9, "TUNSETQUEUE", IfReq),
    (0x4004_54da, "TUNSETIFINDEX", Same),
    (0x4004_54dc, "TUNSETVNETLE", Same),
    (0x8004_54dd, "TUNGETVNETLE", Writes(4)),
    (0x8004_4501, "EVIOCGVERSION", Writes(4)),
    (0x8008_4502, "EVIOCGID", Writes(8)),
    (0x8008_4503, "EVIOCGREP", Writes(8)),
    (0x4004_4590, "EVIOCGRAB", Same),
    (0x8024_7009, "RTC_RD_TIME", Writes(36)),
    (0x4024_700a, "RTC_SET_TIME", Same),
    (0x8028_5700, "WDIOC_GETSUPPORT", Writes(40)),
    (0x8004_5705, "WDIOC_KEEPALIVE", Writes(4)),
    (0xc004_5706, "WDIOC_SETTIMEOUT", Writes(4)),
    (0x8004_5707, "WDIOC_GETTIMEOUT", Writes(4)),
    (0xc004_5877, "FIFREEZE", Same),
    (0xc004_5878, "FITHAW", Same),
    (0xc018_5879, "FITRIM", Writes(24)),
    (0xc018_9436, "FIDEDUPERANGE", Writes(24 + 32 * 127)),
    (0x0000_b704, "NS_GET_OWNER_UID", Writes(4)),
    (0x5309, "CDROMEJECT", Same),
    (0x5326, "CDROM_DRIVE_STATUS", Same),
    (0x5331, "CDROM_GET_CAPABILITY", Same),
    (0x4600, "FBIOGET_VSCREENINFO", Writes(160)),
    (0x4601, "FBIOPUT_VSCREENINFO", Writes(160)),
];

/// The name of a request, for traces.
pub(crate) fn name(request: u32) -> Option<&'static str> {
    TABLE.iter().find(|r| r.0 == request).map(|r| r.1)
}

pub(crate) fn ioctl(t: &mut Task, fd: u32, request: u32, arg: u32) -> SysResult {
    let Some(&(_, _, kind)) = TABLE.iter().find(|r| r.0 == request) else {
        // What the kernel says for a bad descriptor comes first.
        host::call(Sysno::fcntl, &[Arg::int(fd), Arg::uint(libc::F_GETFD as u32)])?;
        return Err(Errno::ENOTTY.into());
    };
    let mut plain = |request: u64, writes: u32| {
        t.mem.prepare_write(arg, writes);
        t.host_blocking(Sysno::ioctl, &[Arg::int(fd), Arg::wide(request), Arg::uint(arg)])
    };
    match kind {
        Same => plain(request.into(), 0),
        Writes(n) => plain(request.into(), n),
        As(other, n) => plain(other, n),
        OutLong(other) => {
            let mut v = 0u64;
            let r = t.host_blocking(Sysno::ioctl, &[Arg::int(fd), Arg::wide(other), Arg::output(&mut v)])?;
            t.mem.write(arg, &U64::from(v).lo)?;
            Ok(r)
        }
        IfReq => {
            let mut h = [0u8; 40];
            t.mem.read_bytes(arg, &mut h[..32])?;
            let r = t.host_blocking(Sysno::ioctl, &[Arg::int(fd), Arg::uint(request), Arg::output(&mut h)])?;
            t.mem.write_bytes(arg, &h[..32])?;
            Ok(r)
        }
        Geometry | OldStamp => {
            let mut h = [0u64; 2];
            let r = t.host_blocking(Sysno::ioctl, &[Arg::int(fd), Arg::uint(request), Arg::output(&mut h)])?;
            t.mem.write(arg, &h.map(|v| U64::from(v).lo))?;
            Ok(r)
        }
        IfConf => interfaces(t, fd, request, arg),
    }
}

/// SIOCGIFCONF: a length and a pointer to that many bytes of `struct ifreq`.
fn interfaces(t: &mut Task, fd: u32, request: u32, arg: u32) -> SysResult {
    let [len, at]: [u32; 2] = t.mem.read(arg)?;
    let count = if at == 0 { 0 } else { (len / 32).min(4096) };
    let mut list = vec![0u8; count as usize * 40];
    let pointer = if at == 0 { 0 } else { Arg::output(list.as_mut_slice()).raw() };
    let mut conf = [u64::from(count * 40), pointer];
    let r: Result<u32, Stop> =
        t.host_blocking(Sysno::ioctl, &[Arg::int(fd), Arg::uint(request), Arg::output(&mut conf)]);
    let r = r?;
    let found = conf[0] as u32 / 40;
    for (i, req) in list.chunks_exact(40).take(found as usize).enumerate() {
        t.mem.write_bytes(at.wrapping_add(32 * i as u32), &req[..32])?;
    }
    t.mem.write(arg, &(found * 32))?;
    Ok(r)
}
