//! What the README says is what happens: its first commands with their output, its tables, the shipped configurations.

use crate::support::proxy::{free_addresses, program};
use crate::support::{PATIENCE, within};
use hookmoat::reject::Reason;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text_of(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The shipped quick start on ports of its own, with its demo backend.
pub(crate) struct Quickstart {
    pub(crate) folder: tempfile::TempDir,
    ports: Vec<(&'static str, String)>,
    child: Child,
}

impl Quickstart {
    pub(crate) fn start() -> Self {
        let mut tries = 0;
        loop {
            match Self::try_start() {
                Ok(started) => return started,
                Err(log) => {
                    tries += 1;
                    assert!(tries < 5 && log.contains("in use"), "the quick start does not start:\n{log}");
                }
            }
        }
    }

    fn try_start() -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let free = free_addresses::<4>().map(|address| format!(":{}", address.port()));
        let ports: Vec<_> = [":8080", ":8443", ":9901", ":3000"].into_iter().zip(free).collect();
        let mut quickstart = Self { child: Command::new("true").spawn().expect("true runs"), folder, ports };
        std::fs::create_dir(quickstart.folder.path().join("config")).expect("a folder");
        let config = quickstart.moved(&text_of("config/quickstart.yaml"));
        std::fs::write(quickstart.folder.path().join("config/quickstart.yaml"), config).expect("a file");
        let log = std::fs::File::create(quickstart.folder.path().join("log")).expect("a log file");
        let _ = quickstart.child.wait();
        let mut command = program();
        command.args(["run", "--config", "config/quickstart.yaml", "--demo"]).current_dir(quickstart.folder.path());
        command.stdout(log.try_clone().expect("a handle")).stderr(log);
        quickstart.child = command.spawn().expect("the program starts");
        let begun = Instant::now();
        while !quickstart.log().contains("Ctrl-C ends") {
            if quickstart.child.try_wait().expect("a status").is_some() {
                return Err(quickstart.log());
            }
            assert!(begun.elapsed() < PATIENCE, "not up:\n{}", quickstart.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(quickstart)
    }

    /// A text of the README with the ports and the program of this process.
    fn moved(&self, text: &str) -> String {
        let text = self.ports.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        text.replace("target/debug/hookmoat", &program().get_program().to_string_lossy())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Types a command into a shell.
    pub(crate) fn shell(&self, command: &str) -> String {
        let output = Command::new("sh")
            .args(["-c", command])
            .current_dir(self.folder.path())
            .env_remove("HOOKMOAT_CONFIG")
            .stdin(Stdio::null())
            .output()
            .expect("sh runs");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("not found"), "{command}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8").replace('\r', "")
    }

    /// Sends SIGINT and says how the process ended.
    pub(crate) fn interrupt(&mut self) -> Option<i32> {
        let kill = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        let status = self.child.wait().expect("a status");
        status.code()
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Without what differs from run to run: identifiers, times, how many of twenty requests were too many.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.split_once("\"request_id\":").map_or(line, |(start, _)| start);
        let line = if line.contains(" × ") { "N sent" } else { line.trim_end() };
        let _ = write!(masked, "{}{line}", if at == 0 { "" } else { "\n" });
    }
    masked
}

/// Does the output look like this? A line `…` stands for any number of lines.
fn matches(expected: &[&str], output: &[&str]) -> bool {
    match expected.split_first() {
        None => output.is_empty(),
        Some((&"…", rest)) => (0..=output.len()).any(|skip| matches(rest, &output[skip..])),
        Some((line, rest)) => output.first() == Some(line) && matches(rest, &output[1..]),
    }
}

#[test]
fn the_first_commands_of_the_readme_give_what_it_shows() {
    let quickstart = Quickstart::start();
    let readme = text_of("README.md");
    let mut tried = 0;
    for block in readme.split("<!-- try-it -->\n```console\n").skip(1) {
        let block = block.split("\n```").next().expect("an end");
        for example in block.split("$ ").skip(1) {
            let (command, expected) = example.split_once('\n').unwrap_or((example, ""));
            let command = quickstart.moved(command);
            // What the README shows, the program prints as well, so that it can be pasted.
            if !command.contains(" sign ") || command.ends_with("| sh") {
                assert!(quickstart.log().contains(&command), "not among the hints: {command}\n{}", quickstart.log());
            }
            let output = masked(&quickstart.shell(&command));
            let expected = masked(&quickstart.moved(expected.trim_end()));
            let (expected, output): (Vec<_>, Vec<_>) = (expected.lines().collect(), output.lines().collect());
            assert!(matches(&expected, &output), "$ {command}\nshown: {expected:#?}\ngiven: {output:#?}");
            tried += 1;
        }
    }
    assert_eq!(tried, 7);
    assert!(within(PATIENCE, || quickstart.log().contains("rate_limited")), "{}", quickstart.log());
    let log = quickstart.log();
    for line in [
        "✓ 200 forwarded          github ",
        "= 200 duplicate          github ",
        "✗ 401 signature_mismatch github     no signature matches over a body of 55 bytes",
        "✗ 401 signature_missing  github ",
        "✗ 429 rate_limited       github     client 127.0.0.1: more than 10 at once",
        "backend  │ POST /webhooks/github, 54 bytes\n",
    ] {
        assert!(log.contains(line), "{line:?} is not in\n{log}");
    }
    assert!(!log.contains('\x1b'), "colours are for terminals");
    assert_eq!(log.matches("hookmoat-event-id: evt-1").count(), 1);
}

#[test]
fn every_route_of_the_quick_start_accepts_what_its_sender_signs() {
    let quickstart = Quickstart::start();
    for route in ["github", "slack", "stripe", "legacy"] {
        let send = format!("target/debug/hookmoat send {route} -c config/quickstart.yaml");
        let output = quickstart.shell(&quickstart.moved(&send));
        assert!(output.contains("→ 200 OK"), "{route}: {output}");
    }
    let log = quickstart.log();
    assert!(log.contains("POST /old/hook.php"), "{log}");
    assert!(log.contains("x-api-key: what-the-old-backend-expects"), "{log}");
    assert!(!log.contains("for-play-only") && !log.contains("for_play_only"), "a secret is in\n{log}");
}

#[test]
fn ctrl_c_ends_the_quick_start_at_once() {
    let mut quickstart = Quickstart::start();
    quickstart.shell(&quickstart.moved("target/debug/hookmoat send stripe -c config/quickstart.yaml"));
    assert!(within(PATIENCE, || quickstart.log().contains("forwarded")), "{}", quickstart.log());
    let before = quickstart.log().lines().count();
    assert_eq!(quickstart.interrupt(), Some(0));
    let log = quickstart.log();
    assert!(log.lines().count() <= before + 2, "{log}");
}

#[test]
fn a_taken_port_names_the_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let folder = tempfile::tempdir().expect("a folder");
    let [free] = free_addresses();
    let config = |listen, upstream| {
        format!(
            "listen: [{{ address: \"{listen}\" }}]\nadmin: off\nhttps: allow\nupstreams: {{ app: \"http://{upstream}\" }}\n\
             routes: [{{ name: a, path: /a, signature: none, to: app }}]\n"
        )
    };
    for (text, demo, what) in [
        (config(address, free), false, format!("cannot listen on {address}: ")),
        (config(free, address), true, format!("cannot start the demo backend on {address}: ")),
    ] {
        let path = folder.path().join("hookmoat.yaml");
        std::fs::write(&path, text).expect("a file");
        let output =
            program().arg("run").args(demo.then_some("--demo")).current_dir(&folder).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(&what), "{error}");
        assert!(error.contains(&format!("ss -ltnp 'sport = :{}'", address.port())), "{error}");
    }
}

#[test]
fn the_shipped_configurations_are_sound() {
    for name in ["quickstart", "minimal", "hookmoat"] {
        let output =
            program().args(["check", "-c"]).arg(file(&format!("config/{name}.yaml"))).output().expect("it runs");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.contains(".yaml: ok, "), "{text}");
    }
}

/// The YAML blocks of a document.
fn yaml_blocks(name: &str) -> Vec<String> {
    let text = text_of(name);
    let blocks = text.split("```yaml\n").skip(1);
    blocks.map(|block| block.split("\n```").next().expect("an end").to_owned() + "\n").collect()
}

/// RSA, P-256 and Ed25519.
const PUBLIC_KEYS: &str = "-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAgZxIkBfnj2wLeYBjNcAD\n\
5rH1hgRnkdx+2GrpaT7IhR629dfGRmQ6eR0E8oc08T9p0BqH4xerEf+DZE3ZvKA1\n\
i4BBAdl1R7zlh4PFUXtufQc6Ok4Yh8lGqgOU2xgZ/5KmF3/oz80YVmC5aXnjoVHD\n\
p0AMg54LSCbIziG98s0cTx9x73HdDdtcD36cBuHnS0ATljkdB4qWLfAtirjETwZv\n\
8RdpX0X6Vz4dupBiF4weiAt0MpSWPfHnjjQShRNYLPWTA1sm9IdXKifXdX/xZyE6\n\
+G2qWiSodlFd+7ISCbu3DgImKRDT6PeozTrXBU696ra0p6UtXjiZl5u/m2naOwQj\n\
DwIDAQAB\n\
-----END PUBLIC KEY-----\n\
-----BEGIN PUBLIC KEY-----\n\
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEZmCvS60uNCUscm5aleQm49JazUYD\n\
aI+CTwJLRyrUiz6Z5z8GV2pHyP1jblZjg9CBXrEv523eQW4KvVKSO9A8eA==\n\
-----END PUBLIC KEY-----\n\
-----BEGIN PUBLIC KEY-----\n\
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
-----END PUBLIC KEY-----";

#[test]
fn every_recipe_is_a_route_that_passes_the_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let routes = yaml_blocks("config/PROVIDERS.md");
    let mut config = String::from(
        "listen:\n  - address: 127.0.0.1:8443\n    tls: { certificate: a.crt, private_key: a.key, \
         self_signed_if_missing: true }\nupstreams: { app: http://127.0.0.1:3000 }\nroutes:\n",
    );
    let mut command = program();
    for route in &routes {
        let lines = route.lines().count();
        assert!(lines <= 8 && route.starts_with("- name: "), "not a short route: {route}");
        config += route;
        for variable in route.split("env: ").skip(1) {
            let name = variable.split([' ', '}']).next().expect("a name");
            // Hex, base64 and plain text all at once; keys of every kind.
            let secret = "0123456789abcdef".repeat(4);
            command.env(name, if name.ends_with("_PUBLIC_KEY") { PUBLIC_KEYS.to_owned() } else { secret });
        }
    }
    let path = folder.path().join("hookmoat.yaml");
    std::fs::write(&path, config).expect("a file");
    let output = command.args(["check", "-c"]).arg(&path).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains(&format!("ok, {} route", routes.len())), "{text}");
}

/// What each refusal is answered, and what it means.
fn answers() -> String {
    let mut text = String::from("| Reason | Status | What it means and what to do |\n|---|---|---|\n");
    for reason in Reason::ALL {
        let row = reason.row();
        let _ = writeln!(text, "| `{}` | {} {} | {} |", row.label, row.status, row.title, row.help.replace('|', "\\|"));
    }
    text
}

/// Names, labels and meanings of the metrics, read where they are registered: a registry leaves out what has no value yet.
fn metrics() -> String {
    let mut text = String::from("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
    let code = ["metrics", "connections", "queues", "fetch", "state", "trace/mod"]
        .map(|name| text_of(&format!("src/telemetry/{name}.rs")));
    for registered in code.iter().flat_map(|code| code.split("register!(").skip(1)) {
        let kind = match registered.split("::new").next().expect("a start").trim() {
            kind if kind.contains("Histogram") => "histogram",
            kind if kind.contains("Counter") => "counter",
            _ => "gauge",
        };
        let code = registered.split(";\n").next().expect("an end");
        let mut literals = code.split('"').skip(1).step_by(2);
        let (name, help) = (literals.next().expect("a name"), literals.next().expect("a help text"));
        let labels: Vec<String> = literals.map(|label| format!("`{label}`")).collect();
        let _ = writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
    }
    text
}

fn with(readme: &str, section: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {section}:begin -->"), format!("<!-- {section}:end -->"));
    let (before, rest) = readme.split_once(&begin).expect("a begin marker");
    let (_, after) = rest.split_once(&end).expect("an end marker");
    format!("{before}{begin}\n\n{table}\n{end}{after}")
}

#[test]
fn the_tables_of_the_readme_are_the_current_ones() {
    let readme = text_of("README.md");
    let current = with(&with(&readme, "answers", &answers()), "metrics", &metrics());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file("README.md"), current).expect("a file");
        return;
    }
    assert!(readme == current, "README.md is out of date: run the tests with UPDATE_GOLDEN=1");
}

#[test]
fn every_metric_that_is_served_stands_in_the_readme() {
    let quickstart = Quickstart::start();
    let mut text = String::new();
    let mut socket = std::net::TcpStream::connect(quickstart.moved("127.0.0.1:9901")).expect("the admin listener");
    std::io::Write::write_all(&mut socket, b"GET /metrics HTTP/1.0\r\n\r\n").expect("a request");
    socket.read_to_string(&mut text).expect("an answer");
    let readme = text_of("README.md");
    let mut count = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = line.split_once(' ').expect("a help text");
        assert!(readme.contains(&format!("| `{name}` |")) && readme.contains(help), "{name} is not in the README");
        count += 1;
    }
    assert!(count > 8, "{text}");
}

#[test]
fn every_command_stands_in_the_readme_and_has_examples() {
    let readme = text_of("README.md");
    for command in [
        "run",
        "check",
        "send",
        "sign",
        "verify",
        "explain",
        "vectors",
        "providers",
        "queue",
        "health",
        "schema",
        "completions",
        "drain",
    ] {
        assert!(readme.contains(&format!("| `hookmoat {command}")), "{command} is not in the README");
        let output = program().args([command, "--help"]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(command == "schema" || text.contains(&format!("Examples:\n  hookmoat {command} ")), "{text}");
    }
}
