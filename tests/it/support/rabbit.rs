//! RabbitMQ nodes of the tests' own: in a temporary folder, on free loopback ports, with an Erlang port mapper of their
//! own, so that a broker of the machine notices nothing.

use super::ports::free_addresses;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The server without the wrapper that wants to be another user.
pub const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// As the server; ends when its input does, that is with this process, however that ends.
const KEEPER: &str = r#"
setsid "$SERVER" >"$FOLDER/log/console" 2>&1 &
server=$!
cat >/dev/null
kill -s KILL -- -$server 2>/dev/null
epmd -port $ERL_EPMD_PORT -kill >/dev/null 2>&1
exit 0
"#;

/// A node. Killed when dropped, or when this process ends.
pub struct Rabbit {
    pub address: SocketAddr,
    /// The same over TLS, for those who show a certificate of this node's authority.
    pub tls: SocketAddr,
    folder: tempfile::TempDir,
    dist: SocketAddr,
    epmd: SocketAddr,
    running: Option<Child>,
}

impl Rabbit {
    /// One for all tests that do it no harm.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Rabbit> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A node of the caller's own, ready.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["log", "home", "mnesia"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let [address, tls, dist, epmd] = free_addresses();
        let mut node = Self { address, tls, folder, dist, epmd, running: None };
        let path = node.folder.path();
        let mut config = format!(
            "listeners.tcp.1 = {address}\nlisteners.ssl.1 = {tls}\nlog.console.level = warning\n\
             vm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 1MB\n\
             ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
        );
        certificates(path);
        for (key, name) in [("cacertfile", "ca.pem"), ("certfile", "server.pem"), ("keyfile", "server.key")] {
            config += &format!("ssl_options.{key} = {}\n", path.join(name).display());
        }
        std::fs::write(path.join("rabbitmq.conf"), config).expect("a file");
        std::fs::write(path.join("plugins"), "[].\n").expect("a file");
        node.boot();
        node
    }

    /// A file of the node's, for instance `ca.pem`, `client.pem` or `client.key`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts it again with what it had on disk.
    pub fn boot(&mut self) {
        assert!(Path::new(SERVER).exists(), "rabbitmq-server is missing: tests/setup.sh test installs it");
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER]).env("SERVER", SERVER).stdin(Stdio::piped());
        self.environment(&mut command);
        self.running = Some(command.spawn().expect("a shell"));
        let begun = Instant::now();
        while !self.answers() {
            assert!(begun.elapsed() < Duration::from_secs(120), "RabbitMQ does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As if the power had failed.
    pub fn kill(&mut self) {
        if let Some(mut keeper) = self.running.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }

    /// Runs `rabbitmqctl`.
    pub fn control(&self, arguments: &[&str]) {
        let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl");
        command.args(["-q"]).args(arguments);
        self.environment(&mut command);
        let output = command.output().expect("rabbitmqctl runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn environment(&self, command: &mut Command) {
        let path = self.folder.path();
        command
            .env("FOLDER", path)
            .env("HOME", path.join("home"))
            .env("RABBITMQ_NODENAME", format!("hookmoat{}@localhost", self.address.port()))
            .env("RABBITMQ_MNESIA_BASE", path.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", path.join("log"))
            .env("RABBITMQ_CONFIG_FILE", path.join("rabbitmq.conf"))
            .env("RABBITMQ_CONF_ENV_FILE", path.join("none"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path.join("plugins"))
            .env("RABBITMQ_DIST_PORT", self.dist.port().to_string())
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none")
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // Its end may be asked for before it knows that the node is gone.
            .env("ERL_EPMD_RELAXED_COMMAND_CHECK", "1")
            .env("ERL_EPMD_PORT", self.epmd.port().to_string());
    }

    /// Does it speak AMQP?
    fn answers(&self) -> bool {
        let Ok(mut socket) = TcpStream::connect(self.address) else { return false };
        let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
        // An old version is answered with the right one, and nothing is logged.
        socket.write_all(b"AMQP\x00\x00\x09\x01").is_ok() && matches!(socket.read(&mut [0; 8]), Ok(1..))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log/console")).unwrap_or_default()
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An authority, a server's pair and a client's.
fn certificates(folder: &Path) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let ca = authority.self_signed(&key).expect("a certificate");
    let issuer = rcgen::Issuer::new(authority, key);
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("a file");
    write("ca.pem", ca.pem());
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut leaf = rcgen::CertificateParams::new(names).expect("parameters");
        // Erlang takes a certificate with its issuer's name for one that signed itself.
        leaf.distinguished_name.push(rcgen::DnType::CommonName, name);
        let leaf = leaf.signed_by(&key, &issuer).expect("signed");
        write(&format!("{name}.pem"), leaf.pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}
