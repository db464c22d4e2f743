//! How the command is linked.

fn main() {
    // The unwinder out of its archive, which comes with every gcc: a shared library less to find and map at each start.
    println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    println!("cargo:rerun-if-changed=build.rs");
}
