//! Official SDKs on both ends: they sign, Hookmoat judges and forwards, an Express application verifies again with the
//! same SDKs on the bytes that it got.

use crate::support::{Connection, Proxy, request};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PUBLIC: &str = "https://hooks.example.com";

fn node(arguments: &[&str]) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk");
    assert!(folder.join("node_modules").is_dir(), "the SDKs are not installed: run `tests/setup.sh test`");
    let mut command = Command::new("node");
    command.args(arguments).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn run(arguments: &[&str], input: &str) -> Value {
    let mut child = node(arguments).spawn().expect("node is installed");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("node reads");
    drop(stdin);
    let mut output = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut output).expect("text");
    assert!(child.wait().expect("an exit status").success(), "{arguments:?} failed");
    serde_json::from_str(&output).expect("JSON")
}

/// The Express application. Ends with its standard input.
struct App {
    child: Child,
    address: SocketAddr,
    control: SocketAddr,
}

impl App {
    fn start(secrets: &Value) -> Self {
        let mut child = node(&["app.js"]).spawn().expect("node is installed");
        let stdin = child.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{}", json!({ "secrets": secrets, "public_base": PUBLIC })).expect("node reads");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let ports: Value = serde_json::from_str(&line).expect("JSON");
        let local = |name: &str| SocketAddr::from(([127, 0, 0, 1], ports[name].as_u64().expect("a port") as u16));
        Self { child, address: local("port"), control: local("control") }
    }

    fn seen(&self) -> Value {
        let answer =
            Connection::open(self.control).send(&request("GET", "/seen", &[("Connection", "close")], b"")).answer();
        serde_json::from_slice(&answer.body).expect("JSON")
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn official_sdks_sign_and_an_express_backend_verifies_again_on_the_bytes_it_gets() {
    let secrets = run(&["sign.js", "--secrets"], "");
    let app = App::start(&secrets);
    let names = secrets.as_object().expect("an object").keys().filter(|name| *name != "public");
    let mut targets: BTreeMap<String, &str> = names.map(|name| (name.clone(), "")).collect();
    for extra in ["twilio-json", "hubspot-v1", "hubspot-v2"] {
        targets.insert(extra.into(), "");
    }
    let mut routes = String::from("limits: { max_body: 2MiB }\nroutes:\n");
    let mut env = Vec::new();
    for name in targets.keys() {
        let provider = ["twilio", "hubspot"].into_iter().find(|known| name.starts_with(known)).unwrap_or(name);
        // Of a pair of keys only the public one is known here.
        let public = secrets["public"][name.as_str()].as_str();
        let secret = public.or(secrets[name.as_str()].as_str()).or(secrets[provider].as_str()).expect("a secret");
        let key = if public.is_some() { "public_keys" } else { "secrets" };
        let variable = format!("SECRET_{}", name.to_uppercase().replace('-', "_"));
        routes += &format!(
            "  - name: {name}\n    path: /webhook/{name}\n    provider: {provider}\n    public_url: {PUBLIC}/webhook/{name}\n    \
             {key}: [{{ env: {variable} }}]\n    to: app\n"
        );
        env.push((variable, secret.to_owned()));
    }
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let proxy = Proxy::start_with(app.address, &routes, &env);

    let input = json!({ "base": format!("http://{}", proxy.http), "public_base": PUBLIC, "secrets": secrets });
    let results = run(&["sign.js"], &input.to_string());
    let seen = app.seen();
    let arrived = seen["requests"].as_array().expect("a list");
    let mut wrong = Vec::new();
    let (mut accepted, mut refused) = (0, 0);
    for result in results.as_array().expect("a list") {
        let passed =
            arrived.iter().find(|one| one["provider"] == result["provider"] && one["sha256"] == result["sha256"]);
        let fine = if result["expect"] == "accept" {
            accepted += 1;
            result["status"] == 200 && passed.is_some_and(|one| one["verified"] == true)
        } else {
            refused += 1;
            result["status"] == 401
        };
        if !fine {
            wrong.push(format!("{result} {passed:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), proxy.log());
    assert_eq!(arrived.len(), accepted, "a refused request reached the backend");
    assert!(accepted >= 27 * 4 && refused >= 27 * 5, "{accepted} accepted, {refused} refused");
}
