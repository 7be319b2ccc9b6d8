//! Redis servers of a test's own, and a way between them and the proxy that can be made long, or cut.

use super::proxy::free_addresses;
use super::{PATIENCE, within};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A server with nothing in it, that keeps nothing. Killed when dropped.
pub struct Redis {
    pub address: SocketAddr,
    pub folder: tempfile::TempDir,
    args: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With more arguments, as they stand in `redis.conf`, each after `--`.
    pub fn with(args: &[&str]) -> Self {
        let [address] = free_addresses();
        Self::at(address, args)
    }

    pub fn at(address: SocketAddr, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let args = args.iter().map(ToString::to_string).collect();
        let mut server = Self { address, folder, args, child: None };
        server.run();
        server
    }

    /// Starts again after [`Redis::kill`], at the same address, empty.
    pub fn run(&mut self) {
        let mut command = Command::new("redis-server");
        // A Sentinel's first argument is its file.
        let (file, args) = self.args.split_at(self.args.iter().take_while(|arg| !arg.starts_with("--")).count());
        command
            .args(file)
            .args(["--port", &self.address.port().to_string(), "--bind", "127.0.0.1", "--daemonize", "no"])
            .args(if file.is_empty() { &["--save", "", "--appendonly", "no"][..] } else { &[] })
            .args(args)
            .current_dir(self.folder.path());
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("redis-server is there: tests/setup.sh test installs it"));
        let up = within(PATIENCE, || TcpStream::connect(self.address).is_ok());
        assert!(up, "no redis: {}", std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The answer to one command, arrays as lines.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        ask(self.address, words)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The answer of whoever is there.
#[track_caller]
pub fn ask(address: SocketAddr, words: &[&str]) -> String {
    let mut stream = TcpStream::connect(address).expect("a server");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    stream.write_all(request.as_bytes()).expect("sent");
    let mut reader = std::io::BufReader::new(stream);
    read(&mut reader)
}

fn read(reader: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("an answer");
    let line = line.trim_end();
    let (kind, rest) = line.split_at(1);
    match kind {
        "*" => {
            let lines: Vec<String> = (0..rest.parse::<i64>().expect("a length")).map(|_| read(reader)).collect();
            lines.join("\n")
        }
        "$" if rest == "-1" => String::new(),
        "$" => {
            let mut bytes = vec![0; rest.parse::<usize>().expect("a length") + 2];
            reader.read_exact(&mut bytes).expect("a text");
            String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned()
        }
        _ => line.to_owned(),
    }
}

/// A way to a server, on which every byte takes its time.
pub struct Way {
    pub address: SocketAddr,
    delay: Arc<AtomicU64>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (delay, open) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let way = Self { address, delay: delay.clone(), open: open.clone() };
        std::thread::spawn(move || {
            for here in listener.incoming().flatten() {
                let Ok(there) = TcpStream::connect(server) else { continue };
                let both = || (here.try_clone().expect("a handle"), there.try_clone().expect("a handle"));
                open.lock().expect("no panic").extend([both().0, both().1]);
                let ((a, b), (c, d)) = (both(), both());
                carry(a, b, Arc::default());
                carry(d, c, delay.clone());
            }
        });
        way
    }

    /// From now on, answers take this long.
    pub fn slow(&self, delay: Duration) {
        self.delay.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Cuts what is open; new connections go through.
    pub fn cut(&self) {
        for stream in self.open.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Carries bytes, each as late as is asked for when it comes, without one waiting for the other.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Arc<AtomicU64>) {
    let (sender, receiver) = std::sync::mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let due = Instant::now() + Duration::from_millis(delay.load(Ordering::SeqCst));
            if sender.send((due, buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        while let Ok((due, bytes)) = receiver.recv() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
