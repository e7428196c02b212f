// node measure.mjs WORK: times one forward of WORK/model.onnx with WORK/node_modules/onnxruntime-web in Chromium, and, if
// HILDA is the address of a running server, a forward of its demo model over as many positions in the same browser.
import fs from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';

const work = path.resolve(process.argv[2]);
const { chromium } = createRequire(path.join(work, 'measure.js'))('playwright-core');
const [warmup, runs] = [3, 25];

const PAGE = `<!doctype html><script type="module">
import * as ort from '/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs';
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = '/node_modules/onnxruntime-web/dist/';
const session = await ort.InferenceSession.create('/model.onnx', { executionProviders: ['wasm'], graphOptimizationLevel: 'all' });
const ids = new ort.Tensor('int64', BigInt64Array.from({ length: 128 }, (_, i) => BigInt((i * 37) % 4096)), [1, 128]);
const times = [];
let sum = 0;
for (let i = 0; i < ${warmup + runs}; i++) {
  const start = performance.now();
  const { logits } = await session.run({ ids });
  if (i >= ${warmup}) times.push(performance.now() - start);
  sum += logits.data[i];
}
globalThis.result = { times, sum };
</script>`;

const TYPES = { '.mjs': 'text/javascript', '.js': 'text/javascript', '.wasm': 'application/wasm' };
/** Mean milliseconds of a forward over 128 positions in the playground: 8 of the prompt, 120 written, each sees all, no draws. */
async function ours(browser, address, simd, device = 'wasm') {
  const page = await (await browser.newContext()).newPage();
  const done = () => page.waitForFunction(() => {
    const counters = document.querySelector('.counters')?.innerText ?? '';
    return /step (\d+) of \1\s·\s0 masked/.test(counters.replaceAll('\n', ' '));
  }, null, { timeout: 300_000, polling: 500 });
  await page.goto(`${address}/?device=${device}&simd=${simd}`);
  await done();
  await page.getByRole('button', { name: 'the whole text' }).click();
  // no draws: onnxruntime computes logits only
  await page.getByRole('slider', { name: /^Temperature/ }).fill('0');
  await page.getByRole('slider', { name: /^Length/ }).fill('120');
  await page.locator('#prompt').fill('Once upon a time, there was');
  await page.locator('#prompt').press('Enter');
  await page.waitForTimeout(2000);
  await done();
  const said = await page.locator('body').innerText();
  const milliseconds = Number(/(\d+) ms \/ forward/.exec(said)[1]);
  const positions = await page.locator('.canvas .tok').count();
  await page.context().close();
  return { mean_ms: milliseconds, positions_shown: positions };
}

const server = http.createServer((request, response) => {
  const name = decodeURIComponent(new URL(request.url, 'http://x').pathname);
  if (name === '/') return response.writeHead(200, { 'content-type': 'text/html' }).end(PAGE);
  const file = path.join(work, path.normalize(name));
  if (!file.startsWith(work) || !fs.existsSync(file)) return response.writeHead(404).end();
  response.writeHead(200, { 'content-type': TYPES[path.extname(file)] ?? 'application/octet-stream' });
  fs.createReadStream(file).pipe(response);
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: ['--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--disable-quic', '--disable-gpu', ...(process.getuid?.() === 0 ? ['--no-sandbox'] : [])],
});
try {
  const page = await browser.newPage();
  page.on('pageerror', (error) => console.error(`page: ${error.message}`));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  const handle = await page.waitForFunction(() => globalThis.result, null, { timeout: 300_000 });
  const { times, sum } = await handle.jsonValue();
  if (!Number.isFinite(sum)) throw new Error('the logits are not finite');
  await page.close();
  times.sort((a, b) => a - b);
  console.log(JSON.stringify({
    peer: 'onnxruntime-web 1.30.0',
    model: '9.4 M float32',
    positions: 128,
    threads: 1,
    runs: times.length,
    median_ms: Number(times[times.length >> 1].toFixed(2)),
    min_ms: Number(times[0].toFixed(2)),
    browser: browser.version(),
    hilda: process.env.HILDA ? {
      relaxed: await ours(browser, process.env.HILDA, 'relaxed'),
      plain: await ours(browser, process.env.HILDA, 'plain'),
      relaxed_int8: await ours(browser, process.env.HILDA, 'relaxed', 'wasm-int8'),
      plain_int8: await ours(browser, process.env.HILDA, 'plain', 'wasm-int8'),
    } : null,
  }));
} finally {
  await browser.close();
  server.close();
}
