// Policies as the page offers them: presets under their papers' names, and what a model's folder has to hold for them.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { Server, folder, launch, until, visit } from './harness.mjs';
import * as playground from './playground.mjs';

const LIMIT = { timeout: 240_000 };
const PROMPT = 'The little dog ran';

let server;
let browser;
before(async () => {
  const data = path.join(folder(), 'data');
  fs.mkdirSync(data);
  server = await Server.start(data);
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** Chooses a preset by its paper. */
async function choose(page, preset) {
  await page.getByRole('button', { name: 'Custom', exact: true }).first().click();
  await page.getByLabel('As in the paper').selectOption(preset);
}

describe('policies', () => {
  test('presets of papers, PC-Sampler among them, write with the demo model', LIMIT, async (t) => {
    const page = await playground.open(browser, `${server.url}/?device=wasm`);
    await playground.written(page);
    await playground.length(page, 24);
    for (const [preset, has] of [
      ['pc-sampler', { kind: 'top_prob', score: 'pc' }],
      ['creditdecoding', { kind: 'threshold' }],
      ['remdm-llada', { kind: 'remdm_quota', extra_steps: 32 }],
    ]) {
      await choose(page, preset);
      await playground.write(page, PROMPT);
      const { header, footer, steps } = playground.record(await playground.share(page));
      for (const [key, value] of Object.entries(has)) assert.equal(header.config.policy[key], value, preset);
      assert.ok(steps.length > 3 && footer.stop, preset);
      if (preset === 'creditdecoding') assert.ok(header.config.policy.credit > 0.69);
      if (preset === 'remdm-llada') assert.ok(footer.ledger.remasks >= 32, `${footer.ledger.remasks} words written again`);
      t.diagnostic(`${preset}: ${await playground.counters(page)}`);
      await page.locator('#prompt').fill('');
    }
    // A dial moved by hand is no preset any more.
    await page.getByLabel('Steps per block', { exact: true }).fill('2');
    await until('no preset', async () => (await page.getByLabel('As in the paper').inputValue()) === '');
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('a model without token frequencies says what pc lacks', LIMIT, async () => {
    const page = await visit(browser, `${server.url}/runs`);
    await page.route('**/models/hilda-tiny/config.json', async (route) => {
      const answer = await route.fetch();
      const config = await answer.json();
      delete config.hilda.frequencies;
      await route.fulfill({ response: answer, json: config });
    });
    const asked = [];
    page.on('request', (request) => request.url().includes('frequencies.json') && asked.push(request.url()));
    await page.goto(`${server.url}/?device=wasm`);
    await playground.pace(page, 60);
    await playground.written(page);
    assert.deepEqual(asked, [], 'what is not named is not asked for');
    await choose(page, 'pc-sampler');
    await page.getByText('does not say how often each word occurs').waitFor();
    await page.getByRole('button', { name: 'Write', exact: true }).click();
    await page.locator('.notice.bad', { hasText: 'frequencies.json' }).waitFor();
    await choose(page, 'wino');
    await playground.write(page, PROMPT);
    await page.context().close();
  });
});
