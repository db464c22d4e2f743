use std::io::{Read, Write};
use std::sync::Arc;
use xlat86_arch::*;
use xlat86_decoder::*;
use xlat86_host::{Transcendental, approximate, scratch_window, transcendental};
use xlat86_interp::{HostMath, Interp, Platform, Stop};
use xlat86_softmmu::{FlatSpace, Mmu, Prot};

struct Host;
impl Platform for Host {
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        0
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {}
    fn tsc(&mut self) -> u64 {
        0
    }
    fn x87(&mut self, op: HostMath, a: [u8; 10], b: [u8; 10], fcw: u16) -> ([u8; 10], [u8; 10], u16) {
        use Transcendental as T;
        let t = match op {
            HostMath::F2xm1 => T::F2xm1,
            HostMath::Fyl2x => T::Fyl2x,
            HostMath::Fyl2xp1 => T::Fyl2xp1,
            HostMath::Fptan => T::Fptan,
            HostMath::Fpatan => T::Fpatan,
            HostMath::Fsin => T::Fsin,
            HostMath::Fcos => T::Fcos,
            HostMath::Fsincos => T::Fsincos,
        };
        let r = transcendental(t, a, b, fcw);
        let second = if matches!(op, HostMath::Fptan | HostMath::Fsincos) { r.pushed } else { r.old[1] };
        (r.old[0], second, r.fsw)
    }
    fn approx(&mut self, rsqrt: bool, x: f32) -> f32 {
        approximate(rsqrt, x)
    }
    fn delivers_interrupts(&self) -> bool {
        false
    }
}
const CODE: u32 = 0x2000_0000;
const MEM: u32 = 0x2001_0000;

struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545F4914F6CDD1D)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
    fn pick<T: Copy>(&mut self, v: &[T]) -> T {
        v[self.below(v.len() as u64) as usize]
    }
    fn f80(&mut self) -> [u8; 10] {
        let sig = match self.below(8) {
            0 => 1 << 63,
            1 => u64::MAX,
            2 => 3 << 62,
            3 => self.next() | 1 << 63,
            4 => (1 << 63) | self.below(4096),
            5 => (self.next() | 1 << 63) & !0xfff_ffff_ffff,
            6 => (1 << 63) | 1 << self.below(63),
            _ => self.next() | 1 << 63,
        };
        let exp = match self.below(16) {
            0 => 0,
            1 => 0x7fff,
            2 => 1,
            3 => 0x7ffe,
            4..9 => 0x3fff - 70 + self.below(140) as u16,
            9 => 0x3fff,
            10 => 0x3fff - 16446 / 2 + self.below(200) as u16,
            11 => 0x3fff - 127 - 24 + self.below(26) as u16,
            12 => 0x3fff - 1023 - 53 + self.below(56) as u16,
            13 => 0x3fff + 120 + self.below(10) as u16,
            14 => 0x3fff + 1020 + self.below(6) as u16,
            _ => self.below(0x8000) as u16,
        };
        let (sig, exp) = match self.below(16) {
            0 => (0, 0),
            1 => (sig & !(1 << 63), exp),
            2 => (1 << 63, 0x7fff),
            3 => (self.next() >> self.below(64), 0),
            4 => (sig, 0x7fff),
            5 => {
                let sh = self.below(63).max(1);
                let v = self.below(1 << sh) + 1;
                let l = v.leading_zeros();
                (v << l, 0x3fff + 63 - l as u16)
            }
            _ => (sig, exp),
        };
        let se = exp | (self.below(2) as u16) << 15;
        let mut b = [0; 10];
        b[..8].copy_from_slice(&sig.to_le_bytes());
        b[8..].copy_from_slice(&se.to_le_bytes());
        b
    }
    fn f32(&mut self) -> u32 {
        let e = match self.below(8) {
            0 => 0,
            1 => 255,
            2 => 1,
            3 => 254,
            4 => 127,
            5 => 127 + self.below(34),
            6 => 90 + self.below(74),
            _ => self.below(256),
        } as u32;
        let m = match self.below(8) {
            0 => 0,
            1 => 1,
            2 => 0x400000,
            3 => 0x7fffff,
            4 => 1 << self.below(23),
            _ => self.next() as u32 & 0x7fffff,
        };
        (self.below(2) as u32) << 31 | e << 23 | m
    }
    fn f64(&mut self) -> u64 {
        let e = match self.below(8) {
            0 => 0,
            1 => 2047,
            2 => 1,
            3 => 2046,
            4 => 1023,
            5 => 1023 + self.below(66),
            6 => 1023 - 160 + self.below(310),
            _ => self.below(2048),
        };
        let m = match self.below(8) {
            0 => 0,
            1 => 1,
            2 => 1 << 51,
            3 => (1 << 52) - 1,
            4 => 1 << self.below(52),
            5 => (self.next() & ((1 << 52) - 1)) & !0xfff_ffff,
            _ => self.next() & ((1 << 52) - 1),
        };
        self.below(2) << 63 | e << 52 | m
    }
    fn v128(&mut self) -> u128 {
        match self.below(4) {
            0 => self.f64() as u128 | (self.f64() as u128) << 64,
            1 => (0..4).fold(0, |v, _| v << 32 | self.f32() as u128),
            2 => self.next() as u128 | (self.next() as u128) << 64,
            _ => (0..16).fold(0u128, |v, _| v << 8 | self.pick(&[0u8, 1, 0x7f, 0x80, 0xff, b'a', b'b']) as u128),
        }
    }
}
fn main_bytes() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut seen = std::collections::HashMap::new();
    let prefixes: [&[u8]; 4] = [&[], &[0x66], &[0xf2], &[0xf3]];
    let mut try_one = |b: Vec<u8>, max: usize| {
        let mut padded = b.clone();
        padded.resize(16, 0);
        let Some(insn) = decode_insn(&padded, CODE, Mode::USER32, CpuModel::MAX.features) else { return };
        if insn.kind == Kind::Invalid || unit_of(insn.code()) == Unit::Integer {
            return;
        }
        let k = seen
            .entry((
                insn.code(),
                b[b.len().min(if b[0] == 0x66 || b[0] == 0xf2 || b[0] == 0xf3 { 4 } else { 3 }) - 1] >= 0xc0,
            ))
            .or_insert(0);
        *k += 1;
        if *k > max {
            return;
        }
        padded.truncate(insn.len());
        out.push(padded);
    };
    for op in 0xd8..=0xdfu8 {
        for m in (0..8u8).map(|r| r << 3 | 3).chain(0xc0..=0xff) {
            try_one(vec![op, m], 8);
            try_one(vec![0x66, op, m], 8);
        }
    }
    try_one(vec![0x9b], 1);
    for p in prefixes {
        for op in 0..=255u8 {
            for m in (0..8u8)
                .map(|r| r << 3 | 3)
                .chain([0xc1, 0xca, 0xd3, 0xdb, 0xe5, 0xee, 0xf7, 0xf8, 0xc8, 0xd0, 0xd9, 0xe0, 0xf0])
            {
                for esc in [&[0x0fu8][..], &[0x0f, 0x38], &[0x0f, 0x3a]] {
                    if esc.len() == 1 && (op == 0x38 || op == 0x3a) {
                        continue;
                    }
                    let mut b = p.to_vec();
                    b.extend(esc);
                    b.push(op);
                    b.push(m);
                    b.push(0x1b);
                    try_one(b, 3);
                }
            }
        }
    }
    out
}
#[test]
fn scratch() {
    let n: usize = std::env::var("N").ok().and_then(|s| s.parse().ok()).unwrap_or(100_000);
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let only = std::env::var("ONLY").unwrap_or_default();
    let mut rng = Rng(seed.wrapping_mul(0x9E3779B97F4A7C15) | 1);
    let insns: Vec<Vec<u8>> = main_bytes()
        .into_iter()
        .filter(|b| {
            let i = decode_insn(b, CODE, Mode::USER32, CpuModel::MAX.features).unwrap();
            only.is_empty() || format!("{:?}", i.code()).contains(&only)
        })
        .collect();
    eprintln!("{} encodings", insns.len());
    let mut input = Vec::new();
    struct Case {
        insn: Vec<u8>,
        fx: FxState,
        mem: [u8; 512],
        gpr: [u32; 3],
        fl: u32,
    }
    let mut cases = Vec::new();
    for k in 0..n {
        let mut insn = insns[k % insns.len()].clone();
        let dec = decode_insn(
            &{
                let mut p = insn.clone();
                p.resize(16, 0);
                p
            },
            CODE,
            Mode::USER32,
            CpuModel::MAX.features,
        )
        .unwrap();
        if dec.offsets.has_immediate() {
            insn[dec.offsets.immediate_offset()] = rng.next() as u8;
        }
        let mut fx = FxState::INIT;
        fx.fcw = 0x40
            | (rng.below(4) as u16) << 10
            | rng.pick(&[0u16, 2, 3, 3, 3, 1]) << 8
            | match rng.below(3) {
                0 => 0x3f,
                1 => rng.next() as u16 & 0x3f,
                _ => rng.pick(&[0x3f, 0x3e, 0x3d, 0x3b, 0x37, 0x2f, 0x1f, 0]),
            };
        fx.fsw = (rng.below(8) as u16) << 11 | rng.next() as u16 & 0x4700;
        if rng.below(8) == 0 {
            fx.fsw |= rng.next() as u16 & 0x7f;
            if fx.fsw & !fx.fcw & 0x3f != 0 {
                fx.fsw |= 0x8080;
            }
        }
        fx.ftw = match rng.below(6) {
            0 => rng.next() as u8,
            1 => 0xff,
            2 => 0,
            _ => {
                let d = 2 + rng.below(4);
                let t = fx.top() as u64;
                (0..d).fold(0, |m, i| m | 1 << ((t + i) & 7))
            }
        };
        fx.fop = rng.next() as u16 & 0x7ff;
        fx.fip = rng.next() as u32;
        fx.fcs = rng.next() as u16;
        fx.fdp = rng.next() as u32;
        fx.fds = rng.next() as u16;
        for i in 0..8 {
            let v = rng.f80();
            fx.st[i][..10].copy_from_slice(&v);
            fx.xmm[i] = rng.v128();
        }
        if rng.below(4) == 0 {
            fx.st[1] = fx.st[0];
            if rng.below(2) == 0 {
                fx.st[1][9] ^= 0x80;
            }
        }
        if rng.below(6) == 0 {
            fx.xmm[1] = fx.xmm[3];
        }
        fx.mxcsr_mask = 0x2ffff;
        fx.mxcsr = rng.next() as u32 & 0x6000
            | match rng.below(4) {
                0 => rng.next() as u32 & 0x3f,
                _ => 0,
            }
            | match rng.below(3) {
                0 => 0x1f80,
                1 => rng.next() as u32 & 0x1f80,
                _ => rng.pick(&[0x1f80, 0x1f00, 0x1e80, 0x1d80, 0x1b80, 0x1780, 0xf80, 0]),
            }
            | if rng.below(4) == 0 { rng.next() as u32 & 0x8040 } else { 0 };
        let mut mem = [0u8; 512];
        for c in mem.chunks_exact_mut(16) {
            let v = match rng.below(3) {
                0 => {
                    let mut v = [0; 16];
                    v[..10].copy_from_slice(&rng.f80());
                    v
                }
                _ => rng.v128().to_le_bytes(),
            };
            c.copy_from_slice(&v);
        }
        if rng.below(8) == 0 && !only.is_empty() || insn[1..].starts_with(&[0xae]) {
            let mut img = FxState::INIT;
            img.fcw = rng.next() as u16;
            img.fsw = rng.next() as u16;
            mem[..2].copy_from_slice(&img.fcw.to_le_bytes());
            mem[2..4].copy_from_slice(&img.fsw.to_le_bytes());
            mem[24..28].copy_from_slice(
                &(rng.next() as u32 & if rng.below(8) == 0 { 0xffffffff & !0x20000 } else { 0xffff }).to_le_bytes(),
            );
            mem[1] &= 0x7f;
        }
        let gpr = [
            rng.pick(&[0, 3, 8, 16, 17, -5i32 as u32, 0x80000000, 0xffffffff, 7, 9]),
            rng.next() as u32,
            rng.pick(&[0, 3, 8, 16, 17, -5i32 as u32, 0x80000000, 0xffffffff, 7, 9]),
        ];
        let fl = 0x202 | rng.next() as u32 & 0x8d5;
        input.extend((insn.len() as u32).to_le_bytes());
        let mut ib = insn.clone();
        ib.resize(16, 0);
        input.extend(ib);
        for v in [gpr[0], gpr[1], gpr[2], fl] {
            input.extend(v.to_le_bytes());
        }
        input.extend([0; 12]);
        let mut img = Vec::new();
        img.extend(fx.fcw.to_le_bytes());
        img.extend(fx.fsw.to_le_bytes());
        img.extend([fx.ftw, 0]);
        img.extend(fx.fop.to_le_bytes());
        img.extend(fx.fip.to_le_bytes());
        img.extend((fx.fcs as u32).to_le_bytes());
        img.extend(fx.fdp.to_le_bytes());
        img.extend((fx.fds as u32).to_le_bytes());
        img.extend(fx.mxcsr.to_le_bytes());
        img.extend([0; 4]);
        for s in &fx.st {
            img.extend(s);
        }
        for x in &fx.xmm[..8] {
            img.extend(x.to_le_bytes());
        }
        img.resize(512, 0);
        input.extend(&img);
        input.extend(mem);
        cases.push(Case { insn, fx, mem, gpr, fl });
    }
    let mut child = std::process::Command::new("/tmp/fo/oracle")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let t = std::thread::spawn(move || {
        stdin.write_all(&input).unwrap();
    });
    let mut out = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    t.join().unwrap();
    assert_eq!(out.len(), n * 1072);
    let window = scratch_window(&[CODE..CODE + 0x1000, MEM..MEM + 0x1000]).unwrap();
    let space = Arc::new(FlatSpace::new(window));
    space.set_prot(Gva(CODE), 0x1000, Prot { mapped: true, read: true, write: true, exec: true, shared: false });
    space.set_prot(Gva(MEM), 0x1000, Prot { mapped: true, read: true, write: true, exec: false, shared: false });
    let mut mmu = Mmu::flat(space);
    let mut interp = Interp::new(&CpuModel::MAX);
    let mut bad = std::collections::BTreeMap::<String, (usize, Vec<String>)>::new();
    let mut total_bad = 0;
    for (c, o) in cases.iter().zip(out.chunks_exact(1072)) {
        let w = |i: usize| u32::from_le_bytes(o[i..i + 4].try_into().unwrap());
        let mut cpu = CpuState::linux_user();
        cpu.fx = c.fx;
        cpu.eip = CODE;
        cpu.eflags = c.fl;
        cpu.gpr[0] = c.gpr[0];
        cpu.gpr[1] = c.gpr[1];
        cpu.gpr[2] = c.gpr[2];
        cpu.gpr[3] = MEM;
        cpu.gpr[7] = MEM;
        let mut at = [0x90u8; 16];
        at[..c.insn.len()].copy_from_slice(&c.insn);
        interp.flush();
        let page = mmu.space().resolve_write(Gva(CODE));
        let _ = page;
        window.write_bytes(CODE, &at).unwrap();
        window.write_bytes(MEM, &c.mem).unwrap();
        let stop = interp.step(&mut cpu, &mut mmu, &mut Host);
        let sig = match stop {
            Stop::Budget => 0,
            Stop::Fault(f) => match f.vector {
                Vector::MF | Vector::XM => 8,
                Vector::UD => 4,
                _ => 11,
            },
            _ => 99,
        };
        let mut diff = Vec::new();
        let mut ck = |name: &str, got: u128, want: u128| {
            if got != want {
                diff.push(format!("{name} got {got:x} want {want:x}"))
            }
        };
        ck("sig", sig, w(0) as u128);
        ck("eax", cpu.gpr[0] as u128, w(4) as u128);
        ck("ecx", cpu.gpr[1] as u128, w(8) as u128);
        ck("edx", cpu.gpr[2] as u128, w(12) as u128);
        ck("fl", (cpu.eflags & 0x8d5) as u128, (w(16) & 0x8d5) as u128);
        let fx = &o[48..560];
        let h = |i: usize| u16::from_le_bytes([fx[i], fx[i + 1]]) as u128;
        ck("fcw", cpu.fx.fcw as u128, h(0));
        ck("fsw", cpu.fx.fsw as u128, h(2));
        ck("ftw", cpu.fx.ftw as u128, fx[4] as u128);
        ck("mxcsr", cpu.fx.mxcsr as u128, (w(48 + 24)) as u128);
        for i in 0..8 {
            let g = |b: &[u8]| {
                let mut v = [0; 16];
                v[..10].copy_from_slice(&b[..10]);
                u128::from_le_bytes(v)
            };
            ck(&format!("st{i}"), g(&cpu.fx.st[i]), g(&fx[32 + 16 * i..]));
            ck(
                &format!("xmm{i}"),
                cpu.fx.xmm[i],
                u128::from_le_bytes(fx[160 + 16 * i..176 + 16 * i].try_into().unwrap()),
            );
        }
        if w(0) == 0 {
            ck("fip", cpu.fx.fip as u128, w(20 + 12) as u128);
            ck("fcs/fop", (cpu.fx.fcs as u32 | (cpu.fx.fop as u32) << 16) as u128, w(20 + 16) as u128);
            ck("fdp", cpu.fx.fdp as u128, w(20 + 20) as u128);
            ck("fds", cpu.fx.fds as u128, (w(20 + 24) & 0xffff) as u128);
        }
        let mut mem = [0; 512];
        mmu.read_bytes(Gva(MEM), &mut mem).unwrap();
        if mem[..] != o[560..1072] {
            diff.push(format!("mem got {:02x?} want {:02x?}", &mem[..48], &o[560..608]));
        }
        if !diff.is_empty() {
            total_bad += 1;
            let i = decode_insn(
                &{
                    let mut p = c.insn.clone();
                    p.resize(16, 0);
                    p
                },
                CODE,
                Mode::USER32,
                CpuModel::MAX.features,
            )
            .unwrap();
            let e = bad.entry(format!("{:?}", i.code())).or_default();
            e.0 += 1;
            if e.1.len() < 3 {
                e.1.push(format!("  {} [{:02x?}] fcw={:04x} fsw={:04x} ftw={:02x} mxcsr={:04x} gpr={:x?} fl={:x}\n   st={}\n   xmm={:032x?}\n   mem={:02x?}\n   => {}  (stop {:?})", i.iced, c.insn, c.fx.fcw, c.fx.fsw, c.fx.ftw, c.fx.mxcsr, c.gpr, c.fl, (0..3).map(|i| format!("{:04x}:{:016x} ", u16::from_le_bytes([c.fx.st[i][8], c.fx.st[i][9]]), u64::from_le_bytes(c.fx.st[i][..8].try_into().unwrap()))).collect::<String>(), &c.fx.xmm[..8], &c.mem[..16], diff.join("; "), stop));
            }
        }
    }
    let verbose = std::env::var("V").ok().and_then(|s| s.parse().ok()).unwrap_or(1usize);
    for (k, (n, ex)) in &bad {
        println!("{k}: {n}");
        for e in ex.iter().take(verbose) {
            println!("{e}");
        }
    }
    println!("{total_bad} of {n} differ, {} codes", bad.len());
}
