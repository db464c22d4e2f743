//! Translations that are kept from one run to the next: programs behave as ever, whatever state the folder is in.
//!
//! Whatever `XLAT86_ENGINE` says, these run on the translator, the only engine that keeps any.

mod common;

use common::{Case, Seen, run_emulated_under, run_native};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const PYTHON: &str = "
import json, re
class Shape:
    def __init__(self, n): self.n = n
    def area(self): return self.n ** 2 / 3
print(sum(Shape(i).area() for i in range(300)), json.dumps({'a': [1, 2.5, None]}), 3 ** 200 % 1000007)
print(re.sub(r'(a+)(b?)', r'<\\2\\1>', 'caaabt' * 5))
try: 1 / 0
except ZeroDivisionError as e: print(e)
";

const SCRIPT: &str = "
for i in {1..40}; do a[i]=$((i * i)); done
echo \"${a[@]/1/x}\" | tr ' ' '\\n' | sort -r | head -n 5
f() { (( $1 <= 1 )) && echo 1 || echo $(( $1 * $(f $(( $1 - 1 ))) )); }
f 6; grep -c line numbers; trap 'echo got it' USR1; kill -USR1 $$; exit 3
";

const CASES: [Case<'static>; 3] = [
    (&["/usr/bin/python3", "-c", PYTHON], ""),
    (&["/bin/bash", "-c", SCRIPT], ""),
    (&["/bin/busybox", "sha512sum", "binary", "words"], ""),
];

/// A folder for caches that doesn't exist yet, and the command that has it used.
fn folder(name: &str) -> (PathBuf, [String; 2]) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("code-cache-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let set = format!("XDG_CACHE_HOME={}", dir.display());
    (dir, ["/usr/bin/env".into(), set])
}

fn emulated(before: &[String], options: &[&str], case: Case<'_>) -> Seen {
    run_emulated_under(before, &[&["--engine", "dbt"], options].concat(), case.0, case.1)
}

/// The counter of a `--stats` line, of the process that ended last.
fn counter(seen: &Seen, name: &str) -> u64 {
    let stats = String::from_utf8_lossy(&seen.stderr);
    let line = stats.lines().rev().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name:?} in {stats}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir.join("xlat86")).map_or(Vec::new(), |d| d.map(|f| f.unwrap().path()).collect())
}

#[test]
fn programs_behave_the_same_with_what_earlier_runs_have_left() {
    let (dir, before) = folder("same");
    for case in CASES {
        let native = run_native(case.0, case.1);
        for run in 0..3 {
            assert_eq!(native, emulated(&before, &[], case), "run {run} of {:?}", case.0);
        }
    }
    assert!(!files(&dir).is_empty());
    assert_eq!(fs::metadata(dir.join("xlat86")).unwrap().permissions().mode() & 0o777, 0o700);
    // Little is left to translate, and without the option or with other settings everything is.
    let seen = emulated(&before, &["--stats"], CASES[0]);
    let (adopted, made) = (counter(&seen, "units of earlier runs"), counter(&seen, "units translated"));
    assert!(adopted > 1000 && made * 10 < adopted, "{adopted} adopted, {made} translated");
    for options in [&["--stats", "--no-code-cache"][..], &["--stats", "--max-insns", "17"]] {
        let seen = emulated(&before, options, CASES[0]);
        assert_eq!(counter(&seen, "units of earlier runs"), 0, "{options:?}");
    }
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_damaged_folder_does_no_harm() {
    let (dir, before) = folder("damaged");
    let case = CASES[2];
    let native = run_native(case.0, case.1);
    let damages: [fn(&Path); 4] = [
        |f| fs::write(f, fs::read(f).unwrap().split_at(1000).0).unwrap(),
        |f| {
            let mut bytes = fs::read(f).unwrap();
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            fs::write(f, bytes).unwrap();
        },
        |f| fs::write(f, "").unwrap(),
        |f| fs::set_permissions(f, fs::Permissions::from_mode(0o666)).unwrap(),
    ];
    for damage in damages {
        assert_eq!(native, emulated(&before, &[], case));
        let found = files(&dir);
        assert!(!found.is_empty());
        found.iter().for_each(|f| damage(f));
        let seen = emulated(&before, &["--stats"], case);
        assert_eq!((seen.stdout, counter_of_adopted(&seen.stderr)), (native.stdout.clone(), 0));
    }
    fs::remove_dir_all(&dir).unwrap();
    // A folder to which everybody may write isn't used.
    fs::create_dir_all(dir.join("xlat86")).unwrap();
    fs::set_permissions(dir.join("xlat86"), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(native, emulated(&before, &[], case));
    assert_eq!(files(&dir), Vec::<PathBuf>::new());
    fs::remove_dir_all(dir).unwrap();
}

fn counter_of_adopted(stderr: &[u8]) -> u64 {
    let seen =
        Seen { stdout: Vec::new(), stderr: stderr.to_vec(), code: None, signal: None, files: Default::default() };
    counter(&seen, "units of earlier runs")
}

#[test]
fn many_at_once_share_it() {
    let (dir, before) = folder("many");
    let case = CASES[0];
    let native = run_native(case.0, case.1);
    for _ in 0..2 {
        let runs: Vec<_> = (0..4)
            .map(|_| {
                let before = before.clone();
                std::thread::spawn(move || emulated(&before, &[], case))
            })
            .collect();
        for run in runs {
            assert_eq!(native, run.join().unwrap());
        }
    }
    assert!(files(&dir).iter().all(|f| !f.file_name().unwrap().to_string_lossy().starts_with("new-")));
    fs::remove_dir_all(dir).unwrap();
}
