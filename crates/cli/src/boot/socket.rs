//! The control socket: each line is a request in JSON, each answer a line of JSON.

use std::fs::{Permissions, remove_file, set_permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use xlat86_machine::{Answer, Control, Request};

/// Removes the socket when dropped.
pub(super) struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = remove_file(&self.0);
    }
}

/// Listens at `path`, which only the user may connect to. A socket left there by a run that was killed is replaced.
pub(super) fn listen(path: &Path, control: Control) -> io::Result<Socket> {
    let listener = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && UnixStream::connect(path).is_err() => {
            remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    let socket = Socket(path.to_owned());
    set_permissions(path, Permissions::from_mode(0o600))?;
    let accept = move || {
        for stream in listener.incoming().flatten() {
            let control = control.clone();
            // A connection that can't have a thread is closed.
            let _ = std::thread::Builder::new().name("control".into()).spawn(move || serve(&stream, &control));
        }
    };
    std::thread::Builder::new().name("control socket".into()).spawn(accept)?;
    Ok(socket)
}

/// Answers until the other side closes.
fn serve(stream: &UnixStream, control: &Control) -> io::Result<()> {
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let answer = match serde_json::from_str::<Request>(&line) {
            Ok(request) => control.ask(request),
            Err(e) => Answer::Error(e.to_string()),
        };
        let mut text = serde_json::to_string(&answer).map_err(io::Error::other)?;
        text.push('\n');
        let mut to = stream;
        to.write_all(text.as_bytes())?;
    }
    Ok(())
}
