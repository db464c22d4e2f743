//! The control socket: each line is a request in JSON, each answer a line of JSON.

use rustix::fs::Mode;
use rustix::process::umask;
use std::fs::{remove_file, symlink_metadata};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use xlat86_machine::{Answer, Control, Request};

/// How long a client may take to make room for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// When dropped, which must be after the machine, waits for the answers on their way (that to a request to quit is one) and removes the
/// socket.
pub(super) struct Socket {
    path: PathBuf,
    /// Held by those who answer.
    answering: Arc<RwLock<()>>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _none = self.answering.write();
        let _ = remove_file(&self.path);
    }
}

/// Is `path` a socket that nobody listens at any more?
fn is_left_over(path: &Path) -> bool {
    let socket = symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    socket && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

/// A listener at `path` that only the user may connect to from its first moment on.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// Listens at `path`, which only the user may connect to. A socket left there by a run that was killed is replaced; any other file isn't touched.
pub(super) fn listen(path: &Path, control: Control) -> io::Result<Socket> {
    let listener = match bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_left_over(path) => {
            remove_file(path)?;
            bind(path)?
        }
        other => other?,
    };
    let socket = Socket { path: path.to_owned(), answering: Arc::default() };
    let answering = socket.answering.clone();
    let accept = move || {
        for stream in listener.incoming().flatten() {
            let (control, answering) = (control.clone(), answering.clone());
            // A connection that can't have a thread is closed.
            let _ =
                std::thread::Builder::new().name("control".into()).spawn(move || serve(&stream, &control, &answering));
        }
    };
    std::thread::Builder::new().name("control socket".into()).spawn(accept)?;
    Ok(socket)
}

/// Answers until the other side closes.
fn serve(stream: &UnixStream, control: &Control, answering: &RwLock<()>) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let _answering = answering.read();
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
