//! A new configuration, secret, list or certificate while requests go on; and a bad one, which changes nothing.

use crate::support::{Backend, Connection, Moat, Proxy, Reply, post, sign};
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const OLD: &str = "the-old-secret-of-the-route";
const NEW: &str = "the-new-secret-of-the-route";

const APPLIED: &str = "hookmoat_config_reloads_total{outcome=\"applied\"}";
const REFUSED: &str = "hookmoat_config_reloads_total{outcome=\"refused\"}";
const GOOD: &str = "hookmoat_config_last_reload_successful";

fn routes(lines: &str) -> String {
    format!(
        "routes:\n  - name: github\n    path: /webhooks/github\n    provider: github\n    \
         secrets: [{{ file: secret }}]\n    to: app\n{lines}"
    )
}

/// A proxy whose route has its secret in a file.
fn moat(backend: Backend, lines: &str) -> Moat {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, OLD).expect("a secret");
    let text = routes(lines).replace("file: secret", &format!("file: {}", secret.display()));
    let moat = Moat::with_backend(backend, &text);
    // Lives as long as the process.
    std::mem::forget(folder);
    moat
}

fn event(id: &str, secret: &str) -> Vec<u8> {
    let body = format!("{{\"id\":\"{id}\"}}");
    let signature = sign::github(secret, body.as_bytes());
    post("/webhooks/github", &[("X-Hub-Signature-256", &signature), ("X-GitHub-Delivery", id)], body.as_bytes())
}

/// Writes as an editor does: beside it, then renamed over it.
fn exchange(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("a file");
    std::fs::rename(beside, path).expect("a rename");
}

fn edit(proxy: &Proxy, change: impl Fn(&str) -> String) {
    let text = std::fs::read_to_string(proxy.config()).expect("the configuration");
    exchange(&proxy.config(), &change(&text));
}

fn secret_file(proxy: &Proxy) -> std::path::PathBuf {
    let text = std::fs::read_to_string(proxy.config()).expect("the configuration");
    text.split_once("file: ").and_then(|(_, rest)| rest.split_once(' ')).expect("a secret's file").0.into()
}

#[test]
fn a_secret_is_exchanged_without_a_restart_and_nothing_is_forgotten() {
    let moat = moat(Backend::ok(), "");
    let proxy = &moat.proxy;
    assert_eq!(proxy.send(&event("1", OLD)).status, 200);
    assert_eq!(proxy.send(&event("2", NEW)).status, 401);
    exchange(&secret_file(proxy), NEW);
    moat.wait_until("the new secret", || proxy.metric(APPLIED) == 1.0);
    assert_eq!(proxy.send(&event("3", OLD)).status, 401);
    let seen = proxy.send(&event("1", NEW));
    assert_eq!((seen.status, seen.header("hookmoat-duplicate")), (200, Some("true")));
    assert_eq!(proxy.send(&event("2", NEW)).status, 200);
    assert_eq!(moat.backend.requests().len(), 2);
    moat.wait_until("all told", || proxy.events().len() == 5);
    assert!(!proxy.log().contains(NEW) && !proxy.log().contains(OLD));
}

#[test]
fn a_configuration_with_problems_changes_nothing_and_says_every_one() {
    let moat = moat(Backend::ok(), "");
    let proxy = &moat.proxy;
    let good = std::fs::read_to_string(proxy.config()).expect("the configuration");
    edit(proxy, |text| text.replace("to: app", "to: nowhere") + "    max_body: 12\n");
    moat.wait_until("refused", || proxy.metric(REFUSED) == 1.0);
    assert_eq!(proxy.metric(GOOD), 0.0);
    assert_eq!(proxy.send(&event("1", OLD)).status, 200);
    let log = proxy.log();
    assert!(log.contains("routes[0].to: ") && log.contains("routes[0].max_body: "), "{log}");
    assert!(log.contains("the old configuration stays in force"), "{log}");
    assert_eq!(proxy.admin("/readyz").status, 200);
    exchange(&proxy.config(), &(good + "    max_body: 16KiB\n"));
    moat.wait_until("applied", || proxy.metric(APPLIED) == 1.0);
    assert_eq!(proxy.metric(GOOD), 1.0);
    assert_eq!(proxy.send(&event("2", OLD)).status, 200);
}

#[test]
fn what_is_fixed_until_the_next_start_is_refused_in_words() {
    let moat = moat(Backend::ok(), "");
    let proxy = &moat.proxy;
    edit(proxy, |text| text.replace("admin: 127.0.0.1", "admin: 127.0.0.2") + "state: { memory: { max_ids: 5000 } }\n");
    moat.wait_until("refused", || proxy.metric(REFUSED) == 1.0);
    let log = proxy.log();
    for key in ["admin", "state"] {
        assert!(log.contains(&format!("`{key}` is fixed until the next start")), "{log}");
    }
}

#[test]
fn a_secret_that_is_gone_is_not_taken_over() {
    let moat = moat(Backend::ok(), "");
    let proxy = &moat.proxy;
    std::fs::remove_file(secret_file(proxy)).expect("it was there");
    moat.wait_until("refused", || proxy.metric(REFUSED) == 1.0);
    assert_eq!(proxy.send(&event("1", OLD)).status, 200);
    assert!(proxy.log().contains("route github would lose its secret"), "{}", proxy.log());
}

#[test]
fn sighup_reloads_and_files_that_say_the_same_do_not() {
    let moat = moat(Backend::ok(), "");
    let proxy = &moat.proxy;
    let text = std::fs::read_to_string(proxy.config()).expect("the configuration");
    exchange(&proxy.config(), &text);
    proxy.signal("HUP");
    moat.wait_until("asked for", || proxy.metric(APPLIED) == 1.0);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((proxy.metric(APPLIED), proxy.metric(REFUSED)), (1.0, 0.0));
}

#[test]
fn routes_lists_and_limits_come_and_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let nets = folder.path().join("nets.txt");
    std::fs::write(&nets, "192.0.2.0/24\n").expect("a list");
    let moat = moat(Backend::ok(), &format!("    allow: [{{ file: {} }}]\n", nets.display()));
    let proxy = &moat.proxy;
    assert_eq!(proxy.send(&event("1", OLD)).status, 403);
    exchange(&nets, "192.0.2.0/24\n127.0.0.0/8\n");
    moat.wait_until("the list", || proxy.metric(APPLIED) == 1.0);
    assert_eq!(proxy.send(&event("1", OLD)).status, 200);
    edit(proxy, |text| {
        format!("{text}  - name: second\n    path: /second\n    signature: none\n    duplicates: off\n    to: app\n")
    });
    moat.wait_until("the route", || proxy.metric(APPLIED) == 2.0);
    assert_eq!(proxy.send(&post("/second", &[], b"{}")).status, 200);
    assert!(proxy.log().contains("weaker: route second: added at /second, and nothing is verified on it"));
    edit(proxy, |text| text.replace("name: second", "name: other").replace("path: /second", "path: /other"));
    moat.wait_until("another route", || proxy.metric(APPLIED) == 3.0);
    assert_eq!(proxy.send(&post("/second", &[], b"{}")).status, 404);
    assert_eq!(proxy.send(&post("/other", &[], b"{}")).status, 200);
    assert!(!proxy.admin("/metrics").text().contains("hookmoat_route_ready{route=\"second\"}"));
}

#[test]
fn a_folder_in_the_place_of_the_old_one_is_seen_and_so_is_what_changes_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let secrets = folder.path().join("secrets");
    let put = |secret: &str| {
        std::fs::create_dir(&secrets).expect("a folder");
        std::fs::write(secrets.join("secret"), secret).expect("a file");
    };
    put(OLD);
    let text = routes("").replace("file: secret", &format!("file: {}/secret", secrets.display()));
    let moat = Moat::with_backend(Backend::ok(), &text);
    std::fs::rename(&secrets, folder.path().join("old")).expect("moved away");
    put(NEW);
    moat.wait_until("another folder", || moat.proxy.metric(APPLIED) == 1.0);
    assert_eq!(moat.proxy.send(&event("1", NEW)).status, 200);
    exchange(&secrets.join("secret"), OLD);
    moat.wait_until("a file in it", || moat.proxy.metric(APPLIED) == 2.0);
    assert_eq!(moat.proxy.send(&event("2", OLD)).status, 200);
}

#[test]
fn a_kubernetes_volume_that_is_exchanged_as_a_whole_is_seen() {
    let backend = Backend::ok();
    let volume = tempfile::tempdir().expect("a folder");
    let generation = |name: &str, secret: &str| {
        let folder = volume.path().join(name);
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("secret"), secret).expect("a file");
        let link = volume.path().join("..data_tmp");
        std::os::unix::fs::symlink(name, &link).expect("a link");
        std::fs::rename(link, volume.path().join("..data")).expect("an exchange");
    };
    generation("..2026_01", OLD);
    std::os::unix::fs::symlink("..data/secret", volume.path().join("secret")).expect("a link");
    let text = routes("").replace("file: secret", &format!("file: {}/secret", volume.path().display()));
    let moat = Moat::with_backend(backend, &text);
    assert_eq!(moat.proxy.send(&event("1", OLD)).status, 200);
    for (name, secret, applied) in [("..2026_02", NEW, 1.0), ("..2026_03", OLD, 2.0)] {
        generation(name, secret);
        moat.wait_until(name, || moat.proxy.metric(APPLIED) == applied);
        assert_eq!(moat.proxy.send(&event(name, secret)).status, 200);
    }
}

#[test]
fn a_request_ends_under_the_policy_that_it_began_with() {
    let (entered, release) = (std::sync::Arc::new(AtomicBool::new(false)), std::sync::Arc::new(AtomicBool::new(false)));
    let (inside, open) = (entered.clone(), release.clone());
    let backend = Backend::with(move |_, _| {
        inside.store(true, Ordering::SeqCst);
        while !open.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Reply::Status(410, "gone")
    });
    let moat = moat(backend, "");
    let proxy = &moat.proxy;
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| proxy.send(&event("1", OLD)).status);
        moat.wait_until("at the backend", || entered.load(Ordering::SeqCst));
        // From now on a 410 would be passed on; then it is 502.
        edit(proxy, |text| text.replace("to: app", "to: { upstream: app, pass_gone: true }"));
        moat.wait_until("applied", || proxy.metric(APPLIED) == 1.0);
        release.store(true, Ordering::SeqCst);
        assert_eq!(answer.join().expect("an answer"), 502);
    });
    assert_eq!(proxy.send(&event("2", OLD)).status, 410);
}

#[test]
fn no_request_is_lost_while_the_configuration_changes_again_and_again() {
    let moat = moat(Backend::ok(), "");
    let proxy = &moat.proxy;
    let (sent, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let (sent, done) = (&sent, &done);
                scope.spawn(move || {
                    for count in 0.. {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        let answer = proxy.send(&event(&format!("{sender}-{count}"), OLD));
                        assert_eq!(answer.status, 200, "{answer:?}");
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for round in 1..=5 {
            edit(proxy, |text| format!("{}\n# round {round}\n", text.trim_end()));
            moat.wait_until("applied", || proxy.metric(APPLIED) >= f64::from(round));
        }
        done.store(true, Ordering::Relaxed);
        senders.into_iter().for_each(|sender| sender.join().expect("every request was answered"));
    });
    assert_eq!(moat.backend.requests().len(), sent.load(Ordering::Relaxed));
}

/// A self-signed pair for localhost that is valid from now until then.
fn pair(not_after: i32) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
    params.not_after = rcgen::date_time_ymd(not_after, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

/// The certificate that the HTTPS listener shows.
fn shown(proxy: &Proxy) -> Vec<u8> {
    Connection::certificate(proxy.https)
}

#[test]
fn a_certificate_is_exchanged_and_a_bad_one_is_not() {
    let mut moat = moat(Backend::ok(), "");
    let proxy = &moat.proxy;
    let (certificate, key) = (proxy.path().join("tls/tls.crt"), proxy.path().join("tls/tls.key"));
    let refused = format!("hookmoat_certificate_reloads_total{{listener=\"{}\",outcome=\"refused\"}}", proxy.https);
    let applied = refused.replace("refused", "applied");
    let first = shown(proxy);
    let mut open = Connection::open_tls(proxy.https);
    assert_eq!(open.send(&event("1", OLD)).answer().status, 200);

    let (new_certificate, new_key) = pair(2040);
    // The certificate alone: it does not belong to the key that is there.
    exchange(&certificate, &new_certificate);
    moat.wait_until("mismatched", || proxy.metric(&refused) >= 1.0);
    assert_eq!(shown(proxy), first);
    exchange(&key, &new_key);
    moat.wait_until("in order", || proxy.metric(&applied) == 1.0);
    let second = shown(proxy);
    let der = rustls_pki_types::CertificateDer::from_pem_slice(new_certificate.as_bytes()).expect("a certificate");
    assert_eq!(second, der.to_vec());
    let gauge = format!("hookmoat_certificate_not_after_seconds{{listener=\"{}\"}}", proxy.https);
    assert_eq!(proxy.metric(&gauge), 2_208_988_800.0);
    // A connection that was open before goes on.
    assert_eq!(open.send(&event("2", OLD)).answer().status, 200);

    let before = proxy.metric(&refused);
    let (expired, expired_key) = pair(2020);
    exchange(&key, &expired_key);
    exchange(&certificate, &expired);
    moat.wait_until("expired", || proxy.metric(&refused) > before && proxy.log().contains("has expired"));
    std::fs::write(&certificate, "no certificate").expect("a file");
    moat.wait_until("broken", || {
        proxy.log().contains("cannot read certificate") || proxy.log().contains("no certificate")
    });
    assert_eq!(shown(proxy), second);
    assert_eq!(proxy.metric(&applied), 1.0);
    // Nothing better is there at a start: it is served, and told of.
    std::fs::write(&certificate, &expired).expect("a file");
    std::fs::write(&key, &expired_key).expect("a file");
    moat.proxy.kill_and_start();
    let told = format!("the certificate {} has expired", certificate.display());
    moat.wait_until("told of", || moat.proxy.log().contains(&told));
}
