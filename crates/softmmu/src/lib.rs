//! Guest memory as the guest CPU sees it: access by linear address, permissions, and tracking of pages that
//! hold translated code.
//!
//! There is one [`Mmu`] type. In user mode it stands on a [`FlatSpace`], where the host's own page tables are the
//! guest's; system mode adds page walks, a TLB and shadow page tables behind the same methods.

#![forbid(unsafe_code)]

mod flat;
mod mmu;

pub use flat::{CodeWrite, FlatSpace, PageState, Prot, Watch};
pub use mmu::{Mmu, Write};
pub use xlat86_host::{Scalar, Window};
