//! Copies and comparisons of a CPU's state.

use xlat86_arch::CpuState;

/// Copies a CPU's state, with the floating-point part if that matters.
pub(super) fn copy(to: &mut CpuState, from: &CpuState, float: bool) {
    if float {
        to.clone_from(from);
        return;
    }
    let CpuState { gpr, eip, eflags, seg, ldtr, tr, gdtr, idtr, cr0, cr2, cr3, cr4, dr, msr, fx: _, .. } = from;
    (to.gpr, to.eip, to.eflags, to.seg) = (*gpr, *eip, *eflags, *seg);
    (to.ldtr, to.tr, to.gdtr, to.idtr) = (*ldtr, *tr, *gdtr, *idtr);
    (to.cr0, to.cr2, to.cr3, to.cr4, to.dr, to.msr) = (*cr0, *cr2, *cr3, *cr4, *dr, *msr);
    (to.cpl, to.interrupt_shadow, to.halted, to.nmi_masked) =
        (from.cpl, from.interrupt_shadow, from.halted, from.nmi_masked);
}

/// Is the state `b` that translated code has left the interpreter's, `a`, with the floating-point part if that matters? That STI holds interrupts off
/// `b` need not say: nothing stops translated code behind it, and where it leaves there the interpreter executes the next instruction at once.
pub(super) fn same(a: &CpuState, b: &CpuState, float: bool) -> bool {
    let (x, y) = (&a.fx, &b.fx);
    let registers = (a.gpr, a.eip, a.eflags, a.seg) == (b.gpr, b.eip, b.eflags, b.seg)
        && (a.ldtr, a.tr, a.gdtr, a.idtr) == (b.ldtr, b.tr, b.gdtr, b.idtr)
        && (a.cr0, a.cr2, a.cr3, a.cr4, a.dr, a.msr) == (b.cr0, b.cr2, b.cr3, b.cr4, b.dr, b.msr)
        && (a.cpl, a.halted, a.nmi_masked) == (b.cpl, b.halted, b.nmi_masked)
        && a.interrupt_shadow >= b.interrupt_shadow;
    let float_same =
        || (x.fcw, x.fsw, x.ftw, x.mxcsr) == (y.fcw, y.fsw, y.ftw, y.mxcsr) && x.st == y.st && x.xmm == y.xmm;
    registers && (!float || float_same())
}
