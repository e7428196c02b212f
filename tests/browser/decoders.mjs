// Decoders compared: a mark of the plot leads to its recorded text, by mouse, touch and keyboard, on the dashboard and
// on the page that stands alone.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { Server, addStories, folder, launch, recipe, shot, until, visit } from './harness.mjs';
import * as playground from './playground.mjs';

const LIMIT = { timeout: 240_000 };

/** Serves a folder as any static host does; its address and a way to end it. */
async function host(root) {
  const kinds = { '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm', '.css': 'text/css', '.json': 'application/json', '.svg': 'image/svg+xml' };
  const server = http.createServer((request, answer) => {
    let file = path.join(root, decodeURIComponent(new URL(request.url, 'http://x').pathname));
    if (fs.existsSync(file) && fs.statSync(file).isDirectory()) file = path.join(file, 'index.html');
    if (!fs.existsSync(file)) return answer.writeHead(404).end();
    answer.writeHead(200, { 'content-type': kinds[path.extname(file)] ?? 'application/octet-stream' });
    fs.createReadStream(file).pipe(answer);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, end: () => server.close() };
}

describe('decoders', () => {
  let server;
  let browser;
  let out;
  before(async () => {
    const data = path.join(folder(), 'data');
    fs.mkdirSync(data);
    addStories(data);
    const hilda = (...args) => {
      const ended = spawnSync(process.env.HILDA_BIN, [...args, '--data-dir', data], { encoding: 'utf8', maxBuffer: 1 << 28 });
      assert.equal(ended.status, 0, `hilda ${args.join(' ')}: ${ended.stderr}`);
      return ended.stdout;
    };
    const file = path.join(data, '..', `judge-${path.basename(path.dirname(data))}.toml`);
    fs.writeFileSync(file, recipe('judge', 20).replace('objective = "mdlm"', 'objective = "ar"'));
    hilda('train', file, '--run', path.join(data, 'runs', 'judge'));
    const prompts = path.join(path.dirname(data), 'prompts.txt');
    fs.writeFileSync(prompts, 'Once upon a time there was a little girl named Lily. She went to the park with her mom and saw a big dog.');
    out = path.join(path.dirname(data), 'bench');
    hilda('decode-bench', '--model', 'public/models/hilda-tiny', '--judge', path.join(data, 'runs', 'judge'), '--data', prompts,
      '--prompt', '8', '--length', '24', '--window', '8', '--temperature', '0.7', '--policy', '{"kind": "threshold", "tau": [0.3, 0.9]}',
      '--policy', 'edit', '--out', out, '--name', 'bench', '--with-page');
    server = await Server.start(data);
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await server?.stop();
  });

  test('a mark leads to its text and on to the playground', LIMIT, async () => {
    const page = await visit(browser, `${server.url}/compare`);
    await page.getByRole('link', { name: 'bench', exact: true }).click();
    const marks = page.locator('.decoder-plot .mark');
    await until('a mark for each decoder', async () => (await marks.count()) === 4);

    // mouse
    const mark = page.getByRole('button', { name: /^threshold, tau 0\.3, .* tokens a forward/ });
    await mark.click();
    assert.equal(await mark.getAttribute('aria-pressed'), 'true');
    const chosen = page.getByRole('region', { name: 'The chosen decoder' });
    assert.match(await chosen.innerText(), /threshold, tau 0\.3, temperature 0\.7/);
    assert.match(await page.getByRole('status').filter({ hasText: 'Chosen' }).textContent(), /threshold, tau 0\.3/);
    const shown = await playground.text(page);
    await shot(page, 'decoders');

    // keyboard: one stop, arrows inside, enter chooses
    await mark.focus();
    await page.keyboard.press('Home');
    const first = await page.evaluate(() => document.activeElement.getAttribute('aria-label'));
    await page.keyboard.press('ArrowRight');
    const second = await page.evaluate(() => document.activeElement.getAttribute('aria-label'));
    assert.notEqual(first, second);
    await page.keyboard.press('Enter');
    await until('the other decoder', async () => second.startsWith(await chosen.locator('h3').first().innerText()));
    await mark.focus();
    await page.keyboard.press('Space');
    await until('the first decoder', async () => (await playground.text(page)) === shown);

    const link = chosen.getByRole('link', { name: 'Open in the playground' });
    await link.click();
    await until('the text in the playground', async () => (await page.locator('#prompt').count()) > 0 && (await playground.text(page)) === shown);
    assert.match(page.url(), /\/#w=/);
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('a touch takes the nearest mark at 360 px', LIMIT, async () => {
    const options = { viewport: { width: 360, height: 740 }, hasTouch: true, colorScheme: 'dark' };
    const page = await visit(browser, `${server.url}/compare?decoders=bench`, options);
    const mark = page.getByRole('button', { name: /^edit/ });
    await mark.scrollIntoViewIfNeeded();
    const box = await mark.boundingBox();
    await page.touchscreen.tap(box.x + box.width / 2 + 2, box.y + box.height / 2 + 3);
    await page.getByRole('region', { name: 'The chosen decoder' }).waitFor();
    assert.equal(await page.locator('.mark[aria-pressed="true"]').count(), 1);
    const { scroll, client } = await page.evaluate(() => ({
      scroll: document.documentElement.scrollWidth,
      client: document.documentElement.clientWidth,
    }));
    assert.ok(scroll <= client, `the page is ${scroll - client} px too wide at 360 px`);
    await shot(page, 'decoders-phone-dark');
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('a result file opens, also one without recordings', LIMIT, async () => {
    const page = await visit(browser, `${server.url}/compare`);
    const result = JSON.parse(fs.readFileSync(path.join(out, 'results.json'), 'utf8'));
    for (const point of result.points) {
      delete point.kept;
      delete point.parameters;
    }
    const file = (text) => ({ name: 'results.json', mimeType: 'application/json', buffer: Buffer.from(text) });
    const input = page.getByLabel('Open a result file');
    await input.setInputFiles(file(JSON.stringify(result)));
    await page.getByRole('button', { name: /^edit/ }).first().click();
    assert.match(await page.getByRole('region', { name: 'The chosen decoder' }).innerText(), /No text of this decoder was kept/);
    await input.setInputFiles(file('{"points": 3}'));
    assert.match(await page.getByRole('alert').innerText(), /no result of hilda decode-bench/);
    await page.context().close();
    const missing = await visit(browser, `${server.url}/compare?decoders=nobody`);
    assert.match(await missing.getByRole('alert').innerText(), /called nobody/);
    await missing.context().close();
  });

  test('the published page stands alone: its marks lead to texts, its links to the playground beside it', LIMIT, async () => {
    const site = await host(out);
    try {
      const page = await visit(browser, `${site.url}/index.html`);
      await page.locator('svg.chart a').last().focus();
      await page.keyboard.press('Enter');
      const anchor = new URL(page.url()).hash;
      assert.match(anchor, /^#d\d+$/);
      await page.getByRole('link', { name: 'Replay in the playground' }).first().click();
      await until('the text in the playground', async () => (await page.locator('#prompt').count()) > 0 && (await playground.text(page)).startsWith('Once upon a time'));
      assert.match(page.url(), /\/page\/#w=/);
      await page.context().close();
    } finally {
      site.end();
    }
  });
});

describe('what a screen reader is told', () => {
  test('dials have a name and a value of separate words', LIMIT, async () => {
    const data = path.join(folder(), 'data');
    fs.mkdirSync(data);
    const server = await Server.start(data);
    const browser = await launch();
    try {
      const page = await playground.open(browser, server.url);
      await playground.written(page);
      await page.getByRole('button', { name: 'Custom', exact: true }).click();
      await page.getByText('Words and cache').click();
      const slider = page.getByRole('slider', { name: 'Top k', exact: true });
      assert.equal(await slider.getAttribute('aria-valuetext'), 'off');
      await page.getByRole('checkbox', { name: 'Top k: off', exact: true }).check();
      await page.getByRole('checkbox', { name: 'Top k: on', exact: true }).waitFor();
      assert.match(await slider.getAttribute('aria-valuetext'), /^\d+ tokens$/);
      assert.equal(await page.getByRole('slider', { name: 'Length', exact: true }).getAttribute('aria-valuetext'), '128 tokens');
      // nothing that can be used is without a name, and no name runs words together
      const names = await page.evaluate(() => {
        const seen = (e) => e.checkVisibility({ checkVisibilityCSS: true });
        const all = [...document.querySelectorAll('button, a[href], input, select, [role=button]')].filter(seen);
        return all.map((e) => {
          const label = e.labels?.[0]?.innerText;
          return [e.outerHTML.slice(0, 120), e.ariaLabel || label || e.innerText || e.title || ''];
        });
      });
      assert.deepEqual(names.filter(([, name]) => !name.trim()).map(([html]) => html), []);
      assert.deepEqual(page.trouble, []);
    } finally {
      await browser.close();
      await server.stop();
    }
  });
});
