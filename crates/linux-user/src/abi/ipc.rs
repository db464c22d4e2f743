//! System V and POSIX message-queue layouts.

use super::layout;

layout! {
    /// `struct ipc64_perm`.
    IpcPerm = 36 { key: u32, uid: u32, gid: u32, cuid: u32, cgid: u32, mode: u16, pad1: u16, seq: u16, pad2: u16, unused: [u32; 2] }
}

layout! {
    /// The host's `struct ipc64_perm`.
    HostIpcPerm = 48 {
        key: u32, uid: u32, gid: u32, cuid: u32, cgid: u32, mode: u32, seq: u16, pad2: u16, pad3: u32, unused: [u64; 2],
    }
}

impl From<&HostIpcPerm> for IpcPerm {
    fn from(h: &HostIpcPerm) -> Self {
        let HostIpcPerm { key, uid, gid, cuid, cgid, mode, seq, .. } = *h;
        IpcPerm { key, uid, gid, cuid, cgid, mode: mode as u16, seq, ..IpcPerm::default() }
    }
}

impl From<&IpcPerm> for HostIpcPerm {
    fn from(g: &IpcPerm) -> Self {
        let IpcPerm { key, uid, gid, cuid, cgid, mode, seq, .. } = *g;
        HostIpcPerm { key, uid, gid, cuid, cgid, mode: mode.into(), seq, ..HostIpcPerm::default() }
    }
}

layout! {
    /// `struct semid64_ds`.
    SemidDs = 64 { perm: IpcPerm, otime: [u32; 2], ctime: [u32; 2], nsems: u32, unused: [u32; 2] }
}

layout! {
    /// The host's `struct semid64_ds`.
    HostSemidDs = 104 { perm: HostIpcPerm, otime: u64, unused1: u64, ctime: u64, unused2: u64, nsems: u64, unused: [u64; 2] }
}

layout! {
    /// `struct shmid64_ds`.
    ShmidDs = 84 {
        perm: IpcPerm, segsz: u32, atime: [u32; 2], dtime: [u32; 2], ctime: [u32; 2], cpid: u32, lpid: u32, nattch: u32, unused: [u32; 2],
    }
}

layout! {
    /// The host's `struct shmid64_ds`.
    HostShmidDs = 112 {
        perm: HostIpcPerm, segsz: u64, atime: u64, dtime: u64, ctime: u64, cpid: u32, lpid: u32, nattch: u64, unused: [u64; 2],
    }
}

layout! {
    /// `struct msqid64_ds`.
    MsqidDs = 88 {
        perm: IpcPerm, stime: [u32; 2], rtime: [u32; 2], ctime: [u32; 2], cbytes: u32, qnum: u32, qbytes: u32, lspid: u32,
        lrpid: u32, unused: [u32; 2],
    }
}

layout! {
    /// The host's `struct msqid64_ds`.
    HostMsqidDs = 120 {
        perm: HostIpcPerm, stime: u64, rtime: u64, ctime: u64, cbytes: u64, qnum: u64, qbytes: u64, lspid: u32, lrpid: u32,
        unused: [u64; 2],
    }
}

/// A time in two halves.
fn halves(t: u64) -> [u32; 2] {
    [t as u32, (t >> 32) as u32]
}

/// A pair of layouts of one kernel structure, of which IPC_SET reads only what [`Ds::to_host`] carries over.
pub trait Ds: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable {
    /// The host's.
    type Host: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Default;
    /// What IPC_STAT gives.
    fn from_host(h: &Self::Host) -> Self;
    /// What IPC_SET takes.
    fn to_host(&self) -> Self::Host;
}

impl Ds for SemidDs {
    type Host = HostSemidDs;
    fn from_host(h: &HostSemidDs) -> Self {
        let (otime, ctime) = (halves(h.otime), halves(h.ctime));
        SemidDs { perm: (&h.perm).into(), otime, ctime, nsems: h.nsems as u32, unused: [0; 2] }
    }
    fn to_host(&self) -> HostSemidDs {
        HostSemidDs { perm: (&self.perm).into(), ..HostSemidDs::default() }
    }
}

impl Ds for ShmidDs {
    type Host = HostShmidDs;
    fn from_host(h: &HostShmidDs) -> Self {
        ShmidDs {
            perm: (&h.perm).into(),
            segsz: u32::try_from(h.segsz).unwrap_or(u32::MAX),
            atime: halves(h.atime),
            dtime: halves(h.dtime),
            ctime: halves(h.ctime),
            cpid: h.cpid,
            lpid: h.lpid,
            nattch: h.nattch as u32,
            unused: [0; 2],
        }
    }
    fn to_host(&self) -> HostShmidDs {
        HostShmidDs { perm: (&self.perm).into(), ..HostShmidDs::default() }
    }
}

impl Ds for MsqidDs {
    type Host = HostMsqidDs;
    fn from_host(h: &HostMsqidDs) -> Self {
        MsqidDs {
            perm: (&h.perm).into(),
            stime: halves(h.stime),
            rtime: halves(h.rtime),
            ctime: halves(h.ctime),
            cbytes: h.cbytes as u32,
            qnum: h.qnum as u32,
            qbytes: h.qbytes as u32,
            lspid: h.lspid,
            lrpid: h.lrpid,
            unused: [0; 2],
        }
    }
    fn to_host(&self) -> HostMsqidDs {
        HostMsqidDs { perm: (&self.perm).into(), qbytes: self.qbytes.into(), ..HostMsqidDs::default() }
    }
}
