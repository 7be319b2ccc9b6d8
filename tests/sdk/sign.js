// Sends what real senders send, signed by their own SDKs, and the forgeries that must not get through.
//
//   node sign.js --secrets                    prints a fresh secret for each provider, in the shape that provider uses
//   node sign.js [provider …] < request.json  sends; without arguments for all providers
//
// Reads from stdin:    {"base": "http://127.0.0.1:8080",                where to send
//                       "public_base": "https://hooks.example.com",     what the sender believes it sends to
//                       "secrets": {…}, "paths": {"twilio-json": "/webhook/twilio"}, "headers": {…}}  (the last two optional)
// Prints to stdout:    [{"provider", "case", "expect": "accept" | "refuse", "status", "answer", "sha256", "bytes"}, …]
//                      and "sdk": "accept" where the SDK is laxer than the rule
//
// `--secrets` gives a sender with a pair of keys its private one, and the public one under `public`.
// Where an SDK signs, it signs here: stripe, github, standard-webhooks, svix, twilio, hubspot, contentful, sanity,
// braintree, cloudinary, workos, notion. The others only verify;
// their signature is made as their documentation says, and the backend's SDK tells whether that is right.
// A sender with a certificate of its own making is trusted through NODE_EXTRA_CA_CERTS.

import { createHash, createHmac, createPublicKey, generateKeyPairSync, randomBytes, randomUUID, sign } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';
import { text } from 'node:stream/consumers';

import Stripe from 'stripe';
import { sign as signGitHub } from '@octokit/webhooks-methods';
import * as standardwebhooks from 'standardwebhooks';
import * as svix from 'svix';
import twilioWebhooks from 'twilio/lib/webhooks/webhooks.js';
import hubspot from '@hubspot/api-client';
import { signRequest as signContentful } from '@contentful/node-apps-toolkit';
import { encodeSignatureHeader } from '@sanity/webhook';
import braintree from 'braintree';
import { v2 as cloudinary } from 'cloudinary';
import { WorkOS } from '@workos-inc/node';
import { signWebhookPayload as signNotion } from '@notionhq/client';

const hmac = (algorithm, key, message, encoding) => createHmac(algorithm, key).update(message).digest(encoding);
const seconds = (ms) => Math.floor(ms / 1000);

/** Texts that have broken webhook receivers before. */
const TEXTS = {
  plain: 'Order 1001 was paid',
  unicode: 'Grüße aus 東京 🚀 👩‍👩‍👧 e\u0301 مرحبا \u2028 <b>&amp;</b> 50% + 1 \u0001',
  crlf: 'first line\r\nsecond line\n\ttabbed\r',
  large: 'déjà vu 🔁 '.repeat(20_000), // well past the 64 KiB at which many proxies start to buffer differently
};

/** JSON as this case writes it. Parsing and writing it again would give other bytes in more than one of them. */
function json(name, value) {
  const body = JSON.stringify({ ...value, big: 1e21, one: 1.0 }, null, name === 'crlf' ? 2 : undefined);
  if (name === 'unicode') return body.replace('"one":1', '"one":1.0,"slash":"\\/","a":1,"a":2') + '\n';
  return name === 'crlf' ? body.replaceAll('\n', '\r\n') + '\r\n' : body;
}
const form = (fields) => new URLSearchParams(fields).toString();

// Each provider: the shape of its secret, the header with the signature, whether the time is signed, and `deliver`,
// which makes one delivery of `text` at `now`: body, type, headers, and the path's query where there is one.
const PROVIDERS = {
  stripe: {
    secret: () => 'whsec_' + randomBytes(24).toString('hex'),
    signature: 'Stripe-Signature',
    timed: true,
    deliver({ name, text, secret, now, id }) {
      const body = json(name, { id: `evt_${id}`, object: 'event', type: 'invoice.paid', data: { object: { text } } });
      const header = new Stripe('sk_test_unused').webhooks.generateTestHeaderString({
        payload: body,
        secret,
        timestamp: seconds(now),
      });
      return { body, headers: { 'Stripe-Signature': header } };
    },
  },
  github: {
    secret: () => randomBytes(20).toString('hex'),
    signature: 'X-Hub-Signature-256',
    async deliver({ name, text, secret, id }) {
      const body = json(name, { ref: 'refs/heads/main', head_commit: { message: text }, after: id });
      const headers = { 'X-GitHub-Event': 'push', 'X-GitHub-Delivery': id, 'User-Agent': 'GitHub-Hookshot/044aadd' };
      return { body, headers: { ...headers, 'X-Hub-Signature-256': await signGitHub(secret, body) } };
    },
  },
  'standard-webhooks': {
    secret: () => 'whsec_' + randomBytes(24).toString('base64'),
    signature: 'webhook-signature',
    timed: true,
    deliver({ name, text, secret, now, id }) {
      const body = json(name, { type: 'contact.created', timestamp: new Date(now).toISOString(), data: { text } });
      const headers = { 'webhook-id': `msg_${id}`, 'webhook-timestamp': `${seconds(now)}` };
      headers['webhook-signature'] = new standardwebhooks.Webhook(secret).sign(`msg_${id}`, new Date(now), body);
      return { body, headers };
    },
  },
  svix: {
    secret: () => 'whsec_' + randomBytes(24).toString('base64'),
    signature: 'svix-signature',
    timed: true,
    deliver({ name, text, secret, now, id }) {
      const body = json(name, { type: 'user.created', data: { id, text } });
      const headers = { 'svix-id': `msg_${id}`, 'svix-timestamp': `${seconds(now)}` };
      headers['svix-signature'] = new svix.Webhook(secret).sign(`msg_${id}`, new Date(now), body);
      return { body, headers };
    },
  },
  twilio: {
    secret: () => randomBytes(16).toString('hex'),
    signature: 'X-Twilio-Signature',
    query: '?tenant=7&lang=de',
    deliver({ text, secret, url, id }) {
      const fields = {
        MessageSid: `SM${id.replaceAll('-', '')}`,
        From: '+14155550100',
        To: '+491700000000',
        Body: text,
        NumMedia: '0',
        SmsStatus: 'received',
      };
      const headers = { 'I-Twilio-Idempotency-Token': id };
      headers['X-Twilio-Signature'] = twilioWebhooks.getExpectedTwilioSignature(secret, url(), fields);
      return { body: form(fields), type: 'application/x-www-form-urlencoded; charset=UTF-8', headers };
    },
  },
  'twilio-json': {
    secretOf: 'twilio',
    signature: 'X-Twilio-Signature',
    deliver({ name, text, secret, url, id }) {
      const body = json(name, [{ type: 'com.twilio.messaging.message.delivered', id, data: { text } }]);
      const query = `?bodySHA256=${twilioWebhooks.getExpectedBodyHash(body)}`;
      const headers = { 'I-Twilio-Idempotency-Token': id };
      headers['X-Twilio-Signature'] = twilioWebhooks.getExpectedTwilioSignature(secret, url(query), {});
      return { body, query, headers };
    },
  },
  line: {
    secret: () => randomBytes(16).toString('hex'),
    signature: 'X-Line-Signature',
    deliver({ name, text, secret, now, id }) {
      const event = { type: 'message', webhookEventId: id, timestamp: now, deliveryContext: { isRedelivery: false } };
      const body = json(name, { destination: 'U0', events: [{ ...event, message: { type: 'text', text } }] });
      return { body, headers: { 'X-Line-Signature': hmac('sha256', secret, body, 'base64') } };
    },
  },
  hubspot: {
    secret: randomUUID,
    signature: 'X-HubSpot-Signature-v3',
    timed: true,
    query: '?portal=62515&name=a%20b',
    deliver({ name, text, secret, url, now, id }) {
      const body = hubspotEvents(name, text, now, id);
      const options = { clientSecret: secret, requestBody: body, url: url(), timestamp: now };
      const signature = hubspot.Signature.getSignature('POST', 'v3', options);
      return { body, headers: { 'X-HubSpot-Request-Timestamp': `${now}`, 'X-HubSpot-Signature-v3': signature } };
    },
  },
  'hubspot-v2': {
    secretOf: 'hubspot',
    signature: 'X-HubSpot-Signature',
    query: '?portal=62515',
    deliver: (delivery) => hubspotPlain('v2', delivery),
  },
  'hubspot-v1': {
    secretOf: 'hubspot',
    signature: 'X-HubSpot-Signature',
    deliver: (delivery) => hubspotPlain('v1', delivery),
  },
  slack: {
    secret: () => randomBytes(16).toString('hex'),
    signature: 'X-Slack-Signature',
    timed: true,
    deliver({ name, text, secret, now, id }) {
      // Events are JSON, slash commands are forms; both are signed as the bytes they are.
      const slash = name === 'crlf';
      const event = { type: 'event_callback', event_id: `Ev${id}`, event: { type: 'message', text } };
      const body = slash ? form({ command: '/deploy', text, trigger_id: id }) : json(name, event);
      const timestamp = `${seconds(now)}`;
      const signature = 'v0=' + hmac('sha256', secret, `v0:${timestamp}:${body}`, 'hex');
      const type = slash ? 'application/x-www-form-urlencoded' : 'application/json';
      return { body, type, headers: { 'X-Slack-Request-Timestamp': timestamp, 'X-Slack-Signature': signature } };
    },
  },
  shopify: {
    secret: () => 'shpss_' + randomBytes(16).toString('hex'),
    signature: 'X-Shopify-Hmac-Sha256',
    deliver({ name, text, secret, now, id }) {
      const body = json(name, { id: 820982911946154508, note: text });
      const headers = {
        'X-Shopify-Topic': 'orders/create',
        'X-Shopify-Shop-Domain': 'example.myshopify.com',
        'X-Shopify-API-Version': '2026-01',
        'X-Shopify-Webhook-Id': id,
        'X-Shopify-Event-Id': randomUUID(),
        'X-Shopify-Triggered-At': new Date(now).toISOString(),
      };
      return { body, headers: { ...headers, 'X-Shopify-Hmac-Sha256': hmac('sha256', secret, body, 'base64') } };
    },
  },
  paddle: {
    secret: () => 'pdl_ntfset_' + randomBytes(24).toString('hex'),
    signature: 'Paddle-Signature',
    timed: true,
    deliver({ name, text, secret, now, id }) {
      const body = json(name, { event_id: `evt_${id}`, event_type: 'transaction.completed', data: { text } });
      const signature = hmac('sha256', secret, `${seconds(now)}:${body}`, 'hex');
      return { body, headers: { 'Paddle-Signature': `ts=${seconds(now)};h1=${signature}` } };
    },
  },
  linear: {
    secret: () => 'lin_wh_' + randomBytes(20).toString('hex'),
    signature: 'Linear-Signature',
    timed: true,
    deliver({ name, text, secret, now, id }) {
      const body = json(name, { action: 'create', type: 'Issue', data: { title: text }, webhookTimestamp: now });
      const headers = { 'Linear-Delivery': id, 'Linear-Event': 'Issue', 'Linear-Timestamp': `${now}` };
      return { body, headers: { ...headers, 'Linear-Signature': hmac('sha256', secret, body, 'hex') } };
    },
  },
};

const pem = (pair) => pair.privateKey.export({ type: 'pkcs8', format: 'pem' });

/** A token over the body and the URL, signed with a shared secret. */
function jwt(claims, secret) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const input = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${input}.${hmac('sha256', secret, input, 'base64url')}`;
}

Object.assign(PROVIDERS, {
  discord: {
    secret: () => pem(generateKeyPairSync('ed25519')),
    public: (secret) =>
      Buffer.from(createPublicKey(secret).export({ format: 'jwk' }).x, 'base64url').toString('hex'),
    signature: 'X-Signature-Ed25519',
    timed: true,
    lax: true,
    deliver({ name, text, secret, now, id }) {
      const body = json(name, { type: 2, id, data: { name: 'say', text } });
      const timestamp = `${seconds(now)}`;
      const signature = sign(null, Buffer.from(timestamp + body), secret).toString('hex');
      return { body, headers: { 'X-Signature-Timestamp': timestamp, 'X-Signature-Ed25519': signature } };
    },
  },
  sendgrid: {
    secret: () => pem(generateKeyPairSync('ec', { namedCurve: 'P-256' })),
    public: (secret) => createPublicKey(secret).export({ type: 'spki', format: 'der' }).toString('base64'),
    signature: 'X-Twilio-Email-Event-Webhook-Signature',
    deliver({ name, text, secret, now, id }) {
      const body = json(name, [{ sg_event_id: id, event: 'delivered', text }]);
      const timestamp = `${seconds(now)}`;
      const signature = sign('sha256', Buffer.from(timestamp + body), secret).toString('base64');
      const headers = { 'X-Twilio-Email-Event-Webhook-Timestamp': timestamp };
      return { body, headers: { ...headers, 'X-Twilio-Email-Event-Webhook-Signature': signature } };
    },
  },
  messagebird: {
    secret: () => randomBytes(16).toString('hex'),
    signature: 'MessageBird-Signature-JWT',
    timed: true,
    query: '?channel=sms&to=%2B49',
    deliver({ name, text, secret, url, now, id }) {
      const body = json(name, { id, type: 'message.received', text });
      const hash = (value) => createHash('sha256').update(value).digest('hex');
      const claims = { iss: 'MessageBird', jti: id, nbf: seconds(now), exp: seconds(now) + 60 };
      const token = jwt({ ...claims, url_hash: hash(url()), payload_hash: hash(body) }, secret);
      return { body, headers: { 'MessageBird-Signature-JWT': token } };
    },
  },
  contentful: {
    secret: () => randomBytes(32).toString('hex'),
    signature: 'x-contentful-signature',
    timed: true,
    query: '?space=a%20b',
    deliver({ name, text, secret, url, now, id }) {
      const body = json(name, { sys: { type: 'Entry', id }, fields: { text } });
      const { pathname, search } = new URL(url());
      const headers = { 'X-Contentful-Topic': 'ContentManagement.Entry.publish' };
      const request = { method: 'POST', path: pathname + search, headers, body };
      return { body, headers: { ...headers, ...signContentful(secret, request, now) } };
    },
  },
  sanity: {
    secret: () => randomBytes(24).toString('hex'),
    signature: 'sanity-webhook-signature',
    timed: true,
    lax: true,
    async deliver({ name, text, secret, now, id }) {
      const body = json(name, { _id: id, _type: 'post', text });
      const signature = await encodeSignatureHeader(body, now, secret);
      return { body, headers: { 'Idempotency-Key': id, 'sanity-webhook-signature': signature } };
    },
  },
  pusher: {
    secret: () => randomBytes(16).toString('hex'),
    signature: 'X-Pusher-Signature',
    timed: true,
    lax: true,
    deliver({ name, text, secret, now, id }) {
      const body = json(name, { time_ms: now, events: [{ name: 'client_event', channel: id, data: text }] });
      return { body, headers: { 'X-Pusher-Key': 'key', 'X-Pusher-Signature': hmac('sha256', secret, body, 'hex') } };
    },
  },
  gocardless: {
    secret: () => randomBytes(20).toString('hex'),
    signature: 'Webhook-Signature',
    deliver({ name, text, secret, id }) {
      const body = json(name, { events: [{ id, resource_type: 'payments', action: 'confirmed', text }] });
      return { body, headers: { 'Webhook-Signature': hmac('sha256', secret, body, 'hex') } };
    },
  },
  razorpay: {
    secret: () => randomBytes(16).toString('hex'),
    signature: 'X-Razorpay-Signature',
    deliver({ name, text, secret, id }) {
      const body = json(name, { entity: 'event', event: 'payment.captured', payload: { text } });
      const headers = { 'X-Razorpay-Event-Id': id };
      return { body, headers: { ...headers, 'X-Razorpay-Signature': hmac('sha256', secret, body, 'hex') } };
    },
  },
});

Object.assign(PROVIDERS, {
  braintree: {
    secret: () => randomBytes(16).toString('hex'),
    // Signature and payload are fields of a form.
    fields: ['bt_signature', 'bt_payload'],
    async deliver({ text, secret, id }) {
      const [publicKey, environment] = ['integration_public_key', braintree.Environment.Sandbox];
      const options = { environment, merchantId: 'unused', publicKey, privateKey: secret };
      const { webhookTesting } = new braintree.BraintreeGateway(options);
      const sample = await webhookTesting.sampleNotification(braintree.WebhookNotification.Kind.Check, id);
      const xml = Buffer.from(sample.bt_payload, 'base64').toString();
      const note = text.replace(/[<&\u0001]/g, '') + id; // two notifications of one kind are the same text otherwise
      const payload = Buffer.from(xml.replace('</notification>', `<note>${note}</note></notification>`));
      const bt_payload = payload.toString('base64') + '\n';
      const body = form({ bt_signature: await webhookTesting.sampleSignature(bt_payload), bt_payload });
      return { body, type: 'application/x-www-form-urlencoded', headers: {} };
    },
  },
  cloudinary: {
    secret: () => randomBytes(20).toString('hex'),
    signature: 'X-Cld-Signature',
    deliver({ name, text, secret, now, id }) {
      const body = json(name, { notification_type: 'upload', request_id: id, context: { text } });
      const options = { api_secret: secret, signature_algorithm: 'sha1' };
      const signature = cloudinary.utils.webhook_signature(body, seconds(now), options);
      return { body, headers: { 'X-Cld-Timestamp': `${seconds(now)}`, 'X-Cld-Signature': signature } };
    },
  },
  workos: {
    secret: () => randomBytes(24).toString('base64url'),
    signature: 'WorkOS-Signature',
    timed: true,
    async deliver({ name, text, secret, now, id }) {
      const body = json(name, { id: `event_${id}`, event: 'user.created', data: { text } });
      const { webhooks } = new WorkOS('sk_unused', { clientId: 'client_unused' });
      return { body, headers: { 'WorkOS-Signature': `t=${now}, v1=${await webhooks.computeSignature(now, body, secret)}` } };
    },
  },
  mux: {
    secret: () => randomBytes(16).toString('hex'),
    signature: 'Mux-Signature',
    timed: true,
    deliver({ name, text, secret, now, id }) {
      const body = json(name, { id, type: 'video.asset.ready', data: { passthrough: text } });
      const signature = hmac('sha256', secret, `${seconds(now)}.${body}`, 'hex');
      return { body, headers: { 'Mux-Signature': `t=${seconds(now)},v1=${signature}` } };
    },
  },
  notion: {
    secret: () => 'secret_' + randomBytes(24).toString('hex'),
    signature: 'X-Notion-Signature',
    async deliver({ name, text, secret, id }) {
      const body = json(name, { id, type: 'page.created', data: { text } });
      return { body, headers: { 'X-Notion-Signature': await signNotion({ body, verificationToken: secret }) } };
    },
  },
});

function hubspotEvents(name, text, now, id) {
  const eventId = parseInt(id.slice(0, 8), 16);
  return json(name, { eventId, attemptNumber: 0, occurredAt: now, subscriptionType: 'contact.creation', text });
}

function hubspotPlain(version, { name, text, secret, url, now, id }) {
  const body = hubspotEvents(name, text, now, id);
  const options = { clientSecret: secret, requestBody: body, url: url() };
  const signature = hubspot.Signature.getSignature('POST', version, options);
  return { body, headers: { 'X-HubSpot-Signature-Version': version, 'X-HubSpot-Signature': signature } };
}

/** A field of a form with another letter in its midst, or none. */
function bend(delivery, field, { without = false } = {}) {
  const fields = new URLSearchParams(delivery.body);
  const value = fields.get(field);
  const at = value.length >> 1;
  if (without) fields.delete(field);
  else fields.set(field, value.slice(0, at) + (value[at] === 'a' ? 'b' : 'a') + value.slice(at + 1));
  return { ...delivery, body: fields.toString() };
}

/** What an attacker tries with a delivery; `timed` ones only where the sender signs the time. */
const FORGERIES = {
  'body changed': (delivery, { fields }) =>
    fields ? bend(delivery, fields[1]) : { ...delivery, body: delivery.body.replace('paid', 'free') },
  'byte appended': (delivery) => ({ ...delivery, body: delivery.body + ' ' }),
  'signature changed': (delivery, provider) => {
    if (provider.fields) return bend(delivery, provider.fields[0]);
    const value = delivery.headers[provider.signature];
    const at = value.length - 10; // within the digest in every form: hex, base64, last of a list
    const changed = value.slice(0, at) + (value[at] === 'a' ? 'b' : 'a') + value.slice(at + 1);
    return { ...delivery, headers: { ...delivery.headers, [provider.signature]: changed } };
  },
  unsigned: (delivery, provider) => {
    if (provider.fields) return bend(delivery, provider.fields[0], { without: true });
    const { [provider.signature]: _, ...headers } = delivery.headers;
    return { ...delivery, headers };
  },
};

const agents = { 'http:': new http.Agent({ keepAlive: true }), 'https:': new https.Agent({ keepAlive: true }) };

/** Node's `http`, not `fetch`: the target must go out exactly as it was signed. */
function post(base, path, headers, body) {
  const { protocol, hostname, port } = new URL(base);
  const client = protocol === 'https:' ? https : http;
  return new Promise((resolve) => {
    const options = { method: 'POST', hostname, port, path, headers, agent: agents[protocol], timeout: 20_000 };
    const request = client.request(options, async (response) => {
      const answer = await text(response).catch(String);
      resolve({ status: response.statusCode, answer: answer.slice(0, 300) });
    });
    request.on('timeout', () => request.destroy(new Error('no answer within 20 s')));
    request.on('error', (error) => resolve({ status: null, answer: String(error.message) }));
    request.end(body);
  });
}

if (process.argv[2] === '--secrets') {
  const own = Object.entries(PROVIDERS).filter(([, provider]) => provider.secret);
  const secrets = Object.fromEntries(own.map(([name, provider]) => [name, provider.secret()]));
  const pairs = own.filter(([, provider]) => provider.public);
  const keys = Object.fromEntries(pairs.map(([name, provider]) => [name, provider.public(secrets[name])]));
  console.log(JSON.stringify({ ...secrets, public: keys }));
} else {
  const {
    base,
    public_base: publicBase,
    secrets,
    paths = {},
    headers: extra = {},
  } = JSON.parse(await text(process.stdin));
  const wanted = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(PROVIDERS);
  const results = [];
  for (const name of wanted) {
    const provider = PROVIDERS[name];
    if (!provider) throw new Error(`unknown provider ${name}; known: ${Object.keys(PROVIDERS).join(', ')}`);
    const path = paths[name] ?? `/webhook/${name}`;
    const secret = secrets[provider.secretOf ?? name];
    const deliver = (text, { now = Date.now(), key = secret } = {}) => {
      const url = (query = provider.query ?? '') => publicBase + path + query;
      return provider.deliver({ name: text, text: TEXTS[text], secret: key, now, id: randomUUID(), url });
    };
    const send = async (title, expect, delivery) => {
      const { body, query = provider.query ?? '', type = 'application/json' } = delivery;
      const bytes = Buffer.from(body);
      const headers = { ...extra, 'Content-Type': type, 'Content-Length': bytes.length, ...delivery.headers };
      const outcome = await post(base, path + query, headers, bytes);
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      // Some SDKs leave the time to their callers.
      const lax = provider.lax && title === 'an hour old' ? { sdk: 'accept' } : {};
      results.push({ provider: name, case: title, expect, ...lax, ...outcome, sha256, bytes: bytes.length });
    };

    for (const text of Object.keys(TEXTS)) await send(text, 'accept', await deliver(text));
    for (const [title, forge] of Object.entries(FORGERIES)) {
      await send(title, 'refuse', forge(await deliver('plain'), provider));
    }
    const stranger = PROVIDERS[provider.secretOf ?? name].secret();
    await send('wrong secret', 'refuse', await deliver('plain', { key: stranger }));
    if (provider.timed) await send('an hour old', 'refuse', await deliver('plain', { now: Date.now() - 3_600_000 }));
  }
  console.log(JSON.stringify(results));
  for (const agent of Object.values(agents)) agent.destroy();
}
