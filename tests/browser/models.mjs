// Models of any size: listed, opened in pieces, kept by the browser, forgotten, and run on the server.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { Server, folder, launch, shot, until, visit } from './harness.mjs';
import * as playground from './playground.mjs';

const LIMIT = { timeout: 420_000 };
const NAME = 'test/wide';

/** A random model of 24 layers with the demo model's tokenizer: int8 rows of it take two pieces. */
function writeModel(to) {
  const demo = 'public/models/hilda-tiny';
  const config = JSON.parse(fs.readFileSync(path.join(demo, 'config.json')));
  config.num_hidden_layers = 24;
  const [w, kv, m, v] = [config.hidden_size, config.num_key_value_heads * config.head_dim, config.intermediate_size, config.vocab_size];
  const tensors = [['model.embed_tokens.weight', [v, w]], ['model.norm.weight', [w]]];
  for (let i = 0; i < 24; i++) {
    const layer = (name, shape) => tensors.push([`model.layers.${i}.${name}.weight`, shape]);
    layer('input_layernorm', [w]);
    layer('self_attn.q_proj', [config.num_attention_heads * config.head_dim, w]);
    layer('self_attn.k_proj', [kv, w]);
    layer('self_attn.v_proj', [kv, w]);
    layer('self_attn.o_proj', [w, config.num_attention_heads * config.head_dim]);
    layer('post_attention_layernorm', [w]);
    layer('mlp.gate_proj', [m, w]);
    layer('mlp.up_proj', [m, w]);
    layer('mlp.down_proj', [w, m]);
  }
  const header = {};
  let size = 0;
  for (const [name, shape] of tensors) {
    const bytes = 4 * shape.reduce((a, b) => a * b);
    header[name] = { dtype: 'F32', shape, data_offsets: [size, size + bytes] };
    size += bytes;
  }
  const values = new Float32Array(size / 4);
  let state = 1;
  for (let i = 0; i < values.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = (state / 2 ** 32 - 0.5) * 0.2;
  }
  tensors.forEach(([name, shape]) => shape.length === 1 && values.fill(1, header[name].data_offsets[0] / 4, header[name].data_offsets[1] / 4));
  const text = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, ' ')]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  fs.mkdirSync(to, { recursive: true });
  fs.writeFileSync(path.join(to, 'model.safetensors'), Buffer.concat([length, padded, Buffer.from(values.buffer)]));
  fs.writeFileSync(path.join(to, 'config.json'), JSON.stringify(config));
  fs.copyFileSync(path.join(demo, 'tokenizer.json'), path.join(to, 'tokenizer.json'));
  fs.writeFileSync(path.join(to, 'README.md'), '---\nlicense: mit\n---\n# Wide\n\nRandom weights.\n');
}

let server;
let browser;
before(async () => {
  const data = path.join(folder(), 'data');
  writeModel(path.join(data, 'models', NAME));
  server = await Server.start(data);
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** Counts requests for pieces from now on. */
const pieces = (page) => {
  const asked = [];
  page.on('request', (request) => /model-\d+-of-\d+/.test(request.url()) && asked.push(request.url()));
  return asked;
};

/** What stands in the model's card beside `fact`. */
const fact = (page, name) =>
  page.locator('.card.model dt', { hasText: new RegExp(`^${name}$`) }).locator('xpath=following-sibling::dd[1]').innerText();

/**
 * Lets the random model write a short text by a policy that replaces nothing: what an editing one writes with random
 * weights it replaces as often as it may, 400 steps for 128 tokens.
 */
async function short(page) {
  await playground.pace(page, 60);
  await playground.length(page, 16);
  await playground.policy(page, 'top_prob');
  await playground.write(page, 'Tom');
}

describe('models', () => {
  test('a pulled model is listed and opens in pieces, which are kept, checked and forgotten', LIMIT, async (t) => {
    const page = await visit(browser, `${server.url}/models`);
    const card = page.locator('.model-card', { hasText: NAME });
    await until('the card', async () => (await card.count()) === 1);
    const text = await card.innerText();
    for (const words of [/mit/, /26\.2M parameters|26\.2 M/, /trains here|decodes here|too large/, /int8\), .* of memory: fits/]) {
      assert.match(text, words);
    }
    await card.getByText('Card', { exact: true }).click();
    assert.match(await card.locator('pre').innerText(), /Random weights/);
    await shot(page, 'models');

    const asked = pieces(page);
    const seen = new Set();
    const watch = setInterval(async () => {
      const notice = await page.locator('.notice.loading').innerText().catch(() => '');
      const piece = /piece \d of \d/.exec(notice)?.[0];
      if (piece) seen.add(piece);
    }, 20);
    await card.getByRole('link', { name: 'Open in playground' }).click();
    await page.waitForURL(/model=test\/wide|model=test%2Fwide/);
    await until('the model', async () => (await page.locator('.card.model dl').count()) === 1 && (await fact(page, 'size')).includes('downloaded'), 120_000);
    clearInterval(watch);
    assert.equal(asked.length, 2, 'two pieces');
    t.diagnostic(`seen while loading: ${[...seen].join(', ')}`);
    assert.match(await playground.device(page), /wide 26 M · in your browser/);

    // The second visit asks for no piece.
    asked.length = 0;
    await page.goto(`${server.url}/?model=${NAME}&device=wasm`);
    await short(page);
    assert.match(await fact(page, 'size'), /kept from an earlier visit/);
    assert.deepEqual(asked, []);

    // A damaged piece is noticed and fetched again.
    await page.evaluate(async () => {
      const cache = await caches.open('hilda-models');
      const key = (await cache.keys()).find((request) => request.url.includes('/.hilda/pieces/'));
      await cache.put(key, new Response(new Uint8Array(1000), { headers: { 'x-length': '1000' } }));
    });
    await page.goto(`${server.url}/?model=${NAME}&device=wasm`);
    await short(page);
    assert.equal(asked.length, 1);

    // Forgetting says how much it was.
    const forget = page.getByRole('button', { name: /Forget downloads/ });
    await until('the size of what is kept', async () => /\(2\d\.\d MB\)/.test(await forget.innerText()));
    await forget.click();
    await until('an empty cache', async () => !/\(/.test(await forget.innerText()));
    assert.equal(await page.evaluate(async () => (await (await caches.open('hilda-models')).keys()).length), 0);
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('the server computes what the page would', LIMIT, async (t) => {
    const record = async (device) => {
      const page = await visit(browser, `${server.url}/?model=${NAME}&device=${device}`);
      const asked = pieces(page);
      await short(page);
      const shown = await playground.device(page);
      const link = await playground.share(page);
      assert.equal(asked.length > 0, device === 'wasm');
      assert.deepEqual(page.trouble, []);
      return { page, shown, trace: playground.record(link) };
    };
    const remote = await record('server');
    assert.match(remote.shown, /on the server/);
    assert.equal(remote.trace.header.model.backend, 'server');
    // the next text begins under the same name
    await remote.page.getByRole('button', { name: 'Write', exact: true }).click();
    await playground.written(remote.page);
    await remote.page.context().close();
    const local = await record('wasm');
    t.diagnostic(`${remote.trace.steps.length} and ${local.trace.steps.length} steps (the page computes with int8 weights)`);
    await local.page.context().close();

    // The demo model is the same on both sides, so the texts are, as long as decisions are clear.
    const demo = async (device) => {
      const page = await playground.open(browser, `${server.url}/?device=${device}`);
      await playground.written(page);
      const trace = playground.record(await playground.share(page));
      await page.context().close();
      return trace;
    };
    const { steps, margin } = playground.compare(await demo('server'), await demo('wasm'), 0.001);
    t.diagnostic(`server and WASM: ${steps} steps equal, margin of the difference ${margin}`);
  });

  test('a server that forgot the text is told its beginning again', LIMIT, async () => {
    const page = await playground.open(browser, `${server.url}/?device=server&prompt=Tom`);
    await until('some words', async () => (await playground.words(page)) > 3);
    // four other texts take its place
    const ask = (session) => fetch(`${server.url}/api/models/forward`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        model: 'hilda-tiny', session, cached: 0,
        request: {
          sequence: 0, step: 0, query_positions: [0], ids: [0], rule: { attention: 'block_causal' }, block_size: 8,
          cache: 'none', want: { rows: [], top_k: 0, temperature: 0, seed: 0 },
        },
      }),
    });
    for (const session of ['a', 'b', 'c', 'd', 'e']) assert.equal((await ask(session)).status, 200);
    assert.ok((await playground.written(page)).length > 100);
    const conflicts = page.trouble.filter((line) => !/409/.test(line));
    assert.deepEqual(conflicts, []);
    await page.context().close();
  });
});
