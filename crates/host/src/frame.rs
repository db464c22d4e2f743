//! The CPU frame: what translated code and the world outside it hand each other.
//!
//! R14 points here while translated code runs. The fields that it touches on hot paths lie within a signed byte's reach.

use crate::Window;
use crate::crossing::{CROSSINGS, Crossing, WorldRegs};
use core::mem::offset_of;
use memmap2::{MmapMut, MmapOptions};
use std::io;

/// Register file and constants of one virtual CPU, reached from translated code through R14.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Frame {
    /// The leave routine; translated code leaves by calling through this field, and does so in many places: first, it needs no displacement.
    pub leave: u64,
    /// EAX to EDI as translated code left them, or as it shall find them.
    pub gpr: [u32; 8],
    /// Status flags and DF in their EFLAGS positions; other bits are ignored on entry and host's on leaving.
    pub flags: u32,
    /// Guest EFLAGS bits that don't live in the host's flags (IF unless it is apart, AC, ID, NT, ..., and the fixed bit 1), for PUSHF.
    pub system_flags: u32,
    /// Host address after the call that left, or of the instruction that trapped or was stopped at.
    pub site: u64,
    /// R11 on leaving: the guest target of an indirect jump.
    pub target: u64,
    /// Calls [`Frame::function`], or leaves if that won't: translated code calls through this field at an exit.
    pub call_out: u64,
    /// For FS and GS an address that can be read if the segment can be used, and only then.
    usable: [u64; 2],
    /// Guest returns that didn't come back to their call.
    pub mismatches: u64,
    /// Base of the FS and GS segments.
    pub seg_base: [u32; 2],
    /// ES, CS, SS, DS, FS and GS selectors.
    pub selector: [u16; 6],
    /// Always 0.
    pub zero: u32,
    /// The number, in the upper half, of the world that code runs in (see [`crate::Crossing`]).
    pub world: u64,
    /// Value RSP is reset to when the return stack is out of step.
    pub return_top: u64,
    /// RSP of translated code while it isn't running.
    pub return_sp: u64,
    /// Why control came back.
    pub left: Left,
    /// Guest MXCSR.
    pub mxcsr: u32,
    /// Base of the code arena (R13).
    pub arena: u64,
    /// Base of the indirect-jump table (R15).
    pub table: u64,
    /// R8 on leaving: the guest address of a checked access that has to go the slow way.
    pub address: u64,
    /// EFLAGS.IF of a system's code, in its EFLAGS position.
    pub interrupt_flag: u32,
    /// EFLAGS.IF in its position while somebody waits for the guest to set it, else 0.
    pub interrupt_awaited: u32,
    /// The return stacks of CPL 0 and CPL 3, as they were left when another was taken into use.
    pub returns: [Returns; 2],
    /// Host addresses that several accesses through the same register share.
    pub shared: [u64; 2],
    /// CR0 to CR4, for reading.
    pub control: [u32; 5],
    /// What guests add to the host's time stamp counter.
    pub tsc_offset: u64,
    /// Base of the window, where code has one; a multiple of 4 GB.
    pub window: u64,
    /// Keeps a register during the code of one instruction.
    pub spill: u32,
    /// Keeps the host's flags during the code of one instruction.
    pub spilled_flags: u64,
    /// What calling out calls.
    pub(crate) function: Option<(CallOut, Window)>,
    /// Address of the byte that keeps this thread from entering.
    pub(crate) pending: u64,
    /// Host stack pointer of the code that entered.
    pub(crate) host_sp: u64,
    /// XMM0 to XMM7.
    pub xmm: [u128; 8],
}

/// What translated code calls without being left: it gets the guest's general registers (whose order is that of their numbers) and memory, does all of
/// an instruction's work and says true, or none and says false.
pub type CallOut = fn(&mut [u32; 8], Window) -> bool;

/// The part of the frame that crossings copy.
const _: () = {
    assert!(offset_of!(WorldRegs, selector) == offset_of!(Frame, selector) - offset_of!(Frame, seg_base));
    assert!(offset_of!(WorldRegs, world) == offset_of!(Frame, world) - offset_of!(Frame, seg_base));
    assert!(size_of::<WorldRegs>() == 32);
    let end = Crossing::START + CROSSINGS * size_of::<Crossing>();
    assert!(size_of::<Frame>() <= Crossing::START && end <= PROBE as usize);
};

/// A return stack that isn't in use.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Returns {
    /// RSP.
    pub sp: u64,
    /// What RSP is reset to.
    pub top: u64,
    /// The jump table of the code whose addresses it holds.
    pub table: u64,
}

/// Where the probe is, from the frame on: the last four bytes of a readable page, with nothing but inaccessible memory in the 4 GB behind
/// them. A load of four bytes from it, indexed by a 32-bit difference, succeeds if and only if the difference is zero, and touches no flags.
pub const PROBE: u32 = 0x001f_0ffc;

/// Memory for a frame, with room before it and the probe behind it.
#[derive(Debug)]
pub(crate) struct FrameMemory {
    map: MmapMut,
    before: usize,
}

impl FrameMemory {
    /// With `before` bytes (whole pages) of zeroed memory before the frame.
    pub(crate) fn new(before: usize) -> io::Result<FrameMemory> {
        /// Behind the probe every load faults.
        const OUT_OF_REACH: usize = 4 << 30;
        let beyond = before + PROBE as usize + 4;
        let map = MmapOptions::new().len(beyond + OUT_OF_REACH).no_reserve_swap().map_anon()?;
        let start = map.as_ptr() as usize + beyond;
        // SAFETY: whole pages of our own mapping, to which no reference exists.
        match unsafe { libc::mprotect(start as *mut libc::c_void, OUT_OF_REACH, libc::PROT_NONE) } {
            0 => Ok(FrameMemory { map, before }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Host address of the room for the frame.
    pub(crate) fn frame(&self) -> u64 {
        (self.map.as_ptr() as usize + self.before) as u64
    }
}

/// Why translated code was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum Left {
    /// By itself, through [`Frame::leave`]; `site` says where.
    #[default]
    Call = 0,
    /// A host fault at `site`; guest registers are those at that host instruction.
    Trap = 1,
    /// Stopped at the guest instruction boundary `site` by a signal.
    Stopped = 2,
    /// A signal was pending: nothing has run.
    NotEntered = 3,
}

impl Frame {
    /// Offset of the address by which translated code tells whether FS (GS is 8 bytes on) can be used.
    pub const USABLE: usize = core::mem::offset_of!(Frame, usable);

    /// Sets the bases of FS and GS. Without a base an access through the segment faults.
    pub fn set_segments(&mut self, bases: [Option<u32>; 2]) {
        let here = core::ptr::from_ref(self) as u64;
        let out_of_reach = here + u64::from(PROBE) + 4;
        self.seg_base = bases.map(Option::unwrap_or_default);
        self.usable = bases.map(|base| if base.is_some() { here } else { out_of_reach });
    }

    /// A frame with all registers zero and default MXCSR.
    pub(crate) fn new() -> Frame {
        Frame {
            gpr: [0; 8],
            flags: 2,
            system_flags: 2,
            site: 0,
            target: 0,
            leave: crate::enter::leave_address(),
            call_out: crate::enter::call_out_address(),
            return_top: 0,
            return_sp: 0,
            usable: [0; 2],
            seg_base: [0; 2],
            selector: [0; 6],
            zero: 0,
            world: 0,
            left: Left::Call,
            mxcsr: 0x1f80,
            arena: 0,
            table: 0,
            mismatches: 0,
            address: 0,
            interrupt_flag: 0,
            interrupt_awaited: 0,
            returns: [Returns::default(); 2],
            shared: [0; 2],
            control: [0; 5],
            tsc_offset: 0,
            window: 0,
            spill: 0,
            spilled_flags: 0,
            function: None,
            pending: 0,
            host_sp: 0,
            xmm: [0; 8],
        }
    }
}

/// Which of a CPU's two software TLBs: pages as CPL 3 sees them, or as CPL 0 to 2 do.
///
/// Both lie behind the frame, so that translated code reaches them through R14. Each is an array with a pair of tags (for reading, for
/// writing; 4 bytes each) for each page of the guest, and behind it an array of addends (8 bytes each).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlbView {
    /// CPL 3.
    User = 1,
    /// CPL 0 to 2.
    Supervisor = 0,
}

impl TlbView {
    /// Pages of a guest.
    pub(crate) const PAGES: usize = 1 << 20;
    /// Bytes that a view takes.
    pub(crate) const SIZE: usize = 16 * Self::PAGES;

    /// Both lie before the frame.
    const fn start(self) -> i32 {
        (self as i32 - 2) * Self::SIZE as i32
    }

    /// Offset from the frame of page 0's tag for reading; the next page's is 8 bytes on.
    #[must_use]
    pub const fn read_tags(self) -> i32 {
        self.start()
    }

    /// The same for writing.
    #[must_use]
    pub const fn write_tags(self) -> i32 {
        self.start() + 4
    }

    /// The same of what to add to a guest address to get its host address.
    #[must_use]
    pub const fn addends(self) -> i32 {
        self.start() + 8 * Self::PAGES as i32
    }
}
