//! The configurations in `config/recipes`, as they stand there, with what their senders really send.

use crate::support::backend::Recorded;
use crate::support::{Answer, Backend, PATIENCE, Proxy, Reply, post, sign, within};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BOT_KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ORGANIZATION: &str = "00D000000000062EAA";
/// Variables of the recipes that are not asserted below have their own name as value, doubled to be long enough.
const SECRETS: &[&str] = &[
    "SLACK_SIGNING_SECRET",
    "META_APP_SECRET",
    "META_VERIFY_TOKEN",
    "HUBSPOT_CLIENT_SECRET",
    "SHOPIFY_SECRET",
    "SHOPIFY_OLD_SECRET",
    "WOOCOMMERCE_SECRET",
    "ERP_KEY",
    "ZENDESK_SECRET",
    "INTERCOM_CLIENT_SECRET",
];

/// Starts with a recipe: addresses and certificates are this test's, everything else is the file's.
fn cook(name: &str, backend: &Backend) -> (Proxy, tempfile::TempDir) {
    let pantry = tempfile::tempdir().expect("a folder");
    let networks = pantry.path().join("networks.txt");
    std::fs::write(&networks, "127.0.0.0/8\n").expect("a file");
    let file = format!("{}/config/recipes/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let networks = networks.display().to_string();
    for (from, to) in [
        ("0.0.0.0:8443", "{https}"),
        ("private_key: tls/tls.key", "private_key: tls/tls.key, self_signed_if_missing: true"),
        ("http://127.0.0.1:3000", "http://{backend}"),
        ("salesforce-networks.txt", &*networks),
    ] {
        assert!(text.contains(from) || from.starts_with("salesforce"), "{name} has no {from}");
        text = text.replace(from, to);
    }
    let mut env = vec![("BOT_KEY", BOT_KEY), ("SALESFORCE_ORGANIZATION_ID", ORGANIZATION)];
    env.extend(SECRETS.iter().map(|name| (*name, *name)));
    (Proxy::start_with(backend.address, &text, &env), pantry)
}

fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

fn slack(channel: &str, text: &str, id: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"token":"XXYYZZ","team_id":"T123","api_app_id":"A123","event":{{"type":"message","channel":"{channel}","user":"U2147483697","text":"{text}","ts":"1355517523.000005","channel_type":"im"}},"type":"event_callback","event_id":"{id}","event_time":1355517523}}"#
    );
    let time = unix().as_secs().to_string();
    let signed = [b"v0:", time.as_bytes(), b":", body.as_bytes()];
    let signature = format!("v0={}", sign::hex_sha256("SLACK_SIGNING_SECRET", &signed));
    let headers = [
        ("Content-Type", "application/json"),
        ("X-Slack-Request-Timestamp", &*time),
        ("X-Slack-Signature", &*signature),
        ("User-Agent", "Slackbot 1.0 (+https://api.slack.com/robots)"),
    ];
    post("/webhooks/slack", &headers, body.as_bytes())
}

fn whatsapp(text: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"object":"whatsapp_business_account","entry":[{{"id":"102290129340398","changes":[{{"value":{{"messaging_product":"whatsapp","metadata":{{"display_phone_number":"15550783881","phone_number_id":"106540352242922"}},"contacts":[{{"profile":{{"name":"Sheena Nelson"}},"wa_id":"16505551234"}}],"messages":[{{"from":"16505551234","id":"wamid.HBgLMTY1MDM4Nzk0MzkVAgASGBQzQTRBNjU5OUFFRTAzODEwMTQ0RgA=","timestamp":"1749416383","type":"text","text":{{"body":"{text}"}}}}]}},"field":"messages"}}]}}]}}"#
    );
    let signature = sign::github("META_APP_SECRET", body.as_bytes());
    let headers = [("Content-Type", "application/json"), ("X-Hub-Signature-256", &*signature)];
    post("/webhooks/whatsapp", &headers, body.as_bytes())
}

fn hubspot(kind: &str) -> Vec<u8> {
    let body = format!(
        r#"[{{"eventId":1,"subscriptionId":12345,"portalId":62515,"occurredAt":1564113600000,"subscriptionType":"{kind}","attemptNumber":0,"objectId":123,"changeSource":"CRM","changeFlag":"NEW","appId":54321}}]"#
    );
    let time = unix().as_millis().to_string();
    let url = "https://hooks.example.com/webhooks/hubspot";
    let signed = [b"POST", url.as_bytes(), body.as_bytes(), time.as_bytes()];
    let signature = sign::base64_sha256("HUBSPOT_CLIENT_SECRET", &signed);
    let headers = [
        ("Content-Type", "application/json"),
        ("X-HubSpot-Signature-v3", &*signature),
        ("X-HubSpot-Request-Timestamp", &*time),
    ];
    post("/webhooks/hubspot", &headers, body.as_bytes())
}

fn salesforce(organization: &str, notification: &str) -> Vec<u8> {
    let body = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <soapenv:Body>
  <notifications xmlns="http://soap.sforce.com/2005/09/outbound">
   <OrganizationId>{organization}</OrganizationId>
   <ActionId>04k0000000000ABAAQ</ActionId>
   <SessionId xsi:nil="true"/>
   <EnterpriseUrl>https://example.my.salesforce.com/services/Soap/c/60.0/00D000000000062</EnterpriseUrl>
   <PartnerUrl>https://example.my.salesforce.com/services/Soap/u/60.0/00D000000000062</PartnerUrl>
   <Notification>
    <Id>{notification}</Id>
    <sObject xsi:type="sf:Lead" xmlns:sf="urn:sobject.enterprise.soap.sforce.com"><sf:Id>00Q0000000000B1AAI</sf:Id></sObject>
   </Notification>
  </notifications>
 </soapenv:Body>
</soapenv:Envelope>"#
    );
    let headers = [("Content-Type", "text/xml; charset=utf-8"), ("SOAPAction", "\"\"")];
    post("/webhooks/salesforce", &headers, body.as_bytes())
}

fn shopify(topic: &str, id: &str, body: &str) -> Vec<u8> {
    let signature = sign::base64_sha256("SHOPIFY_SECRET", &[body.as_bytes()]);
    let headers = [
        ("Content-Type", "application/json"),
        ("X-Shopify-Topic", topic),
        ("X-Shopify-Hmac-Sha256", &*signature),
        ("X-Shopify-Shop-Domain", "johns-apparel.myshopify.com"),
        ("X-Shopify-API-Version", "2025-07"),
        ("X-Shopify-Webhook-Id", id),
        ("X-Shopify-Triggered-At", "2023-03-29T18:00:27.877041743Z"),
    ];
    post("/webhooks/shopify", &headers, body.as_bytes())
}

fn woocommerce(body: &str) -> Vec<u8> {
    let signature = sign::base64_sha256("WOOCOMMERCE_SECRET", &[body.as_bytes()]);
    let headers = [
        ("Content-Type", "application/json"),
        ("X-WC-Webhook-Source", "https://shop.example.com/"),
        ("X-WC-Webhook-Topic", "product.updated"),
        ("X-WC-Webhook-Resource", "product"),
        ("X-WC-Webhook-Event", "updated"),
        ("X-WC-Webhook-Signature", &*signature),
        ("X-WC-Webhook-ID", "142"),
        ("X-WC-Webhook-Delivery-ID", "9a6a5a8b"),
    ];
    post("/webhooks/woocommerce", &headers, body.as_bytes())
}

fn zendesk(kind: &str, id: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"account_id":22129848,"detail":{{"id":"5158","subject":"cannot log in","status":"OPEN"}},"event":{{}},"id":"{id}","subject":"zen:ticket:5158","time":"2025-01-08T10:12:07Z","type":"{kind}","zendesk_event_version":"2022-11-06"}}"#
    );
    let time = time::OffsetDateTime::from(UNIX_EPOCH + Duration::from_secs(unix().as_secs()));
    let time = time.format(&time::format_description::well_known::Rfc3339).expect("a time");
    let signature = sign::base64_sha256("ZENDESK_SECRET", &[time.as_bytes(), body.as_bytes()]);
    let headers = [
        ("Content-Type", "application/json; charset=utf-8"),
        ("X-Zendesk-Webhook-Signature", &*signature),
        ("X-Zendesk-Webhook-Signature-Timestamp", &*time),
        ("X-Zendesk-Webhook-Invocation-Id", id),
        ("X-Zendesk-Webhook-Id", "01EJFTSCC78X5V07NPY2MHR00M"),
    ];
    post("/webhooks/zendesk", &headers, body.as_bytes())
}

fn intercom(topic: &str, id: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"type":"notification_event","app_id":"a86dr8yl","data":{{"type":"notification_event_data","item":{{"type":"conversation","id":"15"}}}},"links":{{}},"id":"{id}","topic":"{topic}","delivery_status":"pending","delivery_attempts":1,"delivered_at":0,"first_sent_at":1734537243,"created_at":1734537243,"self":null}}"#
    );
    let signature = format!("sha1={}", sign::hex_sha1("INTERCOM_CLIENT_SECRET", body.as_bytes()));
    let headers = [("Content-Type", "application/json"), ("X-Hub-Signature", &*signature)];
    post("/webhooks/intercom", &headers, body.as_bytes())
}

fn body_of(request: &[u8]) -> &[u8] {
    let end = request.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    &request[end + 4..]
}

#[track_caller]
fn accepted(proxy: &Proxy, case: &str, request: &[u8]) -> Answer {
    let answer = proxy.send_tls(request);
    assert_eq!(answer.status, 200, "{case}: {answer:?}\n{}", proxy.log());
    assert_eq!(answer.header("hookmoat-duplicate"), None, "{case}");
    let copy = proxy.send_tls(request);
    assert_eq!((copy.status, copy.header("hookmoat-duplicate")), (200, Some("true")), "{case}: {copy:?}");
    answer
}

/// Takes one bit out of the signature's secret.
fn forged(request: &[u8]) -> Vec<u8> {
    let mut forged = request.to_vec();
    let last = forged.len() - 3;
    forged[last] ^= 1;
    forged
}

#[test]
fn chatbot() {
    // The bot is not there for the first two, and then it takes everything.
    let tries = AtomicUsize::new(0);
    let backend = Backend::with(move |_, _| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Close,
        1 => Reply::Status(503, ""),
        _ => Reply::Status(200, ""),
    });
    let (proxy, _pantry) = cook("chatbot", &backend);
    let events = [
        ("slack", slack("D024BE91L", "I want a quote", "Ev0PV52K21")),
        ("slack, the next of this conversation", slack("D024BE91L", "for ten seats", "Ev0PV52K22")),
        ("whatsapp", whatsapp("Hello, do you deliver?")),
        ("hubspot", hubspot("contact.creation")),
        ("salesforce", salesforce(ORGANIZATION, "04l0000000000A1AAI")),
    ];
    for (case, request) in &events {
        let answer = accepted(&proxy, case, request);
        assert_eq!(answer.text().contains("<Ack>true</Ack>"), *case == "salesforce", "{case}: {answer:?}");
    }
    for (case, request, status) in [
        ("slack, forged", forged(&events[0].1), 401),
        ("whatsapp, forged", forged(&events[2].1), 401),
        ("hubspot, forged", forged(&events[3].1), 401),
        ("another organization", salesforce("00D000000000063EAA", "04l0000000000A9AAI"), 401),
        ("hubspot, of no interest", hubspot("deal.deletion"), 200),
    ] {
        assert_eq!(proxy.send_tls(&request).status, status, "{case}\n{}", proxy.log());
    }
    let delivered = |path: &str| proxy.metric(&format!("hookmoat_delivered_seconds_count{{route=\"{path}\"}}"));
    let all = || ["slack", "whatsapp", "hubspot", "salesforce"].map(delivered);
    assert!(within(PATIENCE, || all() == [2.0, 1.0, 1.0, 1.0]), "{:?}\n{}", all(), proxy.log());
    // Byte for byte, and signed with the bot's own key whoever sent it.
    let mut found: Vec<Recorded> = backend.requests();
    found.retain(|request| request.header("webhook-id").is_some());
    for (case, request) in &events {
        let delivered = found.iter().find(|found| found.body == body_of(request)).unwrap_or_else(|| panic!("{case}"));
        let part = |name| delivered.header(name).unwrap_or_else(|| panic!("{case}: no {name}"));
        let signed =
            [part("webhook-id").as_bytes(), b".", part("webhook-timestamp").as_bytes(), b".", body_of(request)];
        assert_eq!(part("webhook-signature"), sign::standard(BOT_KEY, &signed.concat()), "{case}");
        assert!(delivered.header("idempotency-key").is_some(), "{case}");
    }
    // One conversation in its order, though the first of it was tried again.
    let conversation: Vec<&[u8]> =
        found.iter().map(|found| &*found.body).filter(|b| b.starts_with(b"{\"token\"")).collect();
    let (first, second) = (body_of(&events[0].1), body_of(&events[1].1));
    assert_eq!(conversation.last(), Some(&second));
    assert!(conversation[..conversation.len() - 1].iter().all(|body| *body == first));
}

#[test]
fn shop() {
    // How many events the ERP works on at once, at most; it is down for the first one.
    let (busy, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let taken: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let backend = Backend::with({
        let (busy, most, taken) = (busy.clone(), most.clone(), taken.clone());
        move |request, n| {
            let now = busy.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
            busy.fetch_sub(1, Ordering::SeqCst);
            if n == 0 {
                return Reply::Status(503, "");
            }
            taken.lock().expect("no panic").push(request.body.clone());
            Reply::Status(200, "")
        }
    });
    let (proxy, _pantry) = cook("shop", &backend);
    let level = |item: u64, n: u64| {
        let body = format!(
            r#"{{"inventory_item_id":{item},"location_id":24826418,"available":{n},"updated_at":"2024-01-02T09:28:43-05:00","admin_graphql_api_id":"gid:\/\/shopify\/InventoryLevel\/24826418?inventory_item_id={item}"}}"#
        );
        shopify("inventory_levels/update", &format!("b54557e4-bdd9-4b37-8a5f-{item:06}{n:06}"), &body)
    };
    let mut sent = 0;
    for n in 0..12 {
        accepted(&proxy, "shopify", &level(271_878 + n % 3, n));
        sent += 1;
    }
    for n in 0..3 {
        let body =
            format!(r#"{{"id":794,"name":"Premium Quality","sku":"","stock_quantity":{n},"stock_status":"instock"}}"#);
        accepted(&proxy, "woocommerce", &woocommerce(&body));
        sent += 1;
    }
    let ping =
        post("/webhooks/woocommerce", &[("Content-Type", "application/x-www-form-urlencoded")], b"webhook_id=142");
    for (case, request, status) in [
        ("a ping when the webhook is saved", ping, 200),
        ("a topic of no interest", shopify("themes/update", "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043", "{}"), 200),
        ("forged", forged(&level(271_878, 99)), 401),
    ] {
        assert_eq!(proxy.send_tls(&request).status, status, "{case}\n{}", proxy.log());
    }
    let count = || taken.lock().expect("no panic").len();
    assert!(within(PATIENCE, || count() == sent), "{} of {sent}\n{}", count(), proxy.log());
    assert!(most.load(Ordering::SeqCst) <= 2, "{most:?} at once");
    let mut last: HashMap<String, u64> = HashMap::new();
    for body in taken.lock().expect("no panic").iter() {
        let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        let (product, n) = match body["inventory_item_id"].as_u64() {
            Some(item) => (item.to_string(), body["available"].as_u64()),
            None => (format!("wc-{}", body["id"]), body["stock_quantity"].as_u64()),
        };
        let n = n.expect("a number");
        // Strictly: each is there once, and in its order.
        assert!(last.insert(product.clone(), n).is_none_or(|last| last < n), "{product}: {n} came late");
    }
    for request in backend.requests() {
        assert_eq!((&*request.target, request.header("x-api-key")), ("/erp/inbound", Some("ERP_KEY")));
    }
}

#[test]
fn support_desk() {
    let slow = "notif_ccd8a4d0-f965-11e3-a367-c779cae3e1b3";
    let away = AtomicBool::new(true);
    let backend = Backend::with(move |request, _| {
        let id = request.header("hookmoat-event-id").unwrap_or_default();
        match (id, &*request.target) {
            // Longer than Intercom's five seconds.
            (id, _) if id == slow => Reply::After(Duration::from_millis(5_500), Box::new(Reply::Status(200, ""))),
            (_, "/tickets") if away.swap(false, Ordering::SeqCst) => Reply::Close,
            _ => Reply::Status(200, "{\"answer\":\"have you tried turning it off and on again?\"}"),
        }
    });
    let (proxy, _pantry) = cook("support-desk", &backend);
    // The helper's own words.
    let ticket = zendesk("zen:event-type:ticket.created", "01JGXBTRV1GZ4M2B1C5ZKYQRMK");
    assert!(accepted(&proxy, "zendesk", &ticket).text().contains("turning it off"));
    let fast = intercom("conversation.user.created", "notif_1");
    assert!(accepted(&proxy, "intercom", &fast).text().contains("turning it off"));
    assert_eq!(proxy.send_tls(&forged(&ticket)).status, 401);
    assert_eq!(proxy.send_tls(&forged(&fast)).status, 401);
    // What is of no interest, and what Intercom asks when the URL is saved.
    assert_eq!(proxy.send_tls(&intercom("contact.archived", "notif_2")).text(), "");
    // In time although the helper is not; the attempt that ran was the only one.
    assert_eq!(accepted(&proxy, "a slow helper", &intercom("conversation.user.replied", slow)).text(), "");
    // To the analysts, whose warehouse was away, through their own queue.
    let moved = zendesk("zen:event-type:ticket.status_changed", "01JGXBTRV1GZ4M2B1C5ZKYQRMM");
    assert_eq!(accepted(&proxy, "the analysts'", &moved).text(), "");
    let stored = |queue: &str| proxy.metric(&format!("hookmoat_enqueue_duration_seconds_count{{queue=\"{queue}\"}}"));
    assert_eq!((stored("desk"), stored("analysts")), (1.0, 1.0));
    let delivered = |route: &str| proxy.metric(&format!("hookmoat_delivered_seconds_count{{route=\"{route}\"}}"));
    let both = || (delivered("intercom"), delivered("zendesk"));
    assert!(within(PATIENCE, || both() == (1.0, 1.0)), "{:?}\n{}", both(), proxy.log());
    let arrived = |id: &str| backend.requests().iter().filter(|r| r.header("hookmoat-event-id") == Some(id)).count();
    assert_eq!((arrived(slow), arrived("01JGXBTRV1GZ4M2B1C5ZKYQRMM")), (1, 2));
    assert_eq!(arrived("notif_2"), 0);
}
