//! A local server that speaks the SQS protocol, on a free loopback port. What it stores is in its memory.

use super::PATIENCE;
use super::proxy::free_addresses;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.work/sqs/bin/moto_server");
/// Ends the server when its input ends, that is with this process, however that ends.
const KEEPER: &str = r#"
"$SERVER" -H "$1" -p "$2" >/dev/null 2>&1 &
server=$!
cat >/dev/null
kill -s KILL $server
"#;

/// A running server. Ends when dropped, or with this process.
pub struct Sqs {
    pub address: SocketAddr,
    folder: tempfile::TempDir,
    keeper: Child,
}

impl Sqs {
    /// One for all tests.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Sqs> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Runs Python with AWS's own library, as a consumer of the user's would, and answers with what it prints.
    pub fn boto3(&self, script: &str, arguments: &[&str]) -> String {
        let python = Path::new(SERVER).with_file_name("python");
        let run = Command::new(python)
            .args(["-c", script, &format!("http://{}", self.address)])
            .args(arguments)
            .env("AWS_SHARED_CREDENTIALS_FILE", self.credentials())
            .env("AWS_DEFAULT_REGION", "eu-central-1")
            .output()
            .expect("python runs");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).expect("UTF-8")
    }

    pub fn start() -> Self {
        assert!(Path::new(SERVER).exists(), "{SERVER} is missing: tests/setup.sh test installs it");
        let folder = tempfile::tempdir().expect("a folder");
        let credentials = "[default]\naws_access_key_id = test\naws_secret_access_key = test\n";
        std::fs::write(folder.path().join("credentials"), credentials).expect("a file");
        let [address] = free_addresses();
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper", &address.ip().to_string(), &address.port().to_string()]);
        let keeper = command.env("SERVER", SERVER).stdin(Stdio::piped()).spawn().expect("a shell");
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < PATIENCE, "the SQS server does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { address, folder, keeper }
    }

    /// A queue of a test's own for a configuration, `kind` is `.fifo` or nothing.
    pub fn queue(&self, name: &str, kind: &str) -> String {
        let name = format!("{name}-{}", std::process::id());
        format!(
            "{{ sqs: {{ queue: {name}{kind}, dead_letters: {name}-dead{kind}, create: true, region: eu-central-1, \
             endpoint: \"http://{}\", credentials_file: {} }} }}",
            self.address,
            self.credentials().display()
        )
    }

    /// A credentials file that it accepts, as it accepts any.
    pub fn credentials(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }
}

impl Drop for Sqs {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
