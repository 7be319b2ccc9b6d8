// `npm test`: the senders against the backend with nothing in between. When the integration test fails and this one
// does not, the fault is Hookmoat's; when both fail, look at the SDKs. Shows failures only; `-v` shows every case,
// further arguments are the providers wanted.

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import readline from 'node:readline';

const script = (name) => fileURLToPath(new URL(name, import.meta.url));
const node = (args, input) => {
  const { status, stdout } = spawnSync(process.execPath, args, {
    input,
    stdio: ['pipe', 'pipe', 'inherit'],
    maxBuffer: 1 << 26,
  });
  if (status !== 0) throw new Error(`${args.join(' ')} ended with ${status}`);
  return JSON.parse(stdout);
};

const verbose = process.argv.includes('-v');
const providers = process.argv.slice(2).filter((argument) => argument !== '-v');
const secrets = node([script('sign.js'), '--secrets']);
const public_base = 'https://hooks.example.com';
const app = spawn(process.execPath, [script('app.js')], { stdio: ['pipe', 'pipe', 'inherit'] });
app.stdin.write(JSON.stringify({ secrets, public_base }) + '\n');
const [line] = await once(readline.createInterface({ input: app.stdout }), 'line');
const { port, control } = JSON.parse(line);

const results = node(
  [script('sign.js'), ...providers],
  JSON.stringify({ base: `http://127.0.0.1:${port}`, public_base, secrets }),
);
const { requests } = await (await fetch(`http://127.0.0.1:${control}/seen`)).json();
app.stdin.end();

let failed = 0;
results.forEach((result, i) => {
  const expect = result.sdk ?? result.expect;
  const wanted = expect === 'accept' ? 200 : 400;
  const seen = requests[i];
  const ok =
    result.status === wanted && seen?.sha256 === result.sha256 && seen.verified === (expect === 'accept');
  if (!ok) failed++;
  const why = ok ? '' : `   <- wanted ${wanted}${seen?.error ? `, backend: ${seen.error}` : ''}`;
  if (!ok || verbose)
    console.log(
      `${ok ? 'ok  ' : 'FAIL'} ${result.provider.padEnd(18)} ${result.case.padEnd(18)} ${result.status}${why}`,
    );
});
console.log(`${results.length - failed} passed, ${failed} failed`);
process.exit(failed || !results.length ? 1 : 0);
