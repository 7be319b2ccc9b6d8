//! A TCP connection's way that can be slow, broken or cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Passes bytes on to another address, as it is told.
pub struct Cable {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: Mutex<SocketAddr>,
    delay: AtomicU64,
    cut: AtomicBool,
    /// Bytes are taken and go nowhere.
    stuck: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Cable {
    pub fn to(address: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let shared = Arc::new(Shared {
            to: Mutex::new(address),
            delay: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            sockets: Mutex::new(Vec::new()),
        });
        let (address, serving) = (listener.local_addr().expect("an address"), shared.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if !serving.cut.load(Ordering::SeqCst) {
                    serving.join(socket);
                }
            }
        });
        Self { address, shared }
    }

    /// Every portion of bytes takes so long in each direction.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay.store(u64::try_from(delay.as_millis()).expect("a short time"), Ordering::SeqCst);
    }

    /// Ends all connections, and refuses new ones.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        for socket in self.shared.sockets.lock().expect("a lock").drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Leads to another address from now on.
    pub fn lead_to(&self, address: SocketAddr) {
        *self.shared.to.lock().expect("a lock") = address;
        for socket in self.shared.sockets.lock().expect("a lock").drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Nothing arrives any more, and nobody is told.
    pub fn stick(&self) {
        self.shared.stuck.store(true, Ordering::SeqCst);
    }

    /// As at the beginning.
    pub fn mend(&self) {
        self.delay(Duration::ZERO);
        self.shared.stuck.store(false, Ordering::SeqCst);
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    fn join(self: &Arc<Self>, near: TcpStream) {
        let Ok(far) = TcpStream::connect(*self.to.lock().expect("a lock")) else { return };
        let mut sockets = self.sockets.lock().expect("a lock");
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
            let _ = from.set_nodelay(true);
            sockets.push(from.try_clone().expect("a handle"));
            let shared = self.clone();
            std::thread::spawn(move || shared.carry(from, to));
        }
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            std::thread::sleep(Duration::from_millis(self.delay.load(Ordering::SeqCst)));
            while self.stuck.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
