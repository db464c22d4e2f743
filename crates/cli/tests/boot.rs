//! `xlat86 boot` from outside: Debian's kernels, kernels of a few bytes, the terminal, the control socket, and every way out.

mod common;

use common::{XLAT86, engine, testdata};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::tcgetattr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What a run may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

fn scratch_name(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("boot-{}-{name}", std::process::id()))
}

fn scratch(name: &str) -> PathBuf {
    let path = scratch_name(name);
    let _ = fs::remove_file(&path);
    path
}

fn boot(args: &[&str]) -> Command {
    let mut c = Command::new(XLAT86);
    c.args(["boot", "--engine", &engine(), "--no-reboot"]).args(args).stdin(Stdio::null());
    c
}

/// A run. A test that fails kills it.
struct Running(Option<Child>);

impl Running {
    fn start(mut command: Command) -> Running {
        Running(Some(command.spawn().unwrap()))
    }
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }
    fn pid(&mut self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.child())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Pipes for what a run shows.
fn piped(mut command: Command) -> Command {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the end of a run; one that hangs is killed and shown.
fn finish(mut run: Running) -> Output {
    let mut child = run.0.take().unwrap();
    let (sender, ended) = mpsc::channel();
    let pid = rustix::process::Pid::from_child(&child);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let read = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut all = Vec::new();
            stream.map(|mut s| s.read_to_end(&mut all));
            all
        })
    };
    let out = read(out.map(|s| Box::new(s) as _));
    let err = read(err.map(|s| Box::new(s) as _));
    std::thread::spawn(move || sender.send(child.wait()));
    let status = ended.recv_timeout(LIMIT);
    if status.is_err() {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let (stdout, stderr) = (out.join().unwrap(), err.join().unwrap());
    let Ok(status) = status else {
        panic!("hangs: {}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    };
    Output { status: status.unwrap(), stdout, stderr }
}

fn run(args: &[&str]) -> Output {
    finish(Running::start(piped(boot(args))))
}

/// A multiboot kernel of `code`, which begins 32 bytes into it, at 2 MiB.
fn kernel(name: &str, code: &[u8]) -> PathBuf {
    let (magic, flags, load) = (0x1bad_b002u32, 0x1_0000u32, 0x20_0000u32);
    let sum = 0u32.wrapping_sub(magic.wrapping_add(flags));
    let header = [magic, flags, sum, load, load, 0, 0, load + 32];
    let mut image: Vec<u8> = header.iter().flat_map(|w| w.to_le_bytes()).collect();
    image.extend(code);
    let path = scratch(name);
    fs::write(&path, image).unwrap();
    path
}

/// `jmp $`
const FOREVER: &[u8] = &[0xeb, 0xfe];

#[test]
fn debian_kernels_boot_run_and_power_off() {
    let out = testdata().join("kernels/out");
    assert!(out.join(".fetched").exists(), "the kernels are missing: run testdata/kernels/fetch first");
    for flavour in ["686", "686-pae"] {
        let disk = scratch(flavour);
        File::create(&disk).unwrap().set_len(64 << 20).unwrap();
        let file = |name: &str| out.join(format!("{name}-{flavour}{}", if name == "initrd" { ".img" } else { "" }));
        let o = run(&[
            "--kernel",
            file("vmlinuz").to_str().unwrap(),
            "--initrd",
            file("initrd").to_str().unwrap(),
            "--append",
            "console=ttyS0 quiet xlat86.run=tests",
            "-m",
            "256M",
            "--disk",
            disk.to_str().unwrap(),
        ]);
        let text = String::from_utf8_lossy(&o.stdout);
        assert_eq!(o.status.code(), Some(0), "{flavour}: {text}{}", String::from_utf8_lossy(&o.stderr));
        assert!(text.contains("13 passed, 0 failed"), "{flavour}: {text}");
        // The guest has left an ext4 or ext2 file system: its magic number.
        let image = fs::read(&disk).unwrap();
        assert_eq!(image[0x438..0x43a], [0x53, 0xef]);
        fs::remove_file(disk).unwrap();
    }
}

/// Types at a guest's serial console, and waits for what it says.
struct Typist {
    run: Running,
    stdin: std::process::ChildStdin,
    shown: mpsc::Receiver<Vec<u8>>,
    text: String,
}

impl Typist {
    fn new(mut command: Command) -> Typist {
        command.stdin(Stdio::piped());
        let mut run = Running::start(piped(command));
        let (stdin, mut output) = (run.child().stdin.take().unwrap(), run.child().stdout.take().unwrap());
        let (sender, shown) = mpsc::channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut piece) {
                if sender.send(piece[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Typist { run, stdin, shown, text: String::new() }
    }

    /// What was shown up to and with `what`, typing `keys` first.
    fn answer(&mut self, keys: &str, what: &str) -> String {
        self.stdin.write_all(keys.as_bytes()).unwrap();
        loop {
            if let Some(at) = self.text.find(what) {
                let rest = self.text.split_off(at + what.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let piece = self.shown.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no {what} in {}", self.text));
            self.text += &String::from_utf8_lossy(&piece);
        }
    }
}

#[test]
#[ignore = "needs testdata/kernels/debian, which root has to run, and a minute"]
fn debian_boots_to_a_login_and_shuts_down() {
    let kernels = testdata().join("kernels");
    let file = |name: &str| kernels.join(name).to_str().unwrap().to_owned();
    let mut typist = Typist::new(boot(&[
        "--kernel",
        &file("out/vmlinuz-686"),
        "--initrd",
        &file("out/initrd-686.img"),
        "--append",
        "console=ttyS0 quiet xlat86.root=/dev/vda",
        "--snapshot",
        "--disk",
        &file("disk/debian.img"),
    ]));
    typist.answer("", "login:");
    typist.answer("root\n", "assword:");
    typist.answer("xlat86\n", "# ");
    // The quotes keep the echo from being taken for the answer.
    let state = typist.answer("systemctl is-system-running --wait; echo en''d\n", "end");
    assert!(state.contains("running\r\n"), "{state}");
    typist.answer("systemctl poweroff\n", "Power down");
    assert_eq!(finish(typist.run).status.code(), Some(0));
}

/// A guest at its shell, the 686 kernel's, with more options.
fn shell(command: Command, args: &[&str]) -> Typist {
    let out = testdata().join("kernels/out");
    let mut command = command;
    command.arg("--kernel").arg(out.join("vmlinuz-686")).arg("--initrd").arg(out.join("initrd-686.img")).args(args);
    Typist::new(command)
}

/// What was flushed is in the image whatever happens: a reset of the guest, or the end of this process.
#[test]
fn a_killed_run_leaves_what_was_flushed() {
    let (disk, fixed) = (scratch("disk"), scratch("fixed"));
    for d in [&disk, &fixed] {
        File::create(d).unwrap().set_len(1 << 20).unwrap();
    }
    let mut command = Command::new(XLAT86);
    command.args(["boot", "--engine", &engine()]);
    let read_only = format!("{},ro", fixed.display());
    let args = ["--append", "console=ttyS0 quiet", "--disk", disk.to_str().unwrap(), "--disk", &read_only];
    let mut guest = shell(command, &args);
    guest.answer("", "# ");
    // The quotes keep the echo from being taken for the answer.
    guest.answer("echo first | dd of=/dev/vda conv=fsync; echo d''one\n", "done");
    assert_eq!(fs::read(&disk).unwrap()[..6], *b"first\n");
    let refused = guest.answer("cat /sys/block/vdb/ro; echo x | dd of=/dev/vdb conv=fsync; echo d''one\n", "done");
    assert!(refused.contains("1\r\n") && refused.contains("dd: "), "{refused}");
    assert!(fs::read(&fixed).unwrap().iter().all(|&b| b == 0));
    guest.answer("reboot -f\n", "BusyBox v");
    guest.answer("", "# ");
    guest.answer("head -c 5 /dev/vda | tr f F\n", "First");
    guest.answer("echo second | dd of=/dev/vda conv=fsync; echo d''one\n", "done");
    guest.run.child().kill().unwrap();
    assert_eq!(guest.run.child().wait().unwrap().signal(), Some(9));
    assert_eq!(fs::read(&disk).unwrap()[..7], *b"second\n");
}

#[test]
fn a_snapshot_outlives_resets_and_leaves_nothing() {
    let disk = scratch("snapshot");
    fs::write(&disk, vec![b'.'; 1 << 20]).unwrap();
    let mut command = Command::new(XLAT86);
    command.args(["boot", "--engine", &engine(), "--console", "virtio", "--snapshot"]);
    let mut guest = shell(command, &["--append", "console=hvc0 quiet", "--disk", disk.to_str().unwrap()]);
    guest.answer("", "# ");
    guest.answer("echo mine | dd of=/dev/vda conv=fsync; reboot -f\n", "BusyBox v");
    guest.answer("", "# ");
    guest.answer("head -c 4 /dev/vda | tr m M\n", "Mine");
    guest.answer("poweroff -f\n", "");
    assert_eq!(finish(guest.run).status.code(), Some(0));
    assert!(fs::read(&disk).unwrap().iter().all(|&b| b == b'.'));
}

#[test]
fn test_kernels_print_and_exit_with_a_status() {
    // mov dx, 0xe9; mov al, 'o'; out dx, al; mov al, 'k'; out dx, al; mov al, 0x10; out 0xf4, al
    let code = [0x66, 0xba, 0xe9, 0, 0xb0, b'o', 0xee, 0xb0, b'k', 0xee, 0xb0, 0x10, 0xe6, 0xf4, 0xeb, 0xfe];
    let o = run(&["--kernel", kernel("exit", &code).to_str().unwrap()]);
    assert_eq!((o.status.code(), o.stdout.as_slice()), (Some(0x21), b"ok".as_slice()));
}

#[test]
fn traces_name_what_happens() {
    // ud2, without an IDT: #UD, #GP for its gate, double fault, shutdown.
    let trace = scratch("trace");
    let path = kernel("traced", &[0x40, 0x0f, 0x0b]);
    let o = run(&[
        "--trace",
        "decode,block,exit,fault",
        "--trace-file",
        trace.to_str().unwrap(),
        "--kernel",
        path.to_str().unwrap(),
    ]);
    assert_eq!(o.status.code(), Some(3));
    let text = fs::read_to_string(&trace).unwrap();
    assert!(text.contains("inc %eax"), "{text}");
    for what in ["block ", "exit ", "fault "] {
        assert!(text.lines().any(|l| l.starts_with(what)), "no {what}in\n{text}");
    }
}

#[test]
fn firmware_starts_at_the_reset_vector() {
    // jmp far f000:ff00, where: mov al, 'r'; out 0xe9, al; out 0xf4, al
    let mut rom = vec![0x90; 64 << 10];
    rom[0xfff0..0xfff5].copy_from_slice(&[0xea, 0x00, 0xff, 0x00, 0xf0]);
    rom[0xff00..0xff06].copy_from_slice(&[0xb0, b'r', 0xe6, 0xe9, 0xe6, 0xf4]);
    let path = scratch("rom");
    fs::write(&path, rom).unwrap();
    let o = run(&["--bios", path.to_str().unwrap()]);
    assert_eq!((o.status.code(), o.stdout.as_slice()), (Some(i32::from(b'r' << 1 | 1)), b"r".as_slice()));
}

#[test]
fn interrupts_wake_a_halted_cpu() {
    // Counts timer ticks in a handler, at 1193 ticks of the PIT each, and exits after some.
    #[rustfmt::skip]
    let code = [
        0xe8, 0, 0, 0, 0, 0x5d,                             // call 1f; 1: pop ebp (= start + 5)
        0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21,     // ICW1; ICW2: vector 0x20
        0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21,     // ICW3; ICW4
        0xb0, 0xfe, 0xe6, 0x21,                             // only the timer
        0xb0, 0x34, 0xe6, 0x43,                             // channel 0, both bytes, mode 2
        0xb0, 0xa9, 0xe6, 0x40, 0xb0, 0x04, 0xe6, 0x40,     // 1193
        0x8d, 0x45, 0x4d,                                   // lea eax, [ebp + handler]
        0x66, 0xa3, 0x00, 0x01, 0x30, 0x00,                 // mov [0x300100], ax: offset 15:0
        0xc7, 0x05, 0x02, 0x01, 0x30, 0x00, 0x10, 0, 0, 0x8e, // mov dword [0x300102], 0x8e000010
        0xc1, 0xe8, 0x10,                                   // shr eax, 16
        0x66, 0xa3, 0x06, 0x01, 0x30, 0x00,                 // mov [0x300106], ax
        0x66, 0xc7, 0x45, 0x5e, 0xff, 0x07,                 // mov word [ebp + idtr], 0x7ff
        0x0f, 0x01, 0x5d, 0x5e,                             // lidt [ebp + idtr]
        0x31, 0xc9, 0xfb,                                   // xor ecx, ecx; sti
        0xf4, 0xeb, 0xfd,                                   // 1: hlt; jmp 1b
        0x41, 0x83, 0xf9, 0x14, 0x74, 0x05,                 // handler: inc ecx; cmp ecx, 20; je 1f
        0xb0, 0x20, 0xe6, 0x20, 0xcf,                       // mov al, 0x20; out 0x20, al; iret
        0xb0, 0x03, 0xe6, 0xf4, 0xeb, 0xfe,                 // 1: mov al, 3; out 0xf4, al
        0x00, 0x00, 0x00, 0x00, 0x30, 0x00,                 // idtr
    ];
    let started = Instant::now();
    let o = run(&["--kernel", kernel("ticks", &code).to_str().unwrap()]);
    assert_eq!(o.status.code(), Some(7), "{}", String::from_utf8_lossy(&o.stderr));
    assert!(started.elapsed() >= Duration::from_millis(20), "twenty ticks of a millisecond");
}

/// testdata/kernels/clocks.S, assembled.
fn clocks_kernel() -> PathBuf {
    let (object, image) = (scratch("clocks.o"), scratch("clocks.img"));
    let run = |program: &str, args: &[&str], to: &Path, from: &Path| {
        let status = Command::new(program).args(args).arg("-o").arg(to).arg(from).status();
        assert!(status.unwrap_or_else(|e| panic!("{program}: {e}")).success(), "{program} failed");
    };
    run("as", &["--32"], &object, &testdata().join("kernels/clocks.S"));
    run("ld", &["-m", "elf_i386", "-Ttext=0x200000", "--oformat", "binary"], &image, &object);
    fs::remove_file(object).unwrap();
    image
}

#[test]
fn instructions_are_the_clock_of_engines_that_count_them() {
    let image = clocks_kernel();
    let said = |args: &[&str]| {
        let mut command = Command::new(XLAT86);
        command.args(["boot", "--no-reboot", "--kernel", image.to_str().unwrap()]).args(args).stdin(Stdio::null());
        let o = finish(Running::start(piped(command)));
        (o.status.code(), String::from_utf8(o.stdout).unwrap(), String::from_utf8(o.stderr).unwrap())
    };
    // 2,003 instructions of 4 ns; 2,000,000 and a few of them at 3.579545 MHz; the rest of a tick of 10 ms; the year 2000. Always.
    let expected = "00001f4c\n00006fdd\n00989711\n00000000\n";
    for args in [&["--engine", "interp", "--clock", "instructions"][..], &["--engine", "lockstep"]] {
        let (code, out, err) = said(args);
        assert_eq!((code, out.as_str()), (Some(33), expected), "{args:?}: {err}");
    }
    for args in [&["--engine", "interp"][..], &["--engine", "dbt", "--clock", "host"]] {
        let (code, out, err) = said(args);
        assert_eq!(code, Some(33), "{args:?}: {err}");
        assert!(out != expected && !out.ends_with("00000000\n"), "{args:?} follow the host's clock: {out}");
    }
    let (code, _, err) = said(&["--engine", "dbt", "--clock", "instructions"]);
    assert!(code == Some(126) && err.contains("doesn't count"), "{err}");
    fs::remove_file(image).unwrap();
}

#[test]
fn a_triple_fault_is_a_reset() {
    // lidt [eax]: all zero there; int3
    let path = kernel("triple", &[0xb8, 0, 0, 0x30, 0, 0x0f, 0x01, 0x18, 0xcc]);
    let o = run(&["--kernel", path.to_str().unwrap()]);
    let err = String::from_utf8_lossy(&o.stderr);
    assert_eq!(o.status.code(), Some(3), "{err}");
    assert!(err.contains("triple fault") && err.contains("cs "), "{err}");
}

#[test]
fn what_cant_be_booted_is_said() {
    let loops = kernel("wrong", FOREVER);
    let loops = loops.to_str().unwrap();
    let (text, empty) = (scratch("text"), scratch("empty"));
    fs::write(&text, "hello").unwrap();
    fs::write(&empty, "").unwrap();
    let (text, empty) = (text.to_str().unwrap(), empty.to_str().unwrap());
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--kernel", "/no/such"], 126, "No such file"),
        (&["--kernel", text], 126, "neither"),
        (&["--kernel", loops, "--initrd", "/no/such"], 126, "No such file"),
        (&["--kernel", loops, "--disk", "/no/such"], 126, "No such file"),
        (&["--kernel", loops, "--disk", empty], 126, "shorter than a sector"),
        (&["--bios", text], 126, "whole KiB"),
        (&["--kernel", loops, "--control", "/no/such/dir/socket"], 126, "control socket"),
        (&["--kernel", loops, "-m", "5G"], 2, "2M to 3G"),
        (&[], 2, "required"),
    ];
    let sector = scratch("sector");
    fs::write(&sector, [0; 512]).unwrap();
    let disks = (0..30).flat_map(|_| ["--disk", sector.to_str().unwrap()]);
    let many: Vec<&str> = ["--kernel", loops, "--snapshot"].into_iter().chain(disks).collect();
    let o = run(&many);
    assert_eq!(o.status.code(), Some(126));
    assert!(String::from_utf8_lossy(&o.stderr).contains("room for 29"), "{}", String::from_utf8_lossy(&o.stderr));
    for (args, status, says) in cases {
        let o = run(args);
        let err = String::from_utf8_lossy(&o.stderr);
        assert_eq!(o.status.code(), Some(*status), "{args:?}: {err}");
        assert!(err.contains(says), "{args:?}: {err}");
        assert!(*status != 126 || err.lines().count() == 1, "{args:?}: {err}");
    }
}

/// A run that waits to be asked.
struct Asked {
    run: Running,
    stream: BufReader<UnixStream>,
}

impl Asked {
    fn start(name: &str, code: &[u8]) -> Asked {
        let socket = scratch(&format!("{name}.sock"));
        let path = kernel(name, code);
        let args = ["--kernel", path.to_str().unwrap(), "--control", socket.to_str().unwrap()];
        let run = Running::start(piped(boot(&args)));
        let since = Instant::now();
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(e) => assert!(since.elapsed() < LIMIT, "no socket: {e}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Asked { run, stream: BufReader::new(stream) }
    }

    fn ask(&mut self, request: &str) -> serde_json::Value {
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{request}: {e}: {line}"))
    }
}

#[test]
fn the_control_socket_looks_into_the_machine() {
    // 1: inc eax; inc ebx; jmp 1b
    let mut m = Asked::start("control", &[0x40, 0x43, 0xeb, 0xfc]);
    assert_eq!(m.ask(r#"{"do":"step"}"#)["error"], "pause the machine first");
    assert_eq!(m.ask(r#"{"do":"pause"}"#), "done");
    let before = m.ask(r#"{"do":"registers"}"#)["registers"].clone();
    assert!((0x20_0020..=0x20_0023).contains(&before["eip"].as_u64().unwrap()), "{before}");
    let after = m.ask(r#"{"do":"step","count":3}"#)["registers"].clone();
    assert_eq!(after["eip"], before["eip"], "three instructions go round once");
    let advance = |r: &str| (after[r].as_u64().unwrap() as u32).wrapping_sub(before[r].as_u64().unwrap() as u32);
    assert_eq!((advance("eax"), advance("ebx")), (1, 1));
    for physical in ["false", "true"] {
        let read = format!(r#"{{"do":"read","address":2097184,"length":4,"physical":{physical}}}"#);
        assert_eq!(m.ask(&read)["memory"], "4043ebfc");
    }
    assert!(m.ask(r#"{"do":"read","address":655360,"length":1,"physical":true}"#)["error"].is_string());
    assert!(m.ask(r#"{"do":"read","address":0,"length":99999999}"#)["error"].is_string());
    for about in ["registers", "irq", "tlb", "shadow", "blocks"] {
        let text = m.ask(&format!(r#"{{"do":"info","about":"{about}"}}"#));
        assert!(!text["text"].as_str().unwrap().is_empty(), "{about}");
    }
    assert_eq!(m.ask(r#"{"do":"key","name":"a"}"#), "done");
    assert!(m.ask(r#"{"do":"key","name":"nokey"}"#)["error"].is_string());
    for bad in ["{}", "nonsense", r#"{"do":"read","address":0,"length":1,"more":1}"#] {
        assert!(m.ask(bad)["error"].is_string(), "{bad}");
    }
    assert_eq!(m.ask(r#"{"do":"resume"}"#), "done");
    assert_eq!(m.ask(r#"{"do":"quit"}"#), "done");
    assert_eq!(finish(m.run).status.code(), Some(0));
}

#[test]
fn keys_and_the_power_button_reach_the_guest() {
    // 1: in al, 0x64; test al, 1; je 1b; in al, 0x60; out 0xf4, al
    let mut m = Asked::start("key", &[0xe4, 0x64, 0xa8, 1, 0x74, 0xfa, 0xe4, 0x60, 0xe6, 0xf4, 0xeb, 0xfe]);
    // Unanswered when the run ends first.
    m.stream.get_mut().write_all(b"{\"do\":\"key\",\"name\":\"a\",\"press\":true}\n").unwrap();
    assert_eq!(finish(m.run).status.code(), Some(0x1e << 1 | 1), "scan code of A, set 1");
    // mov dx, 0x600; 1: in ax, dx; test ah, 1; je 1b; mov al, 5; out 0xf4, al
    let code = [0x66, 0xba, 0, 6, 0x66, 0xed, 0xf6, 0xc4, 1, 0x74, 0xf9, 0xb0, 5, 0xe6, 0xf4, 0xeb, 0xfe];
    let mut m = Asked::start("button", &code);
    m.stream.get_mut().write_all(b"{\"do\":\"power-button\"}\n").unwrap();
    assert_eq!(finish(m.run).status.code(), Some(11), "PWRBTN_STS");
}

#[test]
fn steps_end_where_the_run_does() {
    // nop; mov al, 4; out 0xf4, al; jmp $
    let mut m = Asked::start("steps", &[0xeb, 0xfe, 0xb0, 4, 0xe6, 0xf4, 0xeb, 0xfe]);
    assert_eq!(m.ask(r#"{"do":"pause"}"#), "done");
    let error = m.ask(r#"{"do":"step","count":4000000000}"#)["error"].clone();
    assert!(error.as_str().unwrap().contains("at most"), "{error}");
    assert_eq!(m.ask(r#"{"do":"step","count":1000}"#)["registers"]["eip"], 0x20_0020);
    assert_eq!(m.ask(r#"{"do":"quit"}"#), "done");
    assert_eq!(finish(m.run).status.code(), Some(0));
}

/// What stands where the socket is to be is replaced only if it is a dead run's socket.
#[test]
fn the_control_socket_replaces_nothing_else() {
    let loops = kernel("occupied", FOREVER);
    let (file, dead) = (scratch("precious"), scratch("dead"));
    fs::write(&file, "precious").unwrap();
    let o = run(&["--kernel", loops.to_str().unwrap(), "--control", file.to_str().unwrap()]);
    let err = String::from_utf8_lossy(&o.stderr);
    assert!(o.status.code() == Some(126) && err.contains("in use"), "{err}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let code = [0xb0, 4, 0xe6, 0xf4, 0xeb, 0xfe];
    let path = kernel("replaces", &code);
    let o = run(&["--kernel", path.to_str().unwrap(), "--control", dead.to_str().unwrap()]);
    assert_eq!(o.status.code(), Some(9), "{}", String::from_utf8_lossy(&o.stderr));
    assert!(!dead.exists(), "removed at the end");
    // Nobody else may connect, whatever the umask.
    let mut m = Asked::start("modes", FOREVER);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(scratch_name("modes.sock")).unwrap().permissions().mode() & 0o777, 0o600);
    m.ask(r#"{"do":"quit"}"#);
}

#[test]
fn serial_input_comes_back() {
    // 1: mov dx, 0x3fd; in al, dx; test al, 1; je 1b; mov dl, 0xf8; in al, dx; cmp al, 'q'; je 2f; out dx, al; jmp 1b; 2: out 0xf4, al
    let code = [
        0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 1, 0x74, 0xf7, 0xb2, 0xf8, 0xec, 0x3c, b'q', 0x74, 3, 0xee, 0xeb, 0xed,
        0xe6, 0xf4,
    ];
    let mut m = Asked::start("echo", &code);
    // Unanswered when the run ends first.
    m.stream.get_mut().write_all(b"{\"do\":\"serial\",\"text\":\"hello\\nq\"}\n").unwrap();
    let o = finish(m.run);
    assert_eq!(String::from_utf8_lossy(&o.stdout), "hello\n");
    assert_eq!(o.status.code(), Some(i32::from(b'q' << 1 | 1)));
}

#[test]
fn signals_end_a_run_in_good_order() {
    use rustix::process::{Signal, kill_process};
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1)] {
        let mut m = Asked::start(&format!("signal{number}"), FOREVER);
        m.ask(r#"{"do":"registers"}"#);
        kill_process(m.run.pid(), signal).unwrap();
        let status = finish(m.run).status;
        assert_eq!((status.code(), status.signal()), (Some(128 + number), None));
    }
}

#[test]
fn a_terminal_has_a_monitor_and_is_restored() {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = || OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let terminal = slave();
    let before = format!("{:?}", tcgetattr(&terminal).unwrap());
    let path = kernel("monitor", FOREVER);
    let mut command = boot(&["--kernel", path.to_str().unwrap()]);
    command.stdin(slave()).stdout(slave()).stderr(slave());
    let run = Running::start(command);
    let mut master = File::from(master);
    let mut output = master.try_clone().unwrap();
    let (sender, shown) = mpsc::channel();
    std::thread::spawn(move || {
        let mut piece = [0; 256];
        while let Ok(n @ 1..) = output.read(&mut piece) {
            if sender.send(String::from_utf8_lossy(&piece[..n]).into_owned()).is_err() {
                return;
            }
        }
    });
    let mut all = String::new();
    let mut expect = |what: &str| {
        while !all.contains(what) {
            all += &shown.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no {what} in {all}"));
        }
        let seen = std::mem::take(&mut all);
        assert!(!seen.replace("\r\n", "").contains('\n'), "a raw terminal needs both characters: {seen:?}");
    };
    let since = Instant::now();
    while format!("{:?}", tcgetattr(&terminal).unwrap()) == before {
        assert!(since.elapsed() < LIMIT, "the terminal isn't raw");
        std::thread::sleep(Duration::from_millis(10));
    }
    for (keys, answer) in [
        ("\x01h", "Ctrl-A x quits"),
        ("\x01c", "(xlat86) "),
        ("info rex\x7fgisters\r", "eip    00200020"),
        ("pause\r", "ok"),
        ("step\r", "eip 00200020"),
        ("xp 0x200020 2\r", "00200020  eb fe"),
        ("nonsense\r", "no such command"),
    ] {
        master.write_all(keys.as_bytes()).unwrap();
        expect(answer);
    }
    master.write_all(b"\x01x").unwrap();
    assert_eq!(finish(run).status.code(), Some(0));
    assert_eq!(format!("{:?}", tcgetattr(&terminal).unwrap()), before);
}
