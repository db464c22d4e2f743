//! Kernels that are nothing but their headers.

use super::*;
use std::io::Write;

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut f = tempfile::NamedTempFile::new().unwrap();
    f.write_all(bytes).unwrap();
    f
}

fn word(memory: &PhysMemory, at: u64) -> u32 {
    let mut b = [0; 4];
    memory.read(at, &mut b).unwrap();
    u32::from_le_bytes(b)
}

fn text(memory: &PhysMemory, at: u32) -> String {
    let mut b = [0; 64];
    memory.read(at.into(), &mut b).unwrap();
    b.split(|&b| b == 0).next().map(|s| String::from_utf8_lossy(s).into_owned()).unwrap()
}

fn boot(
    kernel: &tempfile::NamedTempFile,
    initrd: &[String],
    append: &str,
) -> Result<(std::sync::Arc<PhysMemory>, CpuState), BootError> {
    let memory = PhysMemory::new(16 << 20).unwrap();
    let mut cpu = CpuState::reset();
    let boot = Boot::Kernel { kernel: kernel.path().to_owned(), initrd: initrd.to_vec(), append: append.to_owned() };
    boot.load(&memory, &mut cpu, 0xe_0000).map(|()| (memory, cpu))
}

/// A bzImage of one setup sector and 16 bytes of kernel.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22c, &0x37ff_ffffu32.to_le_bytes());
    put(0x238, &255u32.to_le_bytes());
    put(0x260, &0x20_0000u32.to_le_bytes());
    image.extend([0x90; 16]);
    image
}

#[test]
fn linux_gets_its_zero_page() {
    let initrd = file(b"archive");
    let name = initrd.path().to_str().unwrap().to_owned();
    let (memory, cpu) = boot(&file(&bzimage()), &[name], "console=ttyS0").unwrap();
    assert_eq!((cpu.eip, cpu.eflags, cpu.cr0), (0x10_0000, 2, cr0::PE | cr0::ET));
    assert_eq!((cpu.segment(Seg::Cs).selector, cpu.segment(Seg::Ds).selector), (0x10, 0x18));
    assert_eq!(word(&memory, 0x10_0000), 0x9090_9090);
    let page = u64::from(cpu.reg(Reg::Esi));
    assert_eq!(text(&memory, word(&memory, page + 0x228)), "console=ttyS0");
    let (at, len) = (word(&memory, page + 0x218), word(&memory, page + 0x21c));
    assert_eq!((at % 4096, len), (0, 7));
    assert_eq!(text(&memory, at), "archive");
    assert_eq!(word(&memory, page + 0x1e8) & 0xff, 4, "E820 entries");
    let last = page + 0x2d0 + 3 * 20;
    assert_eq!((word(&memory, last), word(&memory, last + 8), word(&memory, last + 16)), (0x10_0000, 15 << 20, 1));
    assert_eq!(word(&memory, page + 0x70), 0xe_0000, "RSDP");
}

#[test]
fn bad_kernels_are_refused_with_a_reason() {
    type Spoil = fn(&mut Vec<u8>);
    let cases: [(Spoil, &str); 4] = [
        (|image| image[0x206..0x208].copy_from_slice(&[3, 2]), "older"),
        (|image| image.truncate(0x240), "neither"),
        (|image| image.resize(20 << 20, 0), "fit"),
        (|image| image[0x202] = 0, "neither"),
    ];
    for (spoil, why) in cases {
        let mut image = bzimage();
        spoil(&mut image);
        let e = boot(&file(&image), &[], "").map(|_| ()).unwrap_err().to_string();
        assert!(e.contains(why), "{e}");
    }
    let e = boot(&file(&bzimage()), &[], &"x".repeat(300)).map(|_| ()).unwrap_err();
    assert!(matches!(e, BootError::CommandLine { length: 300, limit: 255 }));
    let e = boot(&file(&bzimage()), &["/nonexistent".to_owned()], "").map(|_| ()).unwrap_err();
    assert!(e.to_string().starts_with("/nonexistent"));
    let large = file(&vec![0; 14 << 20]);
    let e = boot(&file(&bzimage()), &[large.path().to_str().unwrap().to_owned()], "").map(|_| ()).unwrap_err();
    assert!(matches!(e, BootError::TooLarge { mib: 16, .. }));
}

#[test]
fn multiboot_kernels_get_map_modules_and_command_line() {
    // Addresses in the header, which stands 8 bytes into the image.
    let (flags, load) = (0x1_0003u32, 0x20_0000u32);
    let mut image = vec![0x90; 8];
    for v in [0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002 + flags), load + 8, load, 0, 0, load] {
        image.extend(v.to_le_bytes());
    }
    let module = file(b"payload");
    let name = format!("{} arguments", module.path().display());
    let (memory, cpu) = boot(&file(&image), std::slice::from_ref(&name), "quiet").unwrap();
    assert_eq!((cpu.eip, cpu.reg(Reg::Eax)), (load, 0x2bad_b002));
    assert_eq!(word(&memory, load.into()), 0x9090_9090);
    let info = u64::from(cpu.reg(Reg::Ebx));
    assert_eq!(word(&memory, info), 1 | 4 | 8 | 0x40 | 0x200);
    assert_eq!((word(&memory, info + 4), word(&memory, info + 8)), (639, 15 << 10));
    assert!(text(&memory, word(&memory, info + 16)).ends_with(" quiet"));
    let modules = u64::from(word(&memory, info + 24));
    assert_eq!(word(&memory, info + 20), 1);
    assert_eq!(text(&memory, word(&memory, modules)), "payload");
    assert_eq!(word(&memory, modules + 4) - word(&memory, modules), 7);
    assert_eq!(text(&memory, word(&memory, modules + 8)), name);
    let (len, map) = (word(&memory, info + 44), u64::from(word(&memory, info + 48)));
    assert_eq!((len, word(&memory, map), word(&memory, map + 20)), (4 * 24, 20, 1));
}

/// An ELF file with one segment of 16 bytes at `physical`, linked for `linked`, that takes `memory_size` bytes.
fn elf(physical: u32, linked: u32, memory_size: u32) -> Vec<u8> {
    let mut image = b"\x7fELF\x01\x01\x01".to_vec();
    image.resize(16, 0);
    image.extend([2, 0, 3, 0, 1, 0, 0, 0]);
    for v in [linked + 4, 52, 0, 0] {
        image.extend(v.to_le_bytes());
    }
    for v in [52u16, 32, 1, 40, 0, 0] {
        image.extend(v.to_le_bytes());
    }
    for v in [1, 84, linked, physical, 16, memory_size, 7, 4096] {
        image.extend(v.to_le_bytes());
    }
    for v in [0x1bad_b002u32, 0, 0u32.wrapping_sub(0x1bad_b002), 0x9090_9090] {
        image.extend(v.to_le_bytes());
    }
    image
}

#[test]
fn multiboot_elf_kernels_start_where_they_lie() {
    let (memory, cpu) = boot(&file(&elf(0x20_0000, 0xc020_0000, 0x8000)), &[], "").unwrap();
    assert_eq!(cpu.eip, 0x20_0004, "linked for high addresses, entered at the physical one");
    assert_eq!(word(&memory, 0x20_000c), 0x9090_9090);
    assert_eq!(cpu.reg(Reg::Ebx), 0x1_0000);
    // In low memory: neither modules nor information go over it.
    let module = file(b"payload");
    let name = module.path().to_str().unwrap().to_owned();
    let (memory, cpu) = boot(&file(&elf(0x1_0000, 0x1_0000, 0x2_0000)), &[name], "x").unwrap();
    assert_eq!((cpu.eip, word(&memory, 0x1_000c)), (0x1_0004, 0x9090_9090));
    let info = u64::from(cpu.reg(Reg::Ebx));
    assert_eq!(info, 0x10_0000);
    let at = word(&memory, u64::from(word(&memory, info + 24)));
    assert_eq!((at, text(&memory, at)), (0x11_0000, "payload".to_owned()));
    let e = boot(&file(&elf(0x20_0000, 0x20_0000, 64 << 20)), &[], "").map(|_| ()).unwrap_err();
    assert!(matches!(e, BootError::TooLarge { mib: 16, .. }), "{e}");
}

#[test]
fn old_kernels_lack_the_size_they_unpack_to() {
    let mut image = bzimage();
    image[0x206..0x208].copy_from_slice(&0x0206u16.to_le_bytes());
    image[0x258..0x264].fill(0xff);
    let initrd = file(b"archive");
    let name = initrd.path().to_str().unwrap().to_owned();
    assert!(boot(&file(&image), std::slice::from_ref(&name), "").is_ok());
    image[0x206..0x208].copy_from_slice(&0x020au16.to_le_bytes());
    assert!(matches!(boot(&file(&image), &[name], "").map(|_| ()), Err(BootError::TooLarge { .. })));
}

#[test]
fn firmware_shows_at_both_ends() {
    let mut image = vec![0; 4096];
    image[4080..4085].copy_from_slice(b"reset");
    let memory = PhysMemory::new(2 << 20).unwrap();
    let mut cpu = CpuState::reset();
    Boot::Bios(file(&image).path().to_owned()).load(&memory, &mut cpu, 0).unwrap();
    assert_eq!(memory.load::<u32>(0xffff_fff0), u32::from_le_bytes(*b"rese"));
    assert_eq!(memory.load::<u32>(0xf_fff0), u32::from_le_bytes(*b"rese"));
    let odd = Boot::Bios(file(&[0; 1000]).path().to_owned()).load(&memory, &mut cpu, 0);
    assert!(matches!(odd, Err(BootError::Firmware(_))));
}
