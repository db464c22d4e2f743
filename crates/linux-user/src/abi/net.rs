//! Socket, poll and epoll layouts. Socket addresses are the same on both sides and pass through.

use super::layout;

layout! {
    /// `struct msghdr`.
    Msghdr = 28 { name: u32, namelen: u32, iov: u32, iovlen: u32, control: u32, controllen: u32, flags: u32 }
}

layout! {
    /// The host's `struct msghdr`.
    HostMsghdr = 56 {
        name: u64, namelen: u32, pad0: u32, iov: u64, iovlen: u64, control: u64, controllen: u64, flags: u32, pad1: u32,
    }
}

layout! {
    /// `struct cmsghdr`: data follows, aligned to 4.
    Cmsghdr = 12 { len: u32, level: u32, typ: u32 }
}

layout! {
    /// The host's `struct cmsghdr`: data follows, aligned to 8.
    HostCmsghdr = 16 { len: u64, level: u32, typ: u32 }
}

layout! {
    /// `struct pollfd`, the same on both.
    Pollfd = 8 { fd: u32, events: u16, revents: u16 }
}

layout! {
    /// `struct epoll_event`: packed on x86-64, so the same on both.
    EpollEvent = 12 { events: u32, data: [u32; 2] }
}
