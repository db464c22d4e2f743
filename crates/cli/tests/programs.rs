//! Debian's i386 programs behave under xlat86 as they do natively: output, errors, exit status and files left behind.
//!
//! `XLAT86_ENGINE` chooses the engine. The guests come from testdata/guests/fetch.

mod common;

use common::{Case, GUARD, compare, guests, run_emulated, run_native};
use std::process::Command;

/// `busybox APPLET ARGS`.
fn applets(list: &[(&str, &str)]) {
    let split: Vec<(Vec<&str>, &str)> = list
        .iter()
        .map(|(line, stdin)| (["/bin/busybox"].into_iter().chain(line.split(' ')).collect(), *stdin))
        .collect();
    let cases: Vec<Case<'_>> = split.iter().map(|(argv, stdin)| (argv.as_slice(), *stdin)).collect();
    compare(&cases);
}

/// `bash -c SCRIPT`.
fn scripts(list: &[&str]) {
    let argv: Vec<[&str; 3]> = list.iter().map(|s| ["/bin/bash", "-c", s]).collect();
    let cases: Vec<Case<'_>> = argv.iter().map(|a| (a.as_slice(), "")).collect();
    compare(&cases);
}

const TEXT: &str = "gamma 3\nalpha 1\nbeta 2\nalpha 1\n";

#[test]
fn busybox_text() {
    applets(&[
        ("cat words", ""),
        ("cat -n -", TEXT),
        ("tac words", ""),
        ("rev words", ""),
        ("head -n 3 numbers", ""),
        ("tail -n 4 numbers", ""),
        ("wc words numbers", ""),
        ("sort", TEXT),
        ("sort -k2 -n -r", TEXT),
        ("uniq -c", TEXT),
        ("cut -d o -f 1,3 words", ""),
        ("tr a-z A-Z", TEXT),
        ("sed -n s/the/THE/gp words", ""),
        ("grep -n the words", ""),
        ("grep -c nothing words", ""),
        ("awk {s+=$1;n++}END{print(s/n,n)} numbers", ""),
        ("od -A x -t x1z words", ""),
        ("hexdump -C words", ""),
        ("fold -w 10 words", ""),
        ("nl words", ""),
        ("paste words sub/two", ""),
        ("expand -t 3 -", "a\tb\tc\n"),
        ("strings binary", ""),
        ("comm words link", ""),
        ("diff words numbers", ""),
    ]);
}

#[test]
fn busybox_files() {
    applets(&[
        ("ls -l sub", ""),
        ("ls -lR sub", ""),
        ("find . -type f -name t*", ""),
        ("cp -a sub copy", ""),
        ("mv words moved", ""),
        ("rm -r sub", ""),
        ("mkdir -p a/b/c", ""),
        ("rmdir sub", ""),
        ("ln -s words another", ""),
        ("chmod 640 words", ""),
        ("touch -d @86400 new", ""),
        ("stat -c %s:%a:%Y:%F words", ""),
        ("readlink -f /usr/../usr", ""),
        ("du -s nothere", ""),
        ("dd if=binary of=out bs=1000 count=7 skip=3 conv=notrunc", ""),
        ("md5sum binary words", ""),
        ("sha256sum binary", ""),
        ("sha512sum binary", ""),
        ("cksum binary", ""),
        ("gzip -k -n binary", ""),
        ("bzip2 -k words", ""),
        ("tar cf t.tar --numeric-owner words sub", ""),
        ("cpio -p -d copy", "words\nsub/one\n"),
        ("truncate -s 100 words", ""),
        ("split -l 50 numbers part.", ""),
        ("test -f words", ""),
        ("test -d words", ""),
    ]);
}

#[test]
fn busybox_system() {
    applets(&[
        ("echo -e a\\tb", ""),
        ("printf %5d|%-5s|%x\\n 42 abc 255", ""),
        ("expr 6 * 7", ""),
        ("seq 1 3 20", ""),
        ("factor 1234567890", ""),
        ("date -u -d @1000000000", ""),
        ("cal 9 2001", ""),
        ("basename /a/b/c.txt .txt", ""),
        ("dirname /a/b/c.txt", ""),
        ("env -i A=1 B=2", ""),
        ("id -u", ""),
        ("uname -sm", ""),
        ("true", ""),
        ("false", ""),
        ("sh -c exit\u{a0}5", ""),
        ("timeout 1 sleep 0", ""),
        ("xargs -n 2 echo", "a b c d e\n"),
        ("base64 words", ""),
        ("uuencode -m x", TEXT),
        ("bc", "2^64; 100/7\n"),
        ("dc", "2 3 ^ p\n"),
        ("vi --help", ""),
        ("nosuchapplet", ""),
    ]);
}

#[test]
fn shell_language() {
    scripts(&[
        "echo $((6*7)) ${#PATH:+x} \"${BASH_VERSION%%.*}\"",
        "for i in {1..5}; do echo -n $i,; done; echo",
        "a=(x y z); a+=(w); echo ${a[@]:1:2} ${#a[@]}; declare -A m=([k]=v); echo ${m[k]}",
        "f() { local x=$1; ((x<=1)) && echo 1 || echo $((x * $(f $((x-1))))); }; f 6",
        "case hello in h*o) echo yes;; *) echo no;; esac",
        "while read -r a b; do echo \"$b $a\"; done < numbers | head -n 3",
        "cat <<E | tr a-z A-Z\nhere $((1+1))\nE",
        "printf '%s %q %05.2f %x\\n' a 'b c' 3.14159 255",
        "[[ words =~ ^w(.*)s$ ]] && echo ${BASH_REMATCH[1]}",
        "set -e; false; echo unreachable",
        "set -u; echo $nothing",
        "syntax error (",
        "nosuchcommand; echo $?",
        "./words; echo $?",
        "./sub; echo $?",
        "exit 300",
    ]);
}

#[test]
fn shell_processes() {
    scripts(&[
        "echo a | cat | tr a b | cat; echo ${PIPESTATUS[@]}",
        "(exit 3); echo $?; (exit 4) & wait $!; echo $?",
        "false | true; echo $?; set -o pipefail; false | true; echo $?",
        "seq 1 20000 | sort -rn | head -n 3",
        "yes | head -n 2; echo ${PIPESTATUS[0]}",
        "x=$(echo one; exit 5); echo $x $?",
        "sleep 0.05 & sleep 0.1 & wait; jobs; echo done",
        "echo $(for i in 1 2 3 4 5 6 7 8; do echo $i & done; wait) | tr ' ' '\\n' | sort | tr '\\n' ' '",
        "cat <(echo one) <(echo two)",
        "exec 3> out; echo text >&3; exec 3>&-; cat out",
        "printf '#!/bin/bash\\necho script $0 $1\\nexit 7\\n' > s; chmod +x s; ./s arg; echo $?",
        "printf '#!/bin/cat -n\\nline\\n' > s; chmod +x s; ./s words; echo $?",
        "printf '#!/no/such/interpreter\\n' > s; chmod +x s; ./s; echo $?",
        "printf 'echo no shebang\\n' > s; chmod +x s; ./s; echo $?",
        "ulimit -n; ulimit -c 0; ulimit -c",
        "umask 027; touch new; mkdir newdir",
        "exec ls -l sub/one",
        "env X=5 bash -c 'echo $X'; echo $X",
    ]);
}

#[test]
fn shell_signals() {
    scripts(&[
        "trap 'echo got usr1' USR1; kill -USR1 $$; echo after",
        "trap 'echo bye' EXIT; exit 2",
        "trap '' TERM; kill -TERM $$; echo survived",
        "trap 'echo int; exit 9' INT; kill -INT $$; sleep 5",
        "kill -TERM $$",
        "kill -SEGV $$",
        "kill -KILL $$",
        "x=$(bash -c 'kill -ABRT $$'); echo $?",
        "sleep 10 & kill $!; wait $!; echo $?",
        "sleep 10 & kill -STOP $!; kill -CONT $!; kill -9 $!; wait $! 2>/dev/null; echo $?",
        "trap 'echo chld' CHLD; (exit 1); true; echo end",
        "trap 'echo alarm' ALRM; (sleep 0.05; kill -ALRM $$) & read -t 2 x < <(sleep 0.3; echo late); echo \"$x\"; wait",
        "x=$(timeout -s KILL 0.1 sleep 5); echo $?",
        "timeout 0.1 sleep 5; echo $?",
    ]);
}

#[test]
fn coreutils_and_text_tools() {
    compare(&[
        (&["/bin/ls", "-la", "words", "link", "sub/one"], ""),
        (&["/bin/ls", "-lR", "--full-time", "sub"], ""),
        (&["/bin/ls", "nothere"], ""),
        (&["/bin/cp", "-rv", "sub", "copy"], ""),
        (&["/bin/mv", "-v", "words", "numbers", "sub"], ""),
        (&["/usr/bin/sort", "-n", "-k1,1", "-k2,2r", "numbers"], ""),
        (&["/usr/bin/sha1sum", "binary", "words", "nothere"], ""),
        (&["/usr/bin/stat", "-c", "%n %s %a %F %Y", "words", "sub", "link"], ""),
        (&["/usr/bin/du", "-b", "words"], ""),
        (&["/usr/bin/od", "-t", "f8", "-N", "64", "binary"], ""),
        (&["/usr/bin/join", "numbers", "numbers"], ""),
        (&["/usr/bin/factor", "18446744073709551615", "18446744073709551557"], ""),
        (&["/usr/bin/numfmt", "--to=iec", "123456789"], ""),
        (&["/usr/bin/seq", "-f", "%.3f", "0", "0.1", "1"], ""),
        (&["/usr/bin/split", "-b", "10000", "binary", "x"], ""),
        (&["/usr/bin/shuf", "-i", "1-5", "--random-source=binary"], ""),
        (&["/usr/bin/tsort"], "a b b c c d\n"),
        (&["/usr/bin/ptx", "words"], ""),
        (&["/bin/dd", "if=binary", "of=out", "bs=512", "count=9", "status=none"], ""),
        (&["/bin/df", "nothere"], ""),
        (&["/usr/bin/env", "-i", "FOO=bar"], ""),
        (&["/usr/bin/nproc"], ""),
        (&["/bin/grep", "-rn", "2", "sub"], ""),
        (&["/bin/grep", "-P", "\\bq\\w+k\\b", "words"], ""),
        (&["/bin/grep", "-E", "(", "words"], ""),
        (&["/bin/sed", "-E", "s/([a-z]+) ([a-z]+)/\\2 \\1/g;2d", "words"], ""),
        (&["/bin/sed", "-i", "s/the/THE/", "words"], ""),
        (&["/usr/bin/gawk", "{ n[$3]+=$1 } END { for (k in n) print k, n[k] | \"sort\" }", "numbers"], ""),
        (
            &[
                "/usr/bin/gawk",
                "BEGIN { for (i = 0; i < 10; i++) printf \"%.15g %.15g %d\\n\", sin(i), exp(i / 3), 2^i }",
            ],
            "",
        ),
        (&["/usr/bin/gawk", "BEGIN { while ((\"echo a b\" | getline x) > 0) print toupper(x); exit 4 }"], ""),
    ]);
}

#[test]
fn bc_computes_pi_to_500_digits() {
    compare(&[
        (&["/usr/bin/bc", "-l"], "scale=500; 4*a(1)\n"),
        (&["/usr/bin/bc"], "define f(n) { if (n < 2) return 1; return n * f(n - 1); }\nf(100)\n1/0\n"),
        (&["/usr/bin/bc"], "x = ; 3\n"),
    ]);
}

#[test]
fn compressors_round_trip() {
    compare(&[
        (&["/bin/bzip2", "-k", "-9", "binary"], ""),
        (&["/bin/bzip2", "-d", "words"], ""),
        (&["/bin/bzip2", "-tv", "nothere"], ""),
        (&["/usr/bin/xz", "-k", "-6", "--threads=1", "binary"], ""),
        (&["/usr/bin/xz", "-d", "words"], ""),
    ]);
    scripts(&[
        "bzip2 -c binary | bzip2 -dc | md5sum; md5sum < binary",
        "xz -T1 -c binary numbers | xz -dc | md5sum; cat binary numbers | md5sum",
        "xz -T1 -c binary | head -c 5000 | xz -dc | wc -c; echo ${PIPESTATUS[@]}",
    ]);
}

#[test]
fn python() {
    let run = |code: &'static str| ["/usr/bin/python3.11", "-c", code];
    let codes = [
        "print(0.1 + 0.2, 1e308 * 10, -0.0, 2 ** 0.5, 1 / 3, float('nan'))",
        "import math; print([(math.sin(x), math.exp(x), math.lgamma(x + 1), math.fsum([.1] * 10)) for x in (0, .5, 1, 10, 100)]); print(math.pi, math.e ** 10, math.tan(1e10))",
        "print(2 ** 1000 // 3 ** 200, pow(3, 10 ** 5, 10 ** 9 + 7), -7 // 2, -7 % 3, hash(2 ** 61))",
        "import json; d = {'a': [1, 2.5, None, True], 'b': {'c': '\\u00e9\"'}}; s = json.dumps(d, sort_keys=True); print(s, json.loads(s) == d)",
        "import json; json.loads('{bad')",
        "import sys; print(sys.maxsize, sys.byteorder, sys.argv, sys.float_info.dig)",
        "import struct, hashlib; print(struct.pack('<iqd', 1, -2, 3.5).hex(), hashlib.sha256(b'x').hexdigest())",
        "import re; print(re.findall(r'(\\w+)@(\\w+)', 'a@b c@d'))",
        "import decimal; decimal.getcontext().prec = 60; print(decimal.Decimal(2).sqrt())",
        "import itertools; print(sum(1 for p in itertools.permutations(range(7)) if p[0] < p[-1]))",
        "import os; pid = os.fork(); (os._exit(7) if pid == 0 else print(os.waitpid(pid, 0)[1]))",
        "import subprocess; r = subprocess.run(['busybox', 'echo', 'child'], capture_output=True); print(r.stdout, r.returncode)",
        "import subprocess; subprocess.run(['/no/such/program'])",
        "import threading; r = []; t = [threading.Thread(target=lambda i=i: r.append(i * i)) for i in range(8)]; [x.start() for x in t]; [x.join() for x in t]; print(sorted(r))",
        "import time; a = time.monotonic(); time.sleep(0.02); print(time.monotonic() - a > 0.02, time.gmtime(0).tm_year)",
        "import signal, os; signal.signal(signal.SIGUSR1, lambda s, f: print('signal', s)); os.kill(os.getpid(), signal.SIGUSR1); print('end')",
        "import os; os.listdir('nothere')",
        "import os; print(sorted(os.listdir('.')), os.stat('words').st_size, os.path.islink('link'))",
        "raise SystemExit(3)",
        "import os; os.abort()",
        "def f(n): return f(n + 1)\nf(0)",
    ];
    // Errors of missing programs and directories name paths that are the same on both sides.
    let argv: Vec<[&str; 3]> = codes.iter().map(|c| run(c)).collect();
    let cases: Vec<Case<'_>> = argv.iter().map(|a| (a.as_slice(), "")).collect();
    compare(&cases);
    compare(&[(&["/usr/bin/python3.11", "-"], "import sys\nfor l in ['x', 'y']:\n    print(l, file=sys.stderr)\n")]);
}

#[test]
fn the_guard_kills_native_i386_programs() {
    let busybox = guests().join("bin/busybox");
    let native = Command::new(&busybox).arg("true").status();
    if !native.is_ok_and(|s| s.success()) {
        // A host without 32-bit support needs no guard; what remains to be shown is that xlat86 doesn't need that support.
        assert_eq!(run_emulated(&["/bin/busybox", "true"], "").code, Some(0));
        return;
    }
    use std::os::unix::process::ExitStatusExt;
    let guarded = Command::new(GUARD).arg(&busybox).arg("true").status().unwrap();
    assert_eq!(guarded.signal(), Some(31), "a native i386 program must die of SIGSYS under the guard");
    assert_eq!(run_native(&["/bin/busybox", "true"], "").code, Some(0));
    assert_eq!(run_emulated(&["/bin/busybox", "true"], "").code, Some(0));
}
