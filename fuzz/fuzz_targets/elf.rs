//! Judging a program's headers, on any file.

#![no_main]

use std::fs::File;
use std::io::{Seek, Write};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    thread_local! {
        static FILE: File = {
            let path = std::env::temp_dir().join(format!("xlat86-fuzz-elf-{}", std::process::id()));
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
            std::fs::remove_file(&path).expect("it was just made");
            file
        };
    }
    FILE.with(|mut file| {
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(input)).expect("a writable file");
        let _ = xlat86_linux_user::check_headers(file);
    });
});
