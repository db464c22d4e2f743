//! Real programs with the smallest translation cache: code is evicted all the time, and nobody sees it.
//!
//! Whatever `XLAT86_ENGINE` says, these run on the translator: the other engines evict nothing, or too slowly.

mod common;

use common::{Case, compare_with, run_emulated_with};

const TINY: [&str; 4] = ["--engine", "dbt", "--cache-size", "256K"];

const PYTHON: &str = "
import json, re, hashlib
class Shape:
    def __init__(self, n): self.n = n
    def area(self): return self.n ** 2 / 3
print(sum(Shape(i).area() for i in range(3000)))
print(json.loads(json.dumps({'a': [1, 2.5, None], 'b': 'x' * 10})))
print(re.sub(r'(a+)(b?)', r'<\\2\\1>', 'caaabt' * 5), 3 ** 200 % 1000007)
print(hashlib.sha256(open('binary', 'rb').read()).hexdigest(), sorted(open('numbers').read().split())[::97])
try: 1 / 0
except ZeroDivisionError as e: print(e)
";

const AWK: &str = "
function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2) }
{ count[$3] += $1; gsub(/[13]/, \"x\"); text = text $0 }
END { for (k in count) s += count[k] * length(k); printf \"%d %d %s %.3f\\n\", s, fib(15), toupper(substr(text, 1, 40)), atan2(1, 2) }
";

/// Bash with its children, on which the option is handed on.
const SCRIPT: &str = "
for i in {1..40}; do a[i]=$((i * i)); done
echo \"${a[@]/1/x}\" | tr ' ' '\n' | sort -r | head -n 5
f() { (( $1 <= 1 )) && echo 1 || echo $(( $1 * $(f $(( $1 - 1 ))) )); }
f 6; printf '%s\n' *; grep -c line numbers; trap 'echo got it' USR1; kill -USR1 $$; exit 3
";

fn cases() -> Vec<Case<'static>> {
    vec![
        (&["/usr/bin/python3", "-c", PYTHON], ""),
        (&["/usr/bin/gawk", AWK, "numbers"], ""),
        (&["/bin/bash", "-c", SCRIPT], ""),
        (&["/bin/busybox", "sha512sum", "binary", "words"], ""),
        (&["/bin/busybox", "sh", "-c", "sort -n numbers | sed s/line/x/ | awk '{s+=$1} END {print s, NR}'"], ""),
        (&["/bin/busybox", "bzip2", "-k", "binary"], ""),
        (&["/bin/busybox", "bc"], "scale=20; sqrt(2); 2^200\n"),
    ]
}

#[test]
fn programs_behave_as_ever() {
    compare_with(&TINY, &cases());
}

/// The counter of a `--stats` line.
fn counter(stats: &str, name: &str) -> u64 {
    let line = stats.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name:?} in {stats}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn code_is_evicted() {
    let options = [&TINY[..], &["--stats"]].concat();
    let seen = run_emulated_with(&options, &["/usr/bin/python3", "-c", PYTHON], "");
    let stats = String::from_utf8_lossy(&seen.stderr);
    let regions = counter(&stats, "regions evicted");
    assert!(regions > 32, "the whole cache has been replaced more than twice: {regions}");
    assert!(counter(&stats, "units evicted") > regions, "{stats}");
}

#[test]
fn sizes_are_checked() {
    for size in ["255K", "2G", "64X", "", "M", "99999999999999999999G"] {
        let seen = run_emulated_with(&["--cache-size", size], &["/bin/busybox", "true"], "");
        assert_ne!(seen.code, Some(0), "{size}");
        assert!(String::from_utf8_lossy(&seen.stderr).contains("--cache-size"), "{size}: {seen:?}");
    }
}
