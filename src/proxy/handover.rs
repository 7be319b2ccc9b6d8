//! A next process takes the place of this one without a connection being refused: it is given the listening sockets
//! themselves, over a unix socket, and tells when it is ready.
//!
//! ```text
//! next process                      this process
//!   connects ──────────────────────►  one message for each socket, `L` with its descriptor; then `.`
//!   serves from them, becomes ready
//!   `!` ───────────────────────────►  takes no more connections, ends what is in flight, exits
//! ```
//!
//! Two processes with sockets of their own could not do this: what waits in the queue of one that is closed is lost. A
//! next process that dies on the way changes nothing.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOCKET: u8 = b'L';
const END: u8 = b'.';
const READY: u8 = b'!';
/// How long the other process may take for one message.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sockets of a process that still serves from them.
pub(super) struct Taken {
    from: UnixStream,
    pub(super) sockets: Vec<TcpListener>,
}

/// Asks the process at the path for its sockets. `None`: there is none. An error where this one could not listen later.
pub(super) fn take(path: &Path) -> io::Result<Option<Taken>> {
    no_other_file(path)?;
    let from = match UnixStream::connect(path) {
        Ok(from) => from,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error),
    };
    from.set_read_timeout(Some(PATIENCE))?;
    let mut sockets = Vec::new();
    loop {
        let mut kind = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let read = recvmsg(&from, &mut [IoSliceMut::new(&mut kind)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        match kind {
            _ if read.bytes == 0 => return Err(ErrorKind::UnexpectedEof.into()),
            [SOCKET] => {}
            [END] => return Ok(Some(Taken { from, sockets })),
            _ => return Err(ErrorKind::InvalidData.into()),
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                for descriptor in descriptors {
                    let socket = TcpListener::from(descriptor);
                    socket.set_nonblocking(true)?;
                    sockets.push(socket);
                }
            }
        }
    }
}

impl Taken {
    /// Tells the other process that it is not needed any more.
    pub(super) fn ready(mut self) -> io::Result<()> {
        self.from.write_all(&[READY])
    }
}

/// Gives the sockets to whoever asks at the path, until one of them is ready; then `taken_over` is called.
pub(super) fn give(path: PathBuf, sockets: Vec<TcpListener>, taken_over: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        let listener = match listen(&path) {
            Ok(listener) => listener,
            Err(error) => {
                let path = path.display();
                return tracing::error!(target: "hookmoat", %error, %path, "no next process can take over");
            }
        };
        for next in listener.incoming().flatten() {
            match give_to(next, &sockets) {
                Ok(()) => return taken_over(),
                Err(error) => tracing::warn!(target: "hookmoat", %error, "a next process did not take over"),
            }
        }
    });
}

/// Only the socket of a process before may be removed to listen there: anything else is somebody's file.
fn no_other_file(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let why = "what is there is no socket, and is not removed: name another path, or move it away";
            Err(io::Error::new(ErrorKind::AlreadyExists, why))
        }
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    no_other_file(path)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// `Ok`: it is ready. It may take as long as it needs for that.
fn give_to(mut next: UnixStream, sockets: &[TcpListener]) -> io::Result<()> {
    next.set_write_timeout(Some(PATIENCE))?;
    for socket in sockets {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [socket.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&next, &[IoSlice::new(&[SOCKET])], &mut control, SendFlags::NOSIGNAL)?;
    }
    next.write_all(&[END])?;
    let mut said = [0];
    next.read_exact(&mut said)?;
    if said == [READY] { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::sync::mpsc;

    #[test]
    fn nothing_but_a_socket_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "precious").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link, &folder.path().to_path_buf()] {
            assert!(take(path).is_err(), "{}", path.display());
            assert!(listen(path).is_err(), "{}", path.display());
        }
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "precious");
        // What a process left behind that was killed.
        let left = folder.path().join("left.sock");
        drop(UnixListener::bind(&left).unwrap());
        assert!(take(&left).unwrap().is_none());
        listen(&left).unwrap();
    }

    #[test]
    fn sockets_are_given_again_and_again_until_somebody_is_ready() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("next.sock");
        assert!(take(&path).unwrap().is_none());
        let sockets: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        // A connection that waits in the queue is not lost.
        let waiting = TcpStream::connect(addresses[1]).unwrap();
        let (told, hear) = mpsc::channel();
        give(path.clone(), sockets, move || told.send(()).unwrap());
        let taken = || {
            let mut tries = 0;
            loop {
                match take(&path).unwrap() {
                    Some(taken) => return taken,
                    None if tries < 500 => std::thread::sleep(Duration::from_millis(10)),
                    None => panic!("nobody gives"),
                }
                tries += 1;
            }
        };
        drop(taken());
        assert!(hear.recv_timeout(Duration::from_millis(50)).is_err());
        let next = taken();
        let given: Vec<_> = next.sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(given, addresses);
        let accepted = next.sockets[1].accept().unwrap();
        assert_eq!(accepted.1, waiting.local_addr().unwrap());
        next.ready().unwrap();
        hear.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
