//! What can be switched off, for bisection and for measuring what each technique is worth.

/// How translated code reaches guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AddressForm {
    /// A guest address is a host address: the window is the host's low 4 GB.
    #[default]
    Low,
    /// Every access goes through the GS segment, whose base is the window's.
    Gs,
    /// Every access looks its page up in the software TLB beside the frame.
    Tlb,
}

/// Translator settings, fixed for the life of a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// How guest memory is reached.
    pub address_form: AddressForm,
    /// The guest has page tables of its own, so that what is at a linear address may change with them: jumps to another page go
    /// through the jump table, which whoever changes the mapping keeps right.
    pub paged: bool,
    /// Patch direct jumps to go straight to their translated target.
    pub chaining: bool,
    /// Let checked accesses through EBP and ESP share look-ups.
    pub shared_checks: bool,
    /// Translate guest calls and returns to host calls and returns.
    pub return_pairing: bool,
    /// Where flags are provably dead, use glue that clobbers them.
    pub flag_liveness: bool,
    /// Add up constant moves of ESP instead of moving R12 each time.
    pub lazy_esp: bool,
    /// Translate code that may change unnoticed to units that check themselves. Without, the interpreter executes it.
    pub self_checking: bool,
    /// For lockstep, where code is executed twice: leave at instructions that read clocks, and let repeated string instructions stand alone, so that
    /// they can be executed in parts.
    pub replayed: bool,
    /// Have indirect calls end a cache line where the processor's prediction of the next one gains by it: AMD's
    /// ([`Config::suit_host`]). Others lose by the NOPs, and where a branch ends at a multiple of 32 bytes.
    pub lines: bool,
    /// Most guest instructions in one unit.
    pub max_insns: usize,
    /// Size of the code arena in bytes.
    pub cache_size: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            address_form: AddressForm::Low,
            paged: false,
            shared_checks: true,
            chaining: true,
            return_pairing: true,
            flag_liveness: true,
            lazy_esp: true,
            self_checking: true,
            replayed: false,
            lines: true,
            max_insns: 96,
            cache_size: 64 << 20,
        }
    }
}

impl Config {
    /// Chooses what depends on the make of the host's processor.
    pub fn suit_host(&mut self) {
        let vendor = core::arch::x86_64::__cpuid(0);
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        self.lines = name.as_flattened() == b"AuthenticAMD";
    }
}
