//! Guest memory as the guest CPU sees it: access by linear address, permissions, and tracking of pages that
//! hold translated code.
//!
//! There is one [`Mmu`] type. In user mode it stands on a [`FlatSpace`], where the host's own page tables are the
//! guest's; in system mode on [`PhysMemory`], which the guest's page tables lead to.

#![forbid(unsafe_code)]

mod flat;
mod journal;
mod mmu;
mod paged;
mod phys;
mod shadow;
mod unpaged;
mod user;
mod walk;

pub use flat::{CodeWrite, FlatSpace, PageState, Prot, Watch};
pub use journal::Change;
pub use mmu::Mmu;
pub use paged::{Forgotten, MmuStats};
pub use phys::{Mmio, NotRam, PhysMemory, Place};
pub use shadow::ShadowStats;
pub use walk::{Access, Leaf, Paging};
pub use xlat86_host::{Scalar, TlbMemory, Window};
