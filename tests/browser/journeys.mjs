// The three journeys of a visitor, in a real browser against the real server: watch, launch and follow, share. And the
// power cut in between. Two columns are in columns.mjs, decoders in decoders.mjs, models in models.mjs, policies in policies.mjs. Run through `cargo xtask test --only browser`.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { Server, addStories, folder, launch, longestTask, recipe, sample, shot, until, visit } from './harness.mjs';
import * as playground from './playground.mjs';
import './columns.mjs';
import './decoders.mjs';
import './models.mjs';
import './policies.mjs';

const LIMIT = { timeout: 420_000 };

let server;
let browser;
before(async () => {
  const data = path.join(folder(), 'data');
  fs.mkdirSync(data);
  addStories(data);
  server = await Server.start(data);
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

describe('watch', () => {
  test('the starter prompt denoises by itself, in WASM', LIMIT, async (t) => {
    const page = await visit(browser, server.url);
    const first = await playground.firstWord(page);
    const now = () => page.evaluate(() => performance.now());
    let start = await now();
    // At the pace that a visitor finds.
    const text = await playground.written(page);
    const longest = [await longestTask(page, start)];
    assert.ok(text.trim().split(/\s+/).length > 10, `a text of several words: ${text}`);
    assert.ok(!text.includes('_'), `no mask is left: ${text}`);
    assert.match(await playground.device(page), /WASM/);
    assert.match(await playground.counters(page), /step \d+ of \d+ · 0 masked · \d+ edits? · \d+ forwards · [\d.]+ tokens \/ forward/);
    await shot(page, 'playground');

    // The second visit finds the model in its cache.
    await page.reload();
    const again = await playground.firstWord(page);
    await playground.pace(page, 60);
    start = await now();
    await playground.written(page);
    longest.push(await longestTask(page, start));
    t.diagnostic(`first word after ${first.toFixed(0)} ms, with the model cached after ${again.toFixed(0)} ms`);
    const [visitor, fastest] = longest.map((ms) => ms.toFixed(0));
    t.diagnostic(`longest main-thread task while denoising: ${visitor} ms, at 60 steps a second ${fastest} ms`);
    t.diagnostic(`counters: ${await playground.counters(page)}`);
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('states differ by more than colour', LIMIT, async () => {
    const page = await playground.open(browser, server.url);
    await playground.written(page);
    const legend = await page.locator('.legend .tok').evaluateAll((marks) => marks.map((mark) => {
      // Shape only: a shadow, a frame or a line counts by being there, whatever its colour.
      const looks = (element) => {
        const style = getComputedStyle(element);
        const frames = ['border-top-style', 'border-bottom-style', 'outline-style', 'text-decoration-line'];
        const filled = style.backgroundColor !== 'rgba(0, 0, 0, 0)' || style.backgroundImage !== 'none';
        const shadow = style.boxShadow.replace(/\w+\([^)]*\)/g, '');
        return [...frames.map((name) => style.getPropertyValue(name)), filled, shadow];
      };
      return JSON.stringify([looks(mark), [...mark.children].map((child) => [child.tagName, ...looks(child)])]);
    }));
    assert.ok(legend.length >= 4, 'a legend of the marks');
    assert.equal(new Set(legend).size, legend.length, `marks that differ in form: ${legend.join('\n')}`);
    // Every position says in words what it is.
    await page.getByRole('slider', { name: 'Step', exact: true }).focus();
    await page.keyboard.press('Home');
    await until('the masks of the first step', async () => (await playground.masked(page)) > 0);
    const label = await page.locator('.canvas .tok.masked').first().getAttribute('aria-label');
    assert.match(label, /masked/);
    await page.context().close();
  });

  test('the keyboard steps, jumps and plays', LIMIT, async () => {
    const page = await playground.open(browser, server.url);
    const whole = await playground.written(page);
    const at = async () => Number(/step (\d+)/.exec(await playground.counters(page))[1]);
    const end = await at();
    await page.locator('body').click({ position: { x: 5, y: 400 } });
    await page.keyboard.press('Home');
    await until('the beginning', async () => (await at()) === 0);
    const said = page.locator('.narration');
    await until('what will happen', async () => /^Blocks of 8 are written from left to right/.test(await said.innerText()));
    await page.keyboard.press('ArrowRight');
    await until('step 1', async () => (await at()) === 1);
    await until('why step 1 wrote', async () =>
      /^Wrote (“.+” \(0\.\d\d\)|\d+ words)[^:]*: (all|nothing was) above 0\.\d\d/.test(await said.innerText()));
    await page.keyboard.press('ArrowRight');
    await page.keyboard.press('ArrowLeft');
    await until('step 1 again', async () => (await at()) === 1);
    await page.keyboard.press('Space');
    await until('the replay to its end', async () => (await at()) === end, 60_000);
    assert.equal(await playground.text(page), whole, 'the replay ends in the same text');
    await page.keyboard.press('Home');
    await page.keyboard.press('End');
    await until('the end', async () => (await at()) === end);
    const status = await page.getByRole('status').filter({ hasText: /masked/ }).first().textContent();
    assert.match(status, /step \d+ of \d+, 0 masked, \d+ edits?/);
    await page.context().close();
  });

  test('a permalink gives the same text in a new profile', LIMIT, async () => {
    const page = await playground.open(browser, server.url);
    const text = await playground.written(page);
    const link = await playground.share(page);
    const other = await playground.open(browser, link);
    assert.equal(await playground.written(other), text);
    assert.deepEqual(other.trouble, []);
    await page.context().close();
    await other.context().close();
  });

  test('both modules, with relaxed SIMD and without, write a text', LIMIT, async (t) => {
    const texts = [];
    for (const [query, name] of [['?device=wasm', /WASM relaxed SIMD/], ['?device=wasm&simd=plain', /WASM SIMD/]]) {
      const page = await playground.open(browser, `${server.url}/${query}`);
      texts.push(await playground.written(page));
      assert.match(await playground.device(page), name);
      assert.deepEqual(page.trouble, []);
      await page.context().close();
    }
    // multiplied and added in one rounding or two: a close decision may fall differently
    t.diagnostic(`their texts: ${texts[0] === texts[1] ? 'equal' : 'different'}`);
    assert.ok(texts.every((text) => text.trim().split(/\s+/).length > 10 && !text.includes('_')));
  });

  test('the whole decoding: map, changes and costs', LIMIT, async (t) => {
    const page = await playground.open(browser, server.url);
    await playground.written(page);
    const deeper = page.locator('details.deeper');
    await deeper.locator('summary').click();
    const map = deeper.locator('.map canvas');
    const [, end] = /step \d+ of (\d+)/.exec(await playground.counters(page));
    const size = await map.evaluate((canvas) => [canvas.width / 3, canvas.height / 3]);
    assert.equal(size[1], Number(end), 'a row for every step');
    assert.equal(size[0], await page.locator('.strip i').count(), 'a column for every position');
    const drawn = await map.evaluate((canvas) => {
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return data.filter((value, at) => at % 4 === 3 && value > 0).length;
    });
    assert.ok(drawn > 9 * size[1], `cells are drawn: ${drawn} pixels`);
    // a cell in the middle leads to its step and its word
    const box = await map.boundingBox();
    await map.click({ position: { x: box.width / 2, y: box.height / 2 } });
    const middle = Math.floor(size[1] / 2) + 1;
    await until('the step of the cell', async () => (await playground.counters(page)).startsWith(`step ${middle} of`));
    await page.getByRole('region', { name: 'Word inspector' }).or(page.locator('#inspector.open')).first().waitFor();
    await shot(page, 'playground-map');

    await deeper.getByRole('button', { name: 'Changes' }).click();
    const edits = Number(/(\d+) edits?/.exec(await playground.counters(page))[1]);
    await page.keyboard.press('Escape');
    await deeper.getByRole('button', { name: 'Costs' }).click();
    const costs = await deeper.locator('.costs').innerText();
    assert.match(costs, /tokens a forward/);
    t.diagnostic(`edits at that step: ${edits}; ${costs.replaceAll('\n', ' ')}`);
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('a narrow screen and a dark theme', LIMIT, async () => {
    const options = { viewport: { width: 360, height: 740 }, colorScheme: 'dark', reducedMotion: 'reduce' };
    const page = await playground.open(browser, server.url, options);
    await playground.written(page);
    const { scroll, client } = await page.evaluate(() => ({
      scroll: document.documentElement.scrollWidth,
      client: document.documentElement.clientWidth,
    }));
    assert.ok(scroll <= client, `the page is ${scroll - client} px too wide at 360 px`);
    await shot(page, 'playground-phone-dark');
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('CPU, WASM and WebGPU write the same, as long as decisions are clear', LIMIT, async (t) => {
    // A software adapter takes 0.7 s a forward, so the texts are few and short, and hold every kind of forward and
    // action between them: the prompt read into the cache, words written, a word replaced, a word masked again, rows of
    // a shadow, two blocks finished and stored. Another demo model may need other prompts for that.
    const LENGTH = 16;
    const texts = [
      { kind: 'edit', prompt: 'One day, Sue and her mom went to the' },
      { kind: 'wino', prompt: 'Max was sad. She wanted to play with the' },
    ];
    const needed = { prefill: 1, denoise: 16, store: 2, edits: 1, remasks: 1, shadow: 1 };
    // Links round margins to three decimals.
    const tolerance = 0.001;
    const traces = async (browser, device) => {
      const page = await playground.open(browser, `${server.url}/?device=${device}`);
      const found = [];
      await playground.length(page, LENGTH);
      for (const { kind, prompt } of texts) {
        if (kind === 'wino') await playground.policy(page, kind);
        await playground.write(page, prompt);
        const trace = playground.record(await playground.share(page));
        assert.equal(trace.header.config.policy.kind, kind);
        if (kind === 'wino') assert.ok(trace.footer.ledger.shadow > 0, 'rows of the shadow are counted');
        found.push(trace);
      }
      t.diagnostic(`${await playground.device(page)}: ${await playground.counters(page)}`);
      assert.deepEqual(page.trouble, []);
      await page.context().close();
      return found;
    };
    const wasm = await traces(browser, 'wasm');
    for (const [what, least] of Object.entries(needed)) {
      const counted = wasm.map(({ footer }) => footer.ledger[what]);
      assert.ok(counted.some((count) => count >= least), `${what} in one of the texts: ${counted}`);
    }
    const native = wasm.map(({ header: { config } }, index) => sample(texts[index].prompt, config));
    wasm.forEach((trace, index) => {
      const { steps, margin } = playground.compare(trace, native[index], tolerance);
      t.diagnostic(`CPU and WASM: ${steps} of ${trace.steps.length} steps equal, margin of the difference ${margin}`);
    });

    const gpu = await launch({ webgpu: true });
    try {
      const page = await visit(gpu, `${server.url}/runs`);
      const adapter = await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()));
      if (!adapter) return t.skip('this Chromium has no WebGPU adapter, not even a software one');
      await page.context().close();
      const webgpu = await traces(gpu, 'webgpu');
      wasm.forEach((trace, index) => {
        const { steps, margin } = playground.compare(trace, webgpu[index], tolerance);
        t.diagnostic(`WASM and WebGPU: ${steps} of ${trace.steps.length} steps equal, margin of the difference ${margin}`);
      });
    } finally {
      await gpu.close();
    }
  });

  test('products of int8 weights: WASM writes what the CPU does', LIMIT, async (t) => {
    const page = await visit(browser, `${server.url}/?device=wasm-int8`);
    await page.locator('.dial', { hasText: 'Length' }).locator('input[type=range]').fill('24');
    for (const prompt of ['Once upon a time', 'Tom had a red ball.']) {
      await playground.write(page, prompt);
      const trace = playground.record(await playground.share(page));
      assert.deepEqual([trace.header.model.backend, trace.header.model.dtype], ['wasm', 'int8']);
      const native = sample(prompt, trace.header.config, 'int8');
      const { steps, margin } = playground.compare(trace, native, 0.001);
      t.diagnostic(`CPU and WASM: ${steps} of ${trace.steps.length} steps equal, margin of the difference ${margin}`);
    }
    assert.match(await playground.device(page), /int8 weights/);
    assert.equal(await page.getByRole('button', { name: 'WASM int8', exact: true }).getAttribute('aria-pressed'), 'true');
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('a WebGPU device lost in mid-text goes on in WASM', LIMIT, async (t) => {
    const gpu = await launch({ webgpu: true });
    try {
      const page = await playground.open(gpu, `${server.url}/?device=webgpu`);
      const adapter = await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()));
      if (!adapter) return t.skip('this Chromium has no WebGPU adapter, not even a software one');
      // A software adapter takes its time.
      await until('the first word', async () => (await playground.words(page)) > 0, 240_000);
      assert.match(await playground.device(page), /WebGPU/);
      // The second submission from now on finds its device gone.
      await page.workers()[0].evaluate(() => {
        const make = GPUDevice.prototype.createCommandEncoder;
        let left = 2;
        GPUDevice.prototype.createCommandEncoder = function (...settings) {
          left -= 1;
          if (left === 0) this.destroy();
          return make.apply(this, settings);
        };
      });
      const text = await playground.written(page);
      assert.match(await playground.device(page), /WASM/);
      const notice = page.locator('.notice');
      assert.match(await notice.innerText(), /goes on in WebAssembly/);
      assert.equal(await notice.evaluate((element) => element.classList.contains('bad')), false);
      const { header, steps } = playground.record(await playground.share(page));
      assert.equal(header.model.backend, 'webgpu, then wasm');
      assert.ok(steps.length > 3);

      // Unless a decision was close, the text is the one that WebAssembly alone writes.
      const whole = await playground.open(browser, `${server.url}/?device=wasm`);
      t.diagnostic(`the text of WASM alone: ${(await playground.written(whole)) === text ? 'equal' : 'another'}`);
      assert.deepEqual(page.trouble, []);
      await whole.context().close();
    } finally {
      await gpu.close();
    }
  });
});

describe('launch, follow and share', () => {
  let run;
  const ownRecipe = async (page, toml) => {
    await page.getByRole('button', { name: 'Write your own recipe (TOML)' }).click();
    await page.getByLabel('The recipe as TOML').fill(toml);
  };
  test('a job is launched from the form and followed to its end', LIMIT, async () => {
    const page = await visit(browser, `${server.url}/launch`);
    await ownRecipe(page, recipe('journey', 60));
    const start = page.getByRole('button', { name: 'Start the run' });
    await until('an estimate', async () => (await page.getByLabel('Estimate').innerText()).includes('in 60 steps'));
    await shot(page, 'launch');
    await start.click();
    await page.waitForURL(/\/runs\/[^/]+$/);
    run = page.url().split('/').pop();
    await until('the end of the job', async () => /finished/i.test(await page.locator('main').innerText()), 240_000);
    const metrics = await server.api(`/api/runs/${run}/metrics?after=0&limit=1000`);
    assert.equal(metrics.rows.filter((row) => row.metric.kind === 'train').length, 60);
    assert.ok((await page.locator('main svg').count()) > 0, 'curves are drawn');
    assert.match(await page.locator('main').innerText(), /nelbo_t\(\d+\)/, 'the likelihood names its estimator');
    await shot(page, 'run');
    assert.deepEqual(page.trouble, []);
    await page.goto(`${server.url}/runs`);
    await until('the run in the table', async () => (await page.locator('main').innerText()).includes('journey'));
    await shot(page, 'runs');
    await page.context().close();
  });

  test('a wrong field is explained before anything starts', LIMIT, async () => {
    const page = await visit(browser, `${server.url}/launch`);
    await ownRecipe(page, recipe('wrong', 60).replace('rows = 8\n[eval]', 'rows = 0\n[eval]'));
    await until('the field in words', async () => /batch\.rows/.test(await page.locator('main').innerText()));
    assert.ok(await page.getByRole('button', { name: 'Start the run' }).isDisabled(), 'it cannot be started');
    await page.context().close();
  });

  test('a sample of the run is replayed', LIMIT, async (t) => {
    if (!run) return t.skip('no run whose samples could be replayed');
    const page = await visit(browser, `${server.url}/runs/${run}?tab=samples`);
    await page.getByRole('button', { name: 'Replay', exact: true }).first().click();
    await until('the end of the replay', async () => /step (\d+) of \1 ·/.test(await playground.counters(page)));
    assert.ok((await playground.text(page)).trim().length > 0);
    await page.getByRole('button', { name: 'Close the replay' }).click();
    await until('the closed replay', async () => (await page.locator('.canvas').count()) === 0);
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('the run is audited on its page', LIMIT, async (t) => {
    if (!run) return t.skip('no run to audit');
    const page = await visit(browser, `${server.url}/runs/${run}?tab=audit`);
    await page.getByRole('button', { name: 'Audit this run' }).click();
    await page.getByText('The audit passed.').waitFor();
    const table = page.locator('.findings').first();
    assert.match(await table.innerText(), /estimator\s+nelbo_t\(\d+\)\s+bound\s+bound/i);
    await table.getByText(/\d+ checks?/).first().click();
    assert.match(await table.innerText(), /holds: .* of at most/);
    await shot(page, 'audit');
    // the report stays with the run
    await page.reload();
    await page.getByText('The audit passed.').waitFor();
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('compare shows quality against cost', LIMIT, async (t) => {
    if (!run) return t.skip('no run to compare');
    const page = await visit(browser, `${server.url}/compare?runs=${run}`);
    const plot = page.locator('.frontier');
    await until('the frontier', async () => (await plot.locator('svg .c-dot').count()) > 1);
    assert.match(await plot.innerText(), /By nelbo_t\(\d+\) over [\d,]+ tokens: only journey was measured/);
    assert.match(await plot.locator('svg.c-plot').textContent(), /FLOP/);
    await plot.getByText('Table', { exact: true }).click();
    assert.match(await plot.locator('table').innerText(), /frontier.*FLOP/s);
    const [saved] = await Promise.all([page.waitForEvent('download'), plot.getByRole('button', { name: 'Frontier as CSV file' }).click()]);
    const csv = fs.readFileSync(await saved.path(), 'utf8');
    assert.match(csv, /^series,step,tokens,seconds,flops,nats per token,low,high\njourney: nelbo_t/);
    await plot.getByRole('button', { name: 'Tokens', exact: true }).click();
    await until('the other axis', async () => (await plot.locator('svg.c-plot').textContent()).includes('tokens seen'));
    assert.match(page.url(), /cost=tokens/);
    await plot.getByRole('button', { name: 'FLOPs', exact: true }).click();
    await plot.getByText('Table', { exact: true }).click();
    await plot.scrollIntoViewIfNeeded();
    await shot(page, 'frontier');
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('its shared link opens in a new profile', LIMIT, async (t) => {
    if (!run) return t.skip('no run to share');
    const page = await visit(browser, `${server.url}/runs/${run}`);
    await page.getByRole('button', { name: 'Share' }).click();
    const link = await until('the link', () =>
      page.locator('main a').evaluateAll((links) => links.map((a) => a.href).find((to) => /\/r\/[a-z0-9]{20,}$/.test(to))),
    );
    await page.context().close();
    const other = await visit(browser, link);
    const text = await until('the report', async () => {
      const text = await other.locator('main').innerText();
      return text.includes('journey') && text;
    });
    assert.match(text, /hilda train/, 'the command that reproduces it');
    assert.match(text, /nelbo_t\(\d+\)/, 'the likelihood names its estimator');
    await shot(other, 'shared');
    assert.deepEqual(other.trouble, []);
    await other.context().close();
  });
});

describe('a power cut', () => {
  test('kill -9 of server and job loses nothing that the page had shown', LIMIT, async (t) => {
    if (!fs.existsSync('/proc/self/cmdline')) return t.skip('finds the trainer through /proc');
    const data = path.join(folder(), 'data');
    fs.mkdirSync(data);
    addStories(data);
    let server = await Server.start(data);
    const steps = 200;
    const { id } = await server.api('/api/runs', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ toml: recipe('cut', steps) }),
    });
    let page = await visit(browser, `${server.url}/runs/${id}`);
    await until('step 30', async () => ((await server.api(`/api/runs/${id}`)).status?.step ?? 0) >= 30);
    const shown = (await server.api(`/api/runs/${id}/metrics?after=0&limit=5000`)).rows;
    await server.stop();
    await page.context().close();
    const file = path.join(data, 'runs', id, 'metrics.jsonl');
    const text = fs.readFileSync(file, 'utf8');
    const committed = text.slice(0, text.lastIndexOf('\n') + 1);
    assert.ok(!committed.includes(`"step":${steps},`), 'the cut came before the end');

    server = await Server.start(data);
    try {
      page = await visit(browser, `${server.url}/runs/${id}`);
      await until('the end of the job', async () => /finished/i.test(await page.locator('main').innerText()), 240_000);
      assert.ok(fs.readFileSync(file, 'utf8').startsWith(committed), 'a committed line was lost');
      const rows = (await server.api(`/api/runs/${id}/metrics?after=0&limit=5000`)).rows;
      const key = ({ metric }) => `${metric.kind} ${metric.step}`;
      const kept = new Set(rows.map(key));
      assert.deepEqual(shown.map(key).filter((name) => !kept.has(name)), []);
      const seen = new Set(rows.filter((row) => row.metric.kind === 'train').map((row) => row.metric.step));
      assert.equal(seen.size, steps, 'every step is there');
      await page.context().close();
    } finally {
      await server.stop();
    }
  });
});
