// A chatbot's webhook that verifies nothing itself: whatever arrives here was verified, is recent, and came once.
const express = require('express');

const app = express();
app.use(express.json({ limit: '1mb' }));

app.post('/webhooks/slack', (request, response) => {
  const { event = {} } = request.body;
  const id = request.get('hookmoat-event-id') ?? '-';
  // The sender waits three seconds at most: answer first, think later.
  response.sendStatus(200);
  console.log(`${id} ${event.type ?? 'unknown'}: ${event.text ?? ''}`);
});

// Only the sidecar asks, and only on loopback.
const server = app.listen(Number(process.env.PORT ?? 3000), process.env.HOST ?? '127.0.0.1');
process.on('SIGTERM', () => server.close(() => process.exit(0)));
