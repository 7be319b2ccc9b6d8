// A backend as a tutorial would write it: Express, one route for each sender, each verifying with that sender's own SDK
// on the bytes that arrived. It stands behind Hookmoat in the tests and does not know it: whatever verified in front
// must verify again here, or Hookmoat changed the request on the way.
//
// Reads one line of JSON from stdin:   {"secrets": {"stripe": "whsec_…", …}, "public_base": "https://hooks.example.com"}
// Prints one line of JSON to stdout:   {"port": 12345, "control": 12346}
// Answers 200 {"ok":true} or 400 {"ok":false} on POST /webhook/<provider>, and on the control port:
//   GET /seen      {"connections": 3, "requests": [{"provider", "verified", "sha256", "bytes", "url", "headers"}, …]}
//   DELETE /seen   forgets them
// Ends when its stdin ends, so that a test that is killed leaves nothing behind.

import { createHash, createSecretKey, webcrypto } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import readline from 'node:readline';

import express from 'express';
import Stripe from 'stripe';
import { verify as verifyGitHub } from '@octokit/webhooks-methods';
import * as standardwebhooks from 'standardwebhooks';
import * as svix from 'svix';
import twilio from 'twilio';
import { validateSignature as validateLine } from '@line/bot-sdk';
import hubspot from '@hubspot/api-client';
import slack from '@slack/bolt';
import '@shopify/shopify-api/adapters/node';
import { ApiVersion, shopifyApi } from '@shopify/shopify-api';
import { Environment, LogLevel, Paddle } from '@paddle/paddle-node-sdk';
import { LinearWebhookClient } from '@linear/sdk/webhooks';
import { verifyKey } from 'discord-interactions';
import { EventWebhook } from '@sendgrid/eventwebhook';
import messagebird from 'messagebird/lib/webhook-signature-jwt.js';
import { verifyRequest as verifyContentful } from '@contentful/node-apps-toolkit';
import { isValidSignature } from '@sanity/webhook';
import Pusher from 'pusher';
import * as gocardless from 'gocardless-nodejs/webhooks';
import Razorpay from 'razorpay';
import braintree from 'braintree';
import { v2 as cloudinary } from 'cloudinary';
import { WorkOS } from '@workos-inc/node';
import Mux from '@mux/mux-node';
import { verifyWebhookSignature as verifyNotion } from '@notionhq/client';

const stdin = readline.createInterface({ input: process.stdin });
const [line] = await once(stdin, 'line');
stdin.on('close', () => process.exit(0));
const { secrets, public_base: publicBase } = JSON.parse(line);

globalThis.crypto ??= webcrypto; // Node 18 has it only here, and Shopify's SDK expects the global

const app = express();
const seen = [];
let connections = 0;

function webhook(provider, verify) {
  app.post(`/webhook/${provider}`, express.raw({ type: '*/*', limit: '30mb', inflate: false }), async (req, res) => {
    const body = Buffer.isBuffer(req.body) ? req.body : Buffer.alloc(0);
    let verified = false;
    let error;
    try {
      verified = (await verify(body, req, res)) !== false;
    } catch (e) {
      error = String(e.message).split('\n')[0];
    }
    seen.push({
      provider,
      verified,
      error,
      sha256: createHash('sha256').update(body).digest('hex'),
      bytes: body.length,
      url: req.originalUrl,
      headers: req.headers,
    });
    res.status(verified ? 200 : 400).json({ ok: verified });
  });
}

/** The URL as the sender was given it. A backend behind any proxy has to know it; Host and scheme are the proxy's. */
const publicUrl = (req) => publicBase + req.originalUrl;

webhook('stripe', (body, req) => {
  const stripe = new Stripe('sk_test_unused');
  return Boolean(stripe.webhooks.constructEvent(body, req.get('Stripe-Signature'), secrets.stripe));
});

webhook('github', (body, req) => verifyGitHub(secrets.github, body.toString(), req.get('X-Hub-Signature-256')));

webhook('standard-webhooks', (body, req) => {
  new standardwebhooks.Webhook(secrets['standard-webhooks']).verify(body, req.headers);
});

webhook('svix', (body, req) => {
  new svix.Webhook(secrets.svix).verify(body, req.headers);
});

// The two forms of Twilio's scheme are told apart as in the SDK's own middleware. It wants the fields as an object.
function verifyTwilio(body, req) {
  const url = publicUrl(req);
  const signature = req.get('X-Twilio-Signature');
  if (req.query.bodySHA256) {
    return twilio.validateRequestWithBody(secrets.twilio, signature, url, body.toString());
  }
  return twilio.validateRequest(
    secrets.twilio,
    signature,
    url,
    Object.fromEntries(new URLSearchParams(body.toString())),
  );
}
webhook('twilio', verifyTwilio);
webhook('twilio-json', verifyTwilio);

webhook('line', (body, req) => validateLine(body, secrets.line, req.get('X-Line-Signature')));

function verifyHubSpot(signatureVersion) {
  const header = signatureVersion === 'v3' ? 'X-HubSpot-Signature-v3' : 'X-HubSpot-Signature';
  return (body, req) =>
    hubspot.Signature.isValid({
      signatureVersion,
      method: req.method,
      clientSecret: secrets.hubspot,
      requestBody: body.toString(),
      url: publicUrl(req),
      timestamp: Number(req.get('X-HubSpot-Request-Timestamp')),
      signature: req.get(header),
    });
}
webhook('hubspot', verifyHubSpot('v3'));
webhook('hubspot-v2', verifyHubSpot('v2'));
webhook('hubspot-v1', verifyHubSpot('v1'));

webhook('slack', (body, req) => {
  slack.verifySlackRequest({ signingSecret: secrets.slack, body: body.toString(), headers: req.headers });
});

const shopify = shopifyApi({
  apiKey: 'unused',
  apiSecretKey: secrets.shopify,
  apiVersion: Object.values(ApiVersion).at(-1),
  hostName: 'hooks.example.com',
  isEmbeddedApp: false,
  logger: { log: () => {} },
});
webhook('shopify', async (body, req, res) => {
  const { valid } = await shopify.webhooks.validate({ rawBody: body.toString(), rawRequest: req, rawResponse: res });
  return valid;
});

const paddle = new Paddle('unused', { environment: Environment.sandbox, logLevel: LogLevel.none });
webhook('paddle', (body, req) =>
  paddle.webhooks.isSignatureValid(body.toString(), secrets.paddle, req.get('Paddle-Signature')),
);

webhook('linear', (body, req) => new LinearWebhookClient(secrets.linear).verify(body, req.get('Linear-Signature')));

webhook('discord', (body, req) =>
  verifyKey(body, req.get('X-Signature-Ed25519'), req.get('X-Signature-Timestamp'), secrets.public.discord),
);

const sendgrid = new EventWebhook();
const sendgridKey = sendgrid.convertPublicKeyToECDSA(secrets.public.sendgrid);
webhook('sendgrid', (body, req) => {
  const [signature, timestamp] = ['Signature', 'Timestamp'].map((name) => req.get(`X-Twilio-Email-Event-Webhook-${name}`));
  return sendgrid.verifySignature(sendgridKey, body.toString(), signature, timestamp);
});

const messagebirdKey = createSecretKey(Buffer.from(secrets.messagebird));
webhook('messagebird', (body, req) =>
  messagebird.verify(publicUrl(req), body, req.get('MessageBird-Signature-JWT'), messagebirdKey),
);

webhook('contentful', (body, req) => {
  const request = { method: req.method, path: req.originalUrl, headers: req.headers, body: body.toString() };
  return verifyContentful(secrets.contentful, request);
});

webhook('sanity', (body, req) =>
  isValidSignature(body.toString(), req.get('sanity-webhook-signature'), secrets.sanity),
);

const pusher = new Pusher({ appId: '1', key: 'key', secret: secrets.pusher });
webhook('pusher', (body, req) => pusher.webhook({ headers: req.headers, rawBody: body.toString() }).isValid());

webhook('gocardless', (body, req) =>
  Array.isArray(gocardless.parse(body.toString(), secrets.gocardless, req.get('Webhook-Signature'))),
);

webhook('razorpay', (body, req) =>
  Razorpay.validateWebhookSignature(body.toString(), req.get('X-Razorpay-Signature'), secrets.razorpay),
);

webhook('braintree', async (body) => {
  const fields = new URLSearchParams(body.toString());
  const [publicKey, privateKey] = ['integration_public_key', secrets.braintree];
  const environment = braintree.Environment.Sandbox;
  const gateway = new braintree.BraintreeGateway({ environment, merchantId: 'unused', publicKey, privateKey });
  const { kind } = await gateway.webhookNotification.parse(fields.get('bt_signature'), fields.get('bt_payload'));
  return kind === 'check';
});

webhook('cloudinary', (body, req) => {
  cloudinary.config({ api_secret: secrets.cloudinary, signature_algorithm: 'sha1' });
  const [timestamp, signature] = ['Timestamp', 'Signature'].map((name) => req.get(`X-Cld-${name}`));
  return cloudinary.utils.verifyNotificationSignature(body.toString(), Number(timestamp), signature);
});

const workos = new WorkOS('sk_unused', { clientId: 'client_unused' });
webhook('workos', (body, req) => {
  const sigHeader = req.get('WorkOS-Signature');
  return workos.webhooks.verifyHeader({ payload: body.toString(), sigHeader, secret: secrets.workos });
});

const mux = new Mux({ tokenId: 'unused', tokenSecret: 'unused' });
webhook('mux', async (body, req) => {
  await mux.webhooks.verifySignature(body.toString(), req.headers, secrets.mux);
});

webhook('notion', (body, req) =>
  verifyNotion({ body, signature: req.get('X-Notion-Signature'), verificationToken: secrets.notion }),
);

const control = http.createServer((req, res) => {
  if (req.url !== '/seen') return res.writeHead(404).end();
  if (req.method === 'DELETE') {
    seen.length = 0;
    connections = 0;
    return res.writeHead(204).end();
  }
  res.setHeader('Content-Type', 'application/json');
  res.end(JSON.stringify({ connections, requests: seen }));
});

const server = http.createServer(app);
server.on('connection', () => connections++);
const listen = (s) => new Promise((done) => s.listen(0, '127.0.0.1', () => done(s.address().port)));
console.log(JSON.stringify({ port: await listen(server), control: await listen(control) }));
