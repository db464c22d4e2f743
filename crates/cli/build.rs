//! How the command is linked.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// What the standard library links dynamically, and the archives with the same in them.
const ARCHIVES: [(&str, &[&str]); 3] =
    [("libc", &["libc.a", "libgcc.a"]), ("libm", &["libm.a"]), ("libgcc_s", &["libgcc_eh.a"])];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if is_wanted() && ARCHIVES.iter().flat_map(|a| a.1).all(|a| has(a)) {
        link_statically();
    } else {
        // The unwinder comes as an archive with every gcc: a shared library less to find and map at each start.
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
}

/// Not where the compiler does it by itself (`-C target-feature=+crt-static`), or another C library or C compiler is meant.
fn is_wanted() -> bool {
    let cfg = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let is_native = env::var("HOST") == env::var("TARGET");
    is_native && cfg("ENV") == "gnu" && !cfg("FEATURE").split(',').any(|f| f == "crt-static")
}

/// Does the C compiler, which links, come with `archive`?
fn has(archive: &str) -> bool {
    let cc = Command::new("cc").arg(format!("-print-file-name={archive}")).output();
    // What isn't there is answered with its bare name.
    cc.is_ok_and(|found| String::from_utf8_lossy(&found.stdout).starts_with('/'))
}

/// Programs then start without the host's loader, in half the time, and inside other roots (`--root`). The compiler's own option for it can't be set
/// here, and set for everything it breaks procedural macros. So the linker is told once more what kind of program to make, and where
/// it looks first it finds, by the names of shared libraries, scripts that name archives.
fn link_statically() {
    let dir = env::var("OUT_DIR").expect("set by cargo");
    for (library, archives) in ARCHIVES {
        let inputs: Vec<String> = archives.iter().map(|a| format!("-l:{a}")).collect();
        let script = format!("INPUT({})\n", inputs.join(" "));
        fs::write(Path::new(&dir).join(format!("{library}.so")), script).expect("cargo's folder can be written");
    }
    println!("cargo:rustc-link-arg-bins=-L{dir}");
    println!("cargo:rustc-link-arg-bins=-static-pie");
    // Of xlat86-host.
    println!("cargo:rustc-link-arg-bin=xlat86=-Wl,-e,xlat86_start");
}
