//! Senders that want a URL visited before they send anything: it is, at their own hosts alone and where the route says
//! so, or the operator gets to know it.

use crate::support::origin::{Origin, Says};
use crate::support::{Moat, refusal, request};
use hookmoat::check::signature::UnsignedRequest;
use hookmoat::provider;
use hookmoat::request::Now;
use hookmoat::vectors::HandshakeVector;

const HOST: &str = "sns.us-east-1.amazonaws.com";

/// A question of the preset's file, signed now.
fn asked(note: &str) -> (UnsignedRequest, &'static HandshakeVector) {
    let sns = provider::find("aws-sns").expect("a preset");
    let is = |vector: &&HandshakeVector| vector.note.as_deref().is_some_and(|known| known.starts_with(note));
    let vector = sns.handshake_vectors.iter().find(is).expect("a vector");
    (vector.request(sns, Now::read()).expect("a request").0, vector)
}

fn wire(made: &UnsignedRequest) -> Vec<u8> {
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("text");
    let headers: Vec<_> = made.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    request("POST", "/topic", &headers, &made.body)
}

fn route(origin: &Origin, fetch: &str, handshake: &str) -> String {
    format!(
        "{}routes:\n  - name: topic\n    path: /topic\n    provider: aws-sns\n    settings: {{ topic_arn: \
         \"arn:aws:sns:us-east-1:123456789012:MyTopic\" }}\n    handshake: {handshake}\n    to: app\n",
        origin.fetch(&[HOST], fetch),
    )
}

/// SNS as it is: a certificate without a chain, and a place to confirm at that says what it is told.
fn sns() -> Origin {
    let origin = Origin::start(&[HOST], |_| Says::Status(404, String::new()));
    let key = asked("confirmed").1.private_key.as_deref().expect("a key");
    let certificate = origin.certify(&["sns.amazonaws.com"], key);
    confirming(&origin, &certificate, Says::Body(b"<ConfirmSubscriptionResponse/>".to_vec(), String::new()));
    origin
}

fn confirming(origin: &Origin, certificate: &str, says: Says) {
    let certificate = certificate.to_owned();
    origin.script(move |asked| match asked.target.starts_with("/?Action=ConfirmSubscription&") {
        true => says.clone(),
        false => Says::Body(certificate.clone().into_bytes(), String::new()),
    });
}

fn visits(origin: &Origin) -> usize {
    origin.asked().iter().filter(|asked| asked.target.starts_with("/?")).count()
}

#[test]
fn a_subscription_is_confirmed_where_the_route_says_so() {
    let origin = sns();
    let (question, vector) = asked("confirmed");
    let moat = Moat::new(&route(&origin, "  timeout: 2s\n", "{ confirm: true }"));
    let answer = moat.proxy.send(&wire(&question));
    assert_eq!((answer.status, &*answer.text()), (200, ""), "{}", moat.proxy.log());
    let visited: Vec<_> = origin.asked().into_iter().filter(|asked| asked.target.starts_with("/?")).collect();
    assert_eq!(visited.len(), 1, "{visited:?}");
    assert_eq!(visited[0].host, HOST);
    assert_eq!(
        visited[0].target,
        "/?Action=ConfirmSubscription&TopicArn=arn:aws:sns:us-east-1:123456789012:MyTopic&Token=2336412f37"
    );
    // Nothing is visited for anybody else, nor anywhere else.
    let mut forged = question.clone();
    let last = forged.body.len() - 2;
    forged.body[last] ^= 1;
    moat.refuses("a bit", &wire(&forged), refusal(401, "topic", "signature_"));
    moat.refuses("another host", &wire(&asked("a host").0), refusal(403, "topic", "handshake_refused"));
    moat.refuses("another action", &wire(&asked("another action").0), refusal(403, "topic", "handshake_refused"));
    assert_eq!(visits(&origin), 1);
    // The sender hears of no success that was none.
    let certificate = origin.certify(&["sns.amazonaws.com"], vector.private_key.as_deref().expect("a key"));
    for says in [
        Says::Status(500, String::new()),
        Says::Status(302, "Location: https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&a\r\n".into()),
        Says::Body(vec![b'x'; 100 << 10], String::new()),
        Says::Drip,
    ] {
        confirming(&origin, &certificate, says.clone());
        let before = visits(&origin);
        moat.refuses(&format!("{says:?}"), &wire(&question), refusal(503, "topic", "confirmation_failed"));
        assert_eq!(visits(&origin), before + 1, "{says:?}");
    }
    assert!(!moat.proxy.log().contains("2336412f37"), "the token is in the log\n{}", moat.proxy.log());
}

#[test]
fn or_the_operator_gets_the_url_and_nothing_is_visited() {
    let origin = sns();
    let moat = Moat::new(&route(&origin, "", "{ keep: handed-over.jsonl }"));
    let answer = moat.proxy.send(&wire(&asked("confirmed").0));
    assert_eq!((answer.status, &*answer.text()), (200, ""), "{}", moat.proxy.log());
    let kept = std::fs::read_to_string(moat.proxy.path().join("handed-over.jsonl")).expect("a file");
    assert!(kept.contains("https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&"), "{kept}");
    assert_eq!(visits(&origin), 0);
    assert_eq!(moat.backend.connections(), 0);
}

#[test]
fn a_certificate_without_a_chain_must_lead_to_an_authority_where_one_is_named() {
    let origin = sns();
    let stranger = Origin::start(&[HOST], |_| Says::Hang);
    let with = |ca: &std::path::Path| route(&origin, &format!("  signer_ca: {ca:?}\n"), "{ keep: x }");
    let question = wire(&asked("confirmed").0);
    let moat = Moat::new(&with(&stranger.ca()));
    moat.refuses("another authority", &question, refusal(401, "topic", "signature_mismatch"));
    assert!(moat.proxy.log().contains("leads to no root that is trusted"), "{}", moat.proxy.log());
    assert_eq!(Moat::new(&with(&origin.ca())).proxy.send(&question).status, 200);
}
