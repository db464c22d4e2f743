//! The pure function, on small inputs.

use crate::*;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use xlat86_arch::{CpuModel, Mode};

/// Guest code in one page.
struct Page(u32, Vec<u8>);

impl Source for Page {
    fn peek(&mut self, eip: u32, to: &mut [u8]) -> usize {
        let at = eip.wrapping_sub(self.0) as usize;
        let mut page = self.1.clone();
        page.resize(4096, 0xcc);
        let Some(rest) = page.get(at..) else { return 0 };
        let n = rest.len().min(to.len());
        to[..n].copy_from_slice(&rest[..n]);
        n
    }
    fn is_volatile(&self, _eip: u32) -> bool {
        false
    }
    fn depend(&mut self, _eip: u32) {}
    fn known(&self, _eip: u32) -> bool {
        false
    }
}

fn host_listing(code: &[u8]) -> String {
    let mut f = IntelFormatter::new();
    let mut out = String::new();
    for i in Decoder::with_ip(64, code, 0, DecoderOptions::NONE).iter() {
        out.push_str(&format!("{:04x} ", i.ip()));
        f.format(&i, &mut out);
        out.push('\n');
    }
    out
}

fn unit(code: &[u8]) -> Unit {
    unit_with(code, Mode::USER32, &Config::default())
}

fn unit_with(code: &[u8], mode: Mode, config: &Config) -> Unit {
    let mut page = Page(0x0804_8000, code.to_vec());
    translate(0x0804_8000, mode, CpuModel::MAX.features, config, &mut page).expect("translatable")
}

/// Kernel code of a guest with page tables, its accesses checked.
fn kernel(code: &[u8]) -> Unit {
    let config = Config { address_form: AddressForm::Tlb, paged: true, ..Config::default() };
    unit_with(code, Mode(Mode::USER32.0 & !Mode::USER | Mode::FS_OPEN), &config)
}

/// Checks that the host code of `guest` starts with the instructions `expected`, separated by `; `.
#[track_caller]
fn check(guest: &[u8], expected: &str) {
    check_unit(&unit(guest), expected);
}

#[track_caller]
fn check_unit(unit: &Unit, expected: &str) {
    let listing = host_listing(&unit.code);
    // Where jumps go depends on everything.
    let shown = |l: &str| {
        l[5..]
            .split_once(' ')
            .filter(|(op, _)| op.starts_with('j'))
            .map_or(l[5..].to_string(), |(op, _)| op.to_string())
    };
    let got: Vec<String> = listing.lines().map(shown).collect();
    let want: Vec<&str> = expected.split("; ").collect();
    assert_eq!(got[..want.len().min(got.len())], want[..], "\n{listing}");
}

#[test]
fn operands_keep_their_shape() {
    check(&[0x8b, 0x44, 0x24, 0x08], "mov eax,[r12+8]");
    check(&[0x8b, 0x83, 0x80, 0, 0, 0], "mov eax,[ebx+80h]");
    check(&[0x8b, 0x84, 0x9e, 0, 1, 0, 0], "mov eax,[esi+ebx*4+100h]");
    check(&[0xa1, 0x78, 0x56, 0x34, 0x12], "mov eax,[12345678h]");
    check(&[0x03, 0x0d, 4, 0, 0, 0x80], "add ecx,[80000004h]");
    check(&[0x8d, 0x44, 0x88, 0x10], "lea eax,[rax+rcx*4+10h]");
    check(&[0x67, 0x8b, 0x47, 0x10], "lea r8d,[rbx+10h]; movzx r8d,r8w; mov eax,[r8d]");
    check(&[0x65, 0xa1, 0x14, 0, 0, 0], "mov r8,[r14+50h]; mov r8b,[r8]; mov r8d,[r14+64h]; mov eax,[r8d+14h]");
    check(
        &[0x65, 0x8b, 0x04, 0x8b],
        "mov r8,[r14+50h]; mov r8b,[r8]; lea r9d,[rbx+rcx*4]; mov r8d,[r14+64h]; mov eax,[r8d+r9d]",
    );
    check(&[0xf0, 0x0f, 0xb1, 0x14, 0x24], "lock cmpxchg [r12],edx");
    check(&[0x0f, 0xa3, 0x03], "bt [ebx],eax");
    check(&[0x0f, 0xba, 0x23, 5], "bt dword ptr [rbx],5");
}

#[test]
fn high_bytes_survive_rex() {
    check(&[0x8a, 0x64, 0x24, 4], "lea r8d,[r12+4]; xchg al,ah; mov al,[r8d]; xchg al,ah");
    check(&[0x0f, 0xb6, 0xe7], "xchg bl,bh; movzx r12d,bl; xchg bl,bh");
    check(&[0x8a, 0x23], "mov ah,[rbx]");
    let u = unit(&[0x8a, 0x64, 0x24, 4]);
    assert!(u.marks.iter().any(|m| m.fix.swapped == Some(0) && !m.boundary));
}

#[test]
fn encodings_that_64_bit_mode_took_away() {
    check(&[0x44], "inc r12d");
    check(&[0x66, 0x48], "dec ax");
    check(&[0x82, 0xc4, 5], "add ah,5");
    check(&[0x94], "xchg r12d,eax");
    check(&[0xd6], "setae r8b; movzx r8d,r8b; lea r8d,[r8-1]; mov al,r8b");
    // F3 before BSF means TZCNT on the host.
    check(&[0xf3, 0x0f, 0xbc, 0xc1], "bsf eax,ecx");
}

#[test]
fn checked_accesses_look_their_page_up() {
    // mov eax,[ebx+4]; add eax,ecx: the flags are free.
    let u = kernel(&[0x8b, 0x43, 0x04, 0x01, 0xc8]);
    check_unit(
        &u,
        "lea r8d,[rbx+4]; mov r9d,r8d; shr r9d,0Ch; lea r10d,[r8+3]; shr r10d,0Ch; \
         cmp r10d,[r14+r9*8-2000000h]; jne; mov r9,[r14+r9*8-1800000h]; mov eax,[r8+r9]",
    );
    let access = u.exits.iter().find(|x| matches!(x.kind, ExitKind::Access { .. })).expect("a slow way");
    let fix = Fix::default();
    assert_eq!(access.kind, ExitKind::Access { size: 4, write: false, again: Some(0), fix });
    // mov [fs:ebx],al; jc: they aren't.
    check_unit(
        &kernel(&[0x64, 0x88, 0x03, 0x72, 0x00]),
        "mov r8d,[r14+60h]; lea r8d,[r8+rbx]; mov r11d,ecx; mov ecx,0Ch; shrx r9d,r8d,ecx; lea r10d,[r8]; \
         shrx r10d,r10d,ecx; not r10d; mov ecx,[r14+r9*8-1FFFFFCh]; lea ecx,[rcx+r10+1]; jrcxz; \
         jmp; mov ecx,r11d; mov r9,[r14+r9*8-1800000h]; mov [r8+r9],al",
    );
    // bts [eax],edx: the upper bits of the index are part of the address.
    check_unit(
        &kernel(&[0x0f, 0xab, 0x10, 0x39, 0xc0]),
        "lea r8d,[rax]; mov r11d,edx; mov r10d,5; sarx r9d,r11d,r10d; lea r8d,[r8+r9*4]",
    );
}

#[test]
fn kernels_jump_to_other_pages_through_the_table() {
    // jmp +0x1000; jz to the same page
    let u = kernel(&[0x74, 0x05, 0xe9, 0, 0x10, 0, 0]);
    let listing = host_listing(&u.code);
    assert!(listing.contains("mov r11d,8049007h"), "{listing}");
    let links = u.exits.iter().filter(|x| matches!(x.kind, ExitKind::Link { .. })).count();
    assert_eq!(links, 1, "{:?}", u.exits);
}

#[test]
fn kernels_switch_interrupts_inline() {
    // cli; sti; nop; ret
    let u = kernel(&[0xfa, 0xfb, 0x90, 0xc3]);
    let stops: Vec<_> = u.marks.iter().filter(|m| m.boundary && m.exact).map(|m| m.eip & 0xf).collect();
    assert_eq!(stops, [0, 1, 3], "no stop behind STI\n{}", host_listing(&u.code));
    // At the end of a unit the interpreter has to hold interrupts off.
    let u = kernel(&[0xfb]);
    assert!(u.exits.iter().any(|x| x.kind == ExitKind::Interpret));
    // And at CPL 3 it finds out whether they may at all.
    assert!(unit(&[0xfa]).exits.iter().any(|x| x.kind == ExitKind::Interpret));
}

#[test]
fn stack_instructions_access_first() {
    check(&[0x50], "mov [r12-4],eax; lea r12d,[r12-4]");
    check(&[0x5c], "mov r12d,[r12]");
    check(&[0x8f, 0x44, 0x24, 8], "mov r11d,[r12]; mov [r12+0Ch],r11d; lea r12d,[r12+4]");
    check(&[0xc9], "mov r8d,[rbp]; lea r12d,[rbp+4]; mov ebp,r8d");
}

#[test]
fn loops_jump_inside_their_unit() {
    // dec ecx; jnz -3; ret
    let u = unit(&[0x49, 0x75, 0xfd, 0xc3]);
    let listing = host_listing(&u.code);
    assert!(listing.contains("jne short 0"), "{listing}");
    assert_eq!(u.insns, 3);
    assert!(u.exits.is_empty());
    // jz over a store, forward
    check(&[0x74, 0x02, 0x89, 0x03, 0xc3], "je; mov [rbx],eax; mov r11d,[r12]");
    // jz over 15 stores is short, over 15 calls it can't be.
    let over = |skipped: [u8; 2]| unit(&[&[0x74, 30][..], &skipped.repeat(15), &[0xc3]].concat()).code;
    assert_eq!(over([0x89, 0x03])[..2], [0x74, 30]);
    assert_eq!(over([0xff, 0xd3])[..2], [0x0f, 0x84]);
}

#[test]
fn calls_are_paired_with_landings() {
    // call +0x10; test eax, eax; ret
    let u = unit(&[0xe8, 0x10, 0, 0, 0, 0x85, 0xc0, 0xc3]);
    let listing = host_listing(&u.code);
    assert!(listing.contains("mov r10d,gs:[r11d-8048005h]"), "{listing}");
    assert_eq!((u.landings.len(), u.exits.len()), (1, 1));
    // Where the call may fault ESP is 4 more than R12 already.
    assert!(u.marks.iter().any(|m| m.fix.esp == 4 && !m.boundary), "{:?}", u.marks);
    let windowed = Config { address_form: AddressForm::Gs, ..Config::default() };
    let listing = host_listing(&unit_with(&[0xe8, 0x10, 0, 0, 0, 0x85, 0xc0, 0xc3], Mode::USER32, &windowed).code);
    assert!(listing.contains("lea r10d,[r11-8048005h]"), "{listing}");
    assert!(listing.contains("mov r10d,[r14+r10+1F0FFCh]"), "{listing}");
    let ExitKind::Link { target, patch } = u.exits[0].kind else { panic!("{:?}", u.exits) };
    assert_eq!(target, 0x0804_8015);
    assert!(patch % 8 <= 4, "patched atomically");
}

#[test]
fn thunks_become_constants() {
    // call +1; ret; (thunk:) mov ebx, [esp]; ret
    let u = unit(&[0xe8, 1, 0, 0, 0, 0xc3, 0x8b, 0x1c, 0x24, 0xc3]);
    let listing = host_listing(&u.code);
    assert!(listing.contains("mov ebx,8048005h"), "{listing}");
}

#[test]
fn retpolines_become_jumps() {
    // call 1f; 2: pause; lfence; jmp 2b; 1: mov [esp], ecx; ret
    let u = unit(&[0xe8, 7, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0x89, 0x0c, 0x24, 0xc3]);
    let listing = host_listing(&u.code);
    assert!(listing.contains("mov r11d,ecx") && listing.contains("jmp r10"), "{listing}");
    assert!(!listing.contains("8048005h"), "no return address: {listing}");
}

/// In code with a window, an instruction that keeps faulting looks its pages up.
#[test]
fn what_keeps_faulting_looks_up() {
    struct Faulting(Page);
    impl Source for Faulting {
        fn peek(&mut self, eip: u32, to: &mut [u8]) -> usize {
            self.0.peek(eip, to)
        }
        fn is_volatile(&self, _: u32) -> bool {
            false
        }
        fn depend(&mut self, _: u32) {}
        fn known(&self, _: u32) -> bool {
            false
        }
        fn keeps_faulting(&self, eip: u32) -> bool {
            eip == 0x0804_8002
        }
    }
    // mov eax,[ebx]; mov ecx,[ebx]; ret
    let code = vec![0x8b, 0x03, 0x8b, 0x0b, 0xc3];
    let config = Config { address_form: AddressForm::Gs, paged: true, ..Config::default() };
    let mode = Mode(Mode::USER32.0 | Mode::WINDOW);
    let mut source = Faulting(Page(0x0804_8000, code));
    let u = translate(0x0804_8000, mode, CpuModel::MAX.features, &config, &mut source).expect("translatable");
    let listing = host_listing(&u.code);
    assert!(listing.contains("mov eax,gs:[ebx]"), "{listing}");
    assert!(!listing.contains("mov ecx,gs:"), "{listing}");
    assert!(u.exits.iter().any(|x| matches!(x.kind, ExitKind::Access { .. })), "{:?}", u.exits);
}

/// Padding that keeps a jump patchable may move the instruction before it, but not one whose displacement is settled.
#[test]
fn a_jump_back_stays_whole_before_another_jump() {
    for pad in 0..8 {
        // pad: mov al,al; 1: dec ecx; jnz 1b; js far
        let mut guest = [0x88, 0xc0].repeat(pad);
        let head = 0x0804_8000 + guest.len() as u32;
        guest.extend([0x49, 0x75, 0xfd, 0x0f, 0x88, 0, 0, 1, 0]);
        let unit = unit(&guest);
        let back = Decoder::with_ip(64, &unit.code, 0, DecoderOptions::NONE)
            .iter()
            .find(|i| i.code() == iced_x86::Code::Jne_rel8_64)
            .expect("the loop's jump");
        assert_eq!(unit.entry(head), Some(back.near_branch_target() as u32), "{}", host_listing(&unit.code));
    }
}

/// What one program has jumped to on a page, the next one is expected to: where the page is the same one at the same address under the same mode.
#[test]
fn the_first_jump_to_a_page_brings_the_others() {
    let config = Config { address_form: AddressForm::Tlb, paged: true, ..Config::default() };
    let mode = Mode(Mode::USER32.0 | Mode::FS_OPEN);
    let mut cache = Cache::new(&config).unwrap();
    let key = |eip, page| CodeKey::new(eip, page, mode);
    // inc ecx; dec ecx; jmp 1b
    let code = [0x41, 0x49, 0xeb, 0xfc];
    for page in [7, 8] {
        cache.insert(unit_with(&code, mode, &config), key(0x0804_8000, page), vec![page]).unwrap();
    }
    let [one, two, three] = [(); 3].map(|()| cache.tables().add().unwrap());
    let entries =
        |cache: &mut Cache, table| [0x0804_8000, 0x0804_8001].map(|eip| cache.tables().table(table).get(eip) != 0);
    cache.publish(one, key(0x0804_8000, 7), false);
    cache.publish(one, key(0x0804_8001, 7), false);
    cache.publish(two, key(0x0804_8000, 8), false);
    assert_eq!(entries(&mut cache, two), [true, false], "another physical page");
    cache.publish(three, key(0x0804_8001, 7), false);
    assert_eq!(entries(&mut cache, three), [true, true]);
    // They go as those do that were asked for: with the mapping, and with the code.
    assert!(cache.tables().withdraw_page(three, 0x0804_8000 >> 12));
    assert_eq!(entries(&mut cache, three), [false, false]);
    cache.publish(three, key(0x0804_8001, 7), false);
    cache.invalidate_page(7);
    assert_eq!(
        [one, two, three].map(|table| entries(&mut cache, table)),
        [[false, false], [true, false], [false, false]]
    );
}
