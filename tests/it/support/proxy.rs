//! A Hookmoat process of a test's own.

use super::PATIENCE;
use super::client::{Answer, Connection, request};
pub use super::ports::free_addresses;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Does HTTP/1.1 take the lean way in these tests? See `complete.rs`.
pub const LEAN: bool = !is_in_complete(module_path!());

const fn is_in_complete(path: &str) -> bool {
    let (path, wanted) = (path.as_bytes(), b"it::complete::");
    let mut at = 0;
    while at < wanted.len() {
        if at == path.len() || path[at] != wanted[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// A running process. Killed when dropped.
pub struct Proxy {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub admin: SocketAddr,
    pub folder: tempfile::TempDir,
    child: Child,
}

/// Where the program is: as cargo built it for the tests, or another build of it (`HOOKMOAT_PROGRAM`).
fn built() -> PathBuf {
    std::env::var_os("HOOKMOAT_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_hookmoat").into(), PathBuf::from)
}

/// The built program.
pub fn program() -> Command {
    let mut command = Command::new(built());
    command.env_remove("HOOKMOAT_CONFIG").stdin(Stdio::null());
    command
}

/// Given as an environment variable: the folder `data` is a file system of this size of the process's own.
pub const SMALL_DISK: &str = "TEST_SMALL_DISK";

/// The program with a tmpfs at `folder` that it alone sees.
pub fn on_small_disk(folder: &Path, size: &str, config: &Path) -> Command {
    std::fs::create_dir_all(folder).expect("a folder");
    let script = r#"mount -t tmpfs -o "size=$1" none "$2" && shift 2 && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh", size]).arg(folder);
    command.arg(built()).args(["run", "--config"]).arg(config);
    command.env_remove("HOOKMOAT_CONFIG").stdin(Stdio::null());
    command
}

impl Proxy {
    /// Starts with these upstreams and routes (YAML, indented as at the top level), on an HTTP and an HTTPS listener.
    /// `{backend}` in the text is the backend's address. HTTPS is not asked for unless the text says so.
    pub fn start(backend: SocketAddr, text: &str) -> Self {
        Self::start_with(backend, text, &[])
    }

    /// The same with environment variables.
    pub fn start_with(backend: SocketAddr, text: &str, env: &[(&str, &str)]) -> Self {
        let mut tries = 0;
        loop {
            // Another process may take a port between our look and the start; then the program says so and ends.
            match Self::try_start(backend, text, env) {
                Ok(proxy) => return proxy,
                Err(log) => {
                    tries += 1;
                    assert!(tries < 5 && log.contains("cannot listen on"), "hookmoat did not start:\n{log}");
                }
            }
        }
    }

    fn try_start(backend: SocketAddr, text: &str, env: &[(&str, &str)]) -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let [http, https, admin] = free_addresses();
        let mut config = String::new();
        for (key, line) in [
            ("admin:", "admin: {admin}\n"),
            (
                "listen:",
                "listen:\n  - address: {http}\n  - address: {https}\n    tls:\n      certificate: tls/tls.crt\n      \
                 private_key: tls/tls.key\n      self_signed_if_missing: true\n",
            ),
            ("https:", "https: allow\n"),
            ("fast_path:", if LEAN { "fast_path: auto\n" } else { "fast_path: off\n" }),
            ("shutdown:", "shutdown: { pre_stop: 0s, grace: 20s }\n"),
            ("log:", "log: { format: json }\n"),
            ("upstreams:", "upstreams:\n  app: { url: \"http://{backend}\" }\n"),
        ] {
            if !text.lines().any(|given| given.starts_with(key)) {
                config += line;
            }
        }
        let mut config = config + text;
        for (place, address) in [("{backend}", backend), ("{http}", http), ("{https}", https), ("{admin}", admin)] {
            config = config.replace(place, &address.to_string());
        }
        let path = folder.path().join("hookmoat.yaml");
        std::fs::write(&path, config).expect("a config file");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log file");
        let mut command = program();
        command.args(["run", "--config"]).arg(&path).envs(env.iter().copied());
        if let Some((_, size)) = env.iter().find(|(name, _)| *name == SMALL_DISK) {
            command = on_small_disk(&folder.path().join("data"), size, &path);
        }
        let child = command.stderr(log.try_clone().expect("a handle")).stdout(log).spawn().expect("the program starts");
        let mut proxy = Self { http, https, admin, folder, child };
        proxy.wait_until_it_listens()?;
        Ok(proxy)
    }

    /// Kills the process without a word, and starts it again on the same folder, configuration and addresses.
    #[track_caller]
    pub fn kill_and_start(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.start_again();
    }

    /// Starts an ended process again. The log goes on.
    #[track_caller]
    pub fn start_again(&mut self) {
        let log = std::fs::OpenOptions::new().append(true).open(self.folder.path().join("log")).expect("a log file");
        let mut command = program();
        command.args(["run", "--config"]).arg(self.config());
        self.child =
            command.stderr(log.try_clone().expect("a handle")).stdout(log).spawn().expect("the program starts");
        if let Err(log) = self.wait_until_it_listens() {
            panic!("hookmoat did not start again:\n{log}");
        }
    }

    /// An error holds the log of a process that ended instead.
    fn wait_until_it_listens(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            if self.child.try_wait().expect("a status").is_some() {
                return Err(self.log());
            }
            // The program looks first whether the address is free: what connects just then is not answered.
            let asked = request("GET", "/readyz", &[("Connection", "close")], b"");
            let answer =
                Connection::try_open(self.admin).and_then(|mut connection| connection.send(&asked).try_answer());
            if answer.is_some_and(|answer| !answer.text().contains("not up yet")) {
                return Ok(());
            }
            assert!(begun.elapsed() < PATIENCE, "no listener after 30 s:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts once more after its end: the same folder, configuration and addresses.
    pub fn again(mut self) -> Self {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log file");
        let mut command = program();
        command.args(["run", "--config"]).arg(self.config());
        self.child =
            command.stderr(log.try_clone().expect("a handle")).stdout(log).spawn().expect("the program starts");
        self.wait_until_it_listens().unwrap_or_else(|log| panic!("hookmoat did not start again:\n{log}"));
        self
    }

    /// What was logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The request events logged so far.
    pub fn events(&self) -> Vec<serde_json::Value> {
        self.log()
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|event| event["target"] == "hookmoat::request")
            .collect()
    }

    /// Waits for a request event with this outcome.
    #[track_caller]
    pub fn wait_for_event(&self, outcome: &str) -> serde_json::Value {
        let begun = Instant::now();
        loop {
            if let Some(event) = self.events().into_iter().find(|event| event["outcome"] == outcome) {
                return event;
            }
            assert!(begun.elapsed() < PATIENCE, "no event {outcome}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("hookmoat.yaml")
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// One plain request on a connection of its own.
    #[track_caller]
    pub fn send(&self, bytes: &[u8]) -> Answer {
        Connection::open(self.http).send(bytes).answer()
    }

    /// One request over TLS on a connection of its own.
    #[track_caller]
    pub fn send_tls(&self, bytes: &[u8]) -> Answer {
        Connection::open_tls(self.https).send(bytes).answer()
    }

    pub fn admin(&self, path: &str) -> Answer {
        Connection::open(self.admin).send(&request("GET", path, &[("Connection", "close")], b"")).answer()
    }

    /// Waits until its queues can store events: brokers on a busy machine take a while.
    pub fn wait_for_queues(&self) {
        let begun = Instant::now();
        while self.admin("/queues").text().contains("\"trouble\": \"") {
            assert!(begun.elapsed() < PATIENCE, "the queues do not come\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The value of a series, written as in the exposition format without its value; 0 when it is not there.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.admin("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a live process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("an exit status")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
