//! Tokens that bring their key in a chain of certificates: what counts is the root that stands in the scheme, not what
//! the token says of itself.

use crate::support::{Moat, refusal, request};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, IsCa, KeyPair};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn params(name: &str, ca: bool, mark: Option<u64>) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = if ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
    let extension = |mark: u64| CustomExtension::from_oid_content(&[1, 2, 3, mark], vec![5, 0]);
    params.custom_extensions = mark.map(extension).into_iter().collect();
    params
}

/// A sender with its root, what is between, and a signing certificate.
struct Sender {
    root: Issuer,
    between: Issuer,
    leaf: Vec<u8>,
    key: KeyPair,
}

impl Sender {
    fn new(leaf_mark: Option<u64>, issuer_mark: Option<u64>) -> Self {
        let key = || KeyPair::generate().expect("a key");
        let root = Issuer::self_signed(params("Root", true, None), key()).expect("a root");
        let between = Issuer::signed_by(params("Between", true, issuer_mark), key(), &root).expect("an issuer");
        let key = key();
        let leaf = params("Leaf", false, leaf_mark).signed_by(&key, &between).expect("a certificate");
        Self { leaf: leaf.der().to_vec(), root, between, key }
    }

    fn chain(&self) -> Value {
        let text = |der: &[u8]| STANDARD.encode(der);
        json!([text(&self.leaf), text(self.between.der()), text(self.root.der())])
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", part(header), part(claims));
        let random = ring::rand::SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, self.key.serialized_der(), &random);
        let signature = pair.expect("a key").sign(&random, input.as_bytes()).expect("a signature");
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn wire(token: &str) -> Vec<u8> {
    request("POST", "/in", &[("Content-Type", "application/json")], json!({ "payload": token }).to_string().as_bytes())
}

#[test]
fn a_token_counts_only_with_a_chain_to_the_schemes_own_root() {
    let ours = Sender::new(Some(1), Some(2));
    let root = ours.root.pem().lines().map(|line| format!("            {line}\n")).collect::<String>();
    let moat = Moat::new(&format!(
        "routes:
  - name: in
    path: /in
    signature:
      algorithm: jwt
      from: {{ json: /payload }}
      token:
        algorithms: [ES256]
        made_at: {{ claim: signedDate, unit: milliseconds }}
        max_age: 1h
        require: [uuid]
        configured: [bundleId]
        places: {{ bundleId: [/data/bundleId, /summary/bundleId] }}
        x5c:
          leaf_marks: [1.2.3.1]
          issuer_marks: [1.2.3.2]
          roots: |
{root}    claims: {{ bundleId: com.example }}
    event_id: json:/payload|jwt:/uuid
    to: app
"
    ));
    let claims =
        |uuid: &str| json!({ "uuid": uuid, "signedDate": now() * 1000, "data": { "bundleId": "com.example" } });
    let header = |sender: &Sender| json!({ "alg": "ES256", "x5c": sender.chain() });
    let good = ours.sign(&header(&ours), &claims("1"));
    moat.accepts("good", &wire(&good));
    // The ID stands in the token, and so does a copy under another outer body.
    let copy = json!({ "payload": good, "more": 1 }).to_string();
    let answer = moat.proxy.send(&request("POST", "/in", &[], copy.as_bytes()));
    assert_eq!((answer.status, answer.header("hookmoat-duplicate")), (200, Some("true")));
    let mut summary = claims("2");
    summary["summary"] = summary["data"].take();
    moat.accepts("in the other place", &wire(&ours.sign(&header(&ours), &summary)));

    let theirs = Sender::new(Some(1), Some(2));
    let (unmarked, unmarked_issuer) = (Sender::new(None, Some(2)), Sender::new(Some(1), None));
    let mut mixed = header(&theirs);
    mixed["x5c"][2] = ours.chain()[2].clone();
    let mut of_ours = header(&ours);
    let mut other_app = claims("3");
    other_app["data"]["bundleId"] = "com.example.other".into();
    let mut old = claims("3");
    old["signedDate"] = ((now() - 4000) * 1000).into();
    let mut early = claims("3");
    early["signedDate"] = ((now() + 600) * 1000).into();
    for (what, token) in [
        ("another root", theirs.sign(&header(&theirs), &claims("3"))),
        ("our root behind another's chain", theirs.sign(&mixed, &claims("3"))),
        ("our chain, another's key", theirs.sign(&of_ours, &claims("3"))),
        ("no mark", unmarked.sign(&header(&unmarked), &claims("3"))),
        ("no mark of the issuer", unmarked_issuer.sign(&header(&unmarked_issuer), &claims("3"))),
        ("no chain", ours.sign(&json!({ "alg": "ES256" }), &claims("3"))),
        ("an empty chain", ours.sign(&json!({ "alg": "ES256", "x5c": [] }), &claims("3"))),
        ("a long chain", ours.sign(&json!({ "alg": "ES256", "x5c": vec![ours.chain()[0].clone(); 9] }), &claims("3"))),
        ("a key in the header", ours.sign(&json!({ "alg": "ES256", "jwk": { "kty": "EC" } }), &claims("3"))),
        ("another app", ours.sign(&header(&ours), &other_app)),
        ("too old", ours.sign(&header(&ours), &old)),
        ("of the future", ours.sign(&header(&ours), &early)),
        ("no algorithm", {
            of_ours["alg"] = "none".into();
            ours.sign(&of_ours, &claims("3"))
        }),
    ] {
        let label = if ["too old", "of the future"].contains(&what) { "timestamp_" } else { "signature_" };
        moat.refuses(what, &wire(&token), refusal(401, "in", label));
    }
}
