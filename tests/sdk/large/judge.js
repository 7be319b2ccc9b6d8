// Official SDKs that are whole API clients (330 MB of them), as judges: what an SDK accepts or refuses, the preset does, too.
// They are too large for every test run; `make test-large-sdks` installs and asks them.
//
//   node judge.js path/to/hookmoat
//
// Each sender signs here as its documentation says. The SDK has to accept that and refuse the forgery, or the reading of the
// documentation is wrong; `hookmoat vectors` has to say the same of both, or the preset is.

import { createHash, createHmac, generateKeyPairSync, randomBytes, sign, X509Certificate } from 'node:crypto';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { Environment, SignedDataVerifier } from '@apple/app-store-server-library';
import { ElevenLabsClient } from '@elevenlabs/elevenlabs-js';
import * as lark from '@larksuiteoapi/node-sdk';
import { AppStrategy } from '@wix/sdk';
import { ChatbotClient } from '@zoom/rivet/chatbot';
import { Cashfree } from 'cashfree-pg';
import { OAuth2Client } from 'google-auth-library';
import plivo from 'plivo';
import { StreamChat } from 'stream-chat';
import Telnyx from 'telnyx';

const hookmoat = path.resolve(process.argv[2] ?? '../../../target/debug/hookmoat');
const now = Math.floor(Date.now() / 1000);
const hmac = (key, message, encoding) => createHmac('sha256', key).update(message).digest(encoding);
const secret = randomBytes(20).toString('hex');
const TEXT = 'Grüße aus 東京 🚀 a=b&c';

// RS256 tokens, for those that verify with a key of the sender's.
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
const pem = rsa.publicKey.export({ format: 'pem', type: 'spki' });
const base64url = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
function token(claims, kid) {
  const text = `${base64url({ alg: 'RS256', typ: 'JWT', kid })}.${base64url(claims)}`;
  return `${text}.${sign('RSA-SHA256', Buffer.from(text), rsa.privateKey).toString('base64url')}`;
}
/** The same with other claims under the same signature. */
function forged(text, change) {
  const [head, claims, tag] = text.split('.');
  const changed = { ...JSON.parse(Buffer.from(claims, 'base64url')), ...change };
  return [head, base64url(changed), tag].join('.');
}

const cases = [];
/** A sender: its request and a forged one, what the preset is given, and how the SDK judges a request. */
function sender(provider, known, [good, bad], judge) {
  const request = (one) => ({ method: 'POST', url: null, ...one, headers: { ...one.headers } });
  cases.push({ provider, known, good: request(good), bad: request(bad), judge });
}
const json = (value) => JSON.stringify({ ...value, text: TEXT });
const other = (request, change = (body) => body.replace('🚀', '🚁')) => ({ ...request, body: change(request.body) });

{
  const client = new ElevenLabsClient({ apiKey: 'unused' });
  const body = json({ type: 'post_call_transcription', data: { conversation_id: 'c' } });
  const good = { body, headers: { 'ElevenLabs-Signature': `t=${now},v0=${hmac(secret, `${now}.${body}`, 'hex')}` } };
  sender('elevenlabs', { secrets: [secret] }, [good, other(good)], ({ body, headers }) =>
    client.webhooks.constructEvent(body, headers['ElevenLabs-Signature'], secret),
  );
}
{
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const key = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32).toString('base64');
  const client = new Telnyx({ apiKey: 'unused', publicKey: key });
  const body = json({ data: { id: '1', event_type: 'message.received' } });
  const signature = sign(null, Buffer.from(`${now}|${body}`), privateKey).toString('base64');
  const good = { body, headers: { 'telnyx-signature-ed25519': signature, 'telnyx-timestamp': String(now) } };
  sender('telnyx', { public_key: key }, [good, other(good)], ({ body, headers }) =>
    client.webhooks.unwrap(body, { headers, key }),
  );
}
{
  // The SDK judges JSON written anew, which is the same here.
  const { requestHandle } = new lark.EventDispatcher({ encryptKey: secret, loggerLevel: lark.LoggerLevel.error });
  const body = JSON.stringify({ encrypt: 'AAECAwQ=' });
  const signature = createHash('sha256').update(`${now}nonce${secret}${body}`).digest('hex');
  const headers = {
    'x-lark-request-timestamp': String(now),
    'x-lark-request-nonce': 'nonce',
    'x-lark-signature': signature,
  };
  const good = { body, headers };
  sender('lark-feishu', { secrets: [secret] }, [good, other(good, (body) => body.replace('AAEC', 'BAEC'))], (request) =>
    requestHandle.checkIsEventValidated(Object.assign(Object.create({ headers: request.headers }), JSON.parse(request.body))),
  );
}
{
  const strategy = AppStrategy({ appId: 'app', appSecret: 'unused', publicKey: pem });
  const body = token({ data: json({}), iat: now, exp: now + 600 });
  const good = { body, headers: { 'Content-Type': 'text/plain' } };
  sender('wix', { public_key: pem }, [good, other(good, (body) => forged(body, { data: '{}' }))], ({ body }) =>
    strategy.decodeJWT(body),
  );
}
{
  const client = new OAuth2Client();
  const issuers = ['https://accounts.google.com', 'accounts.google.com'];
  const [aud, email] = ['https://hooks.example.com/push', 'push@project.iam.gserviceaccount.com'];
  const bearer = token({ iss: issuers[0], aud, email, email_verified: true, iat: now, exp: now + 600, sub: '1' }, 'k');
  const body = '{"message":{"messageId":"1"}}';
  const keys = { keys: [{ ...rsa.publicKey.export({ format: 'jwk' }), kid: 'k', alg: 'RS256', use: 'sig' }] };
  const request = (text) => ({ body, headers: { Authorization: `Bearer ${text}` } });
  const requests = [request(bearer), request(forged(bearer, { email: 'somebody@example.com' }))];
  sender('google-pubsub', { public_key: JSON.stringify(keys), claims: { aud, email } }, requests, ({ headers }) =>
    client.verifySignedJwtWithCertsAsync(headers.Authorization.slice(7), { k: pem }, aud, issuers),
  );
}
{
  const client = new Cashfree(1, 'unused', secret);
  const body = json({ type: 'PAYMENT_SUCCESS_WEBHOOK', data: { amount: 1.5 } });
  const time = String(now * 1000);
  const good = {
    body,
    headers: { 'X-Webhook-Signature': hmac(secret, time + body, 'base64'), 'X-Webhook-Timestamp': time },
  };
  sender('cashfree', { secrets: [secret] }, [good, other(good)], ({ body, headers }) =>
    client.PGVerifyWebhookSignature(headers['X-Webhook-Signature'], body, headers['X-Webhook-Timestamp']),
  );
}
{
  const client = new StreamChat('unused', secret);
  const body = json({ type: 'message.new' });
  const good = { body, headers: { 'X-Signature': hmac(secret, body, 'hex'), 'X-Webhook-Id': 'w1' } };
  sender('getstream-chat', { secrets: [secret] }, [good, other(good)], ({ body, headers }) =>
    client.verifyWebhook(body, headers['X-Signature']),
  );
}
// Plivo signs the URL with its query sorted and, for a POST, the fields behind it, sorted.
for (const [method, query, fields, signed] of [
  ['POST', '', { To: '2', From: '1', Text: TEXT }, `?From1Text${TEXT}To2`],
  ['POST', '?b=2&a=1', { z: '1', a: 'x' }, '?a=1&b=2.axz1'],
  ['POST', '?q=%C3%A9', { k: 'v' }, '?q=é.kv'],
  ['POST', '', {}, ''],
  ['GET', '?b=2&a=1', {}, '?a=1&b=2'],
  ['GET', '', {}, ''],
]) {
  const url = 'https://hooks.example.com/plivo';
  const request = (text) => ({
    method,
    url: url + query,
    body: method === 'POST' ? new URLSearchParams(fields).toString() : '',
    headers: {
      'X-Plivo-Signature-V3': hmac(secret, `${url}${text}.12345`, 'base64'),
      'X-Plivo-Signature-V3-Nonce': '12345',
      'Content-Type': 'application/x-www-form-urlencoded',
    },
  });
  sender('plivo', { secrets: [secret] }, [request(signed), request(`${signed}x`)], ({ headers }) =>
    plivo.validateV3Signature(method, url + query, '12345', secret, headers['X-Plivo-Signature-V3'], fields),
  );
}
{
  // A real notification of Apple's, from the preset: nobody else has a key under Apple's root.
  const preset = readFileSync(new URL('../../../config/providers/apple-app-store.yaml', import.meta.url), 'utf8');
  const [, signedPayload] = preset.match(/"signedPayload":"([^"]+)"/);
  const at = Number(preset.match(/\bat: (\d+)/)[1]);
  const { bundleId, environment } = JSON.parse(Buffer.from(signedPayload.split('.')[1], 'base64url')).data;
  const shown = execFileSync(hookmoat, ['providers', 'apple-app-store', '--json'], { encoding: 'utf8' });
  const root = new X509Certificate(JSON.parse(shown).signature.token.x5c.roots).raw;
  const verifier = new SignedDataVerifier([root], false, Environment.SANDBOX, bundleId);
  const request = (signedPayload) => ({ body: JSON.stringify({ signedPayload }), headers: {} });
  const requests = [request(signedPayload), request(forged(signedPayload, { version: '2.1' }))];
  sender('apple-app-store', { claims: { bundleId, environment }, at }, requests, ({ body }) =>
    verifier.verifyAndDecodeNotification(JSON.parse(body).signedPayload),
  );
}
{
  // The SDK is a server of its own. It answers, or it does not.
  const port = await new Promise((done) => {
    const free = createServer().listen(0, '127.0.0.1', () => {
      const { port } = free.address();
      free.close(() => done(port));
    });
  });
  const unused = { clientId: 'unused', clientSecret: 'unused' };
  const client = new ChatbotClient({ ...unused, webhooksSecretToken: secret, port });
  await client.start();
  const body = json({ event: 'meeting.started', event_ts: now * 1000, payload: {} });
  const signature = `v0=${hmac(secret, `v0:${now}:${body}`, 'hex')}`;
  const headers = {
    'x-zm-signature': signature,
    'x-zm-request-timestamp': String(now),
    'Content-Type': 'application/json',
  };
  const good = { body, headers };
  sender('zoom', { secrets: [secret] }, [good, other(good)], async (request) => {
    const answer = await fetch(`http://127.0.0.1:${port}/zoom/events`, { method: 'POST', ...request });
    return answer.ok;
  });
}

/** Does the SDK take it? Some answer, some throw. */
async function taken(judge, request) {
  try {
    return (await judge(request)) !== false;
  } catch {
    return false;
  }
}

const folder = mkdtempSync(path.join(tmpdir(), 'hookmoat-sdks-'));
let failed = 0;
for (const { provider, known, good, bad, judge } of cases) {
  const file = path.join(folder, 'vectors.json');
  const vector = (request, expect) => ({ provider, at: now, ...known, request, expect });
  writeFileSync(file, JSON.stringify({ vectors: [vector(good, 'accept'), vector(bad, 'reject')] }));
  const ours = spawnSync(hookmoat, ['vectors', file], { encoding: 'utf8' });
  const sdk = [await taken(judge, good), await taken(judge, bad)];
  const ok = sdk[0] && !sdk[1] && ours.status === 0;
  if (!ok) failed++;
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${provider}`);
  if (!ok) console.log(`  the SDK accepts: ${sdk}\n${ours.stdout}${ours.stderr}`);
}
rmSync(folder, { recursive: true });
console.log(`${cases.length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
