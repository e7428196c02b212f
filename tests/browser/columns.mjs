// The playground with two columns: another policy on the same prompt and seed, one timeline; and its overlays.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { Server, folder, launch, longestTask, shot, until } from './harness.mjs';
import * as playground from './playground.mjs';

const LIMIT = { timeout: 240_000 };

/** The columns as locators, first A. */
const columns = (page) => page.locator('.texts > .text').all();

/** What the columns' counters say: [{ at, steps, masked, edits, forwards }]. */
const counts = async (page) => {
  const texts = await page.locator('.texts .counters').allInnerTexts();
  return texts.map((text) => {
    const numbers = /step (\d+) of (\d+).*?· (\d+) masked · (\d+) edits?(?: · (\d+) forwards?)?/.exec(text) ?? [];
    const [at, steps, masked, edits, forwards] = numbers.slice(1).map(Number);
    return { at, steps, masked, edits, forwards };
  });
};

/** The texts, masks as low lines. */
const texts = (page) => page.locator('.texts .canvas > p.visually-hidden').allTextContents();

/** Waits until both texts are written and shown to their ends. */
const bothWritten = (page) =>
  until('two texts without masks', async () => {
    const both = await counts(page);
    const ended = ({ at, steps, masked }) => steps > 0 && at === steps && masked === 0;
    return both.length === 2 && both.every(ended) && !(await page.getByRole('button', { name: 'Stop' }).isVisible()) && both;
  }, 120_000);

/** Goes to a step, and to the top of the page. */
async function show(page, step) {
  await page.getByRole('slider', { name: 'Step', exact: true }).fill(String(step));
  await page.evaluate(() => scrollTo(0, 0));
}

const status = (page) => page.getByRole('status').filter({ hasText: /masked/ }).first().textContent();

describe('two columns', () => {
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

  test('compare writes a second text on the same timeline, and a link keeps both', LIMIT, async (t) => {
    const page = await playground.open(browser, server.url);
    const alone = await playground.written(page);
    const before = await page.evaluate(() => performance.now());
    await page.getByRole('button', { name: 'Compare', exact: true }).click();
    const both = await bothWritten(page);
    const [a, b] = await texts(page);
    assert.equal(a, alone, 'the first text is the one that was there');
    assert.ok(b.startsWith('Once upon a time') && b !== a, `another text of the same prompt: ${b}`);
    t.diagnostic(`A: ${JSON.stringify(both[0])}, B: ${JSON.stringify(both[1])}`);
    const longest = await longestTask(page, before);
    t.diagnostic(`longest main-thread task: ${longest.toFixed(0)} ms`);
    assert.match(page.url(), /[?&]compare=quality/, 'the address says what is compared');
    await show(page, 100);
    await shot(page, 'compare');

    // One timeline moves both.
    await page.getByRole('slider', { name: 'Step', exact: true }).focus();
    await page.keyboard.press('Home');
    await until('the beginning of both', async () => (await counts(page)).every(({ at, masked }) => at === 0 && masked > 0));
    await page.locator('body').click({ position: { x: 5, y: 400 } });
    await page.keyboard.press('ArrowRight');
    await page.keyboard.press('ArrowRight');
    await until('step 2 of both', async () => (await counts(page)).every(({ at }) => at === 2));
    assert.match(await status(page), /^step 2 of \d+\. A, Speedy: \d+ masked, \d+ edits?\. B, Quality: \d+ masked, \d+ edits?$/);

    // One word is inspected at a time.
    const [first, second] = await columns(page);
    await first.locator('.canvas .tok.plain').first().click();
    await second.locator('.canvas .tok.plain').first().click();
    await until('one chosen word', async () => (await page.locator('.texts .tok.sel').count()) === 1);
    assert.equal(await second.locator('.tok.sel').count(), 1);
    assert.equal(await page.locator('#inspector.open').count(), 1);
    await page.keyboard.press('Escape');

    // The link shows both elsewhere without computing.
    await page.keyboard.press('End');
    const link = await playground.share(page);
    const other = await playground.open(browser, link);
    await bothWritten(other);
    assert.deepEqual(await texts(other), [a, b]);
    assert.deepEqual(await counts(other), both);

    // Leaving gives the page back as it was.
    await page.getByRole('button', { name: 'Compare', exact: true }).click();
    await until('one column', async () => (await columns(page)).length === 1);
    assert.equal(await playground.text(page), alone);
    assert.ok(!page.url().includes('compare='));
    assert.equal(page.workers().length, 1, 'the second model is gone');
    assert.deepEqual([...page.trouble, ...other.trouble], []);
    await page.context().close();
    await other.context().close();
  });

  test('an address opens two columns with a policy of its own', LIMIT, async () => {
    const policy = encodeURIComponent(JSON.stringify({ kind: 'top_prob', steps_per_block: 4 }));
    const options = { colorScheme: 'dark', reducedMotion: 'reduce' };
    const page = await playground.open(browser, `${server.url}/?device=wasm&compare=${policy}`, options);
    const both = await bothWritten(page);
    assert.match(await (await columns(page))[1].locator('h2').innerText(), /^B, Fixed steps/);
    assert.ok(both[1].steps < both[0].steps, 'four steps a block are fewer than word by word');
    // The shorter text stays at its end.
    const shorter = Math.min(both[0].steps, both[1].steps);
    await page.getByRole('slider', { name: 'Step', exact: true }).fill(String(shorter + 1));
    await until('the shorter at its end', async () => (await counts(page)).map(({ at }) => at).sort((x, y) => x - y).join() === `${shorter},${shorter + 1}`);
    assert.match(await status(page), new RegExp(`ended at step ${shorter}, 0 masked`));
    await show(page, 60);
    await shot(page, 'compare-dark');
    // The same policy and seed give the same text.
    await page.locator('.beside').getByRole('button', { name: 'Speedy' }).click();
    // Slowly, so that the beginning can be seen.
    await playground.pace(page, 12);
    await page.getByRole('button', { name: 'Write', exact: true }).click();
    await until('the new name', async () => /^B, Speedy/.test(await (await columns(page))[1].locator('h2').innerText()));
    await until('B at work', async () => (await counts(page))[1]?.at < 5);
    await playground.pace(page, 60);
    await bothWritten(page);
    const [a, b] = await texts(page);
    assert.equal(a, b);
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('the second column may have a model of its own', LIMIT, async () => {
    const page = await playground.open(browser, `${server.url}/?device=wasm&compare=speedy&beside=/models/hilda-tiny/`);
    const both = await bothWritten(page);
    const [a, b] = await texts(page);
    assert.equal(a, b, 'the same weights, loaded as another model, write the same');
    assert.equal(both[0].forwards, both[1].forwards);
    const choice = page.getByLabel('Model of B');
    assert.match(await choice.inputValue(), /hilda-tiny/);
    assert.equal(page.workers().length, 2);
    await choice.selectOption('');
    await until('an address without another model', () => !page.url().includes('beside='));
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });

  test('columns are stacked on a narrow screen', LIMIT, async () => {
    const options = { viewport: { width: 360, height: 1400 }, colorScheme: 'light' };
    const page = await playground.open(browser, `${server.url}/?compare=quality`, options);
    await bothWritten(page);
    const boxes = await page.locator('.texts .text').evaluateAll((texts) => texts.map((text) => text.getBoundingClientRect()).map(({ left, top, bottom }) => ({ left, top, bottom })));
    assert.equal(boxes[0].left, boxes[1].left);
    assert.ok(boxes[0].bottom <= boxes[1].top);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(wide <= 0, `the page is ${wide} px too wide at 360 px`);
    await shot(page, 'compare-phone');
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });
});

describe('the overlay of blocks', () => {
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

  test('shows what a step computed and what came from the cache', LIMIT, async () => {
    const page = await playground.open(browser, server.url);
    await playground.written(page);
    const trajectory = playground.record(await playground.share(page));
    const { config } = trajectory.header;
    const steps = trajectory.steps.filter((step) => step.k === 'denoise');
    await page.getByRole('button', { name: 'Blocks', exact: true }).click();
    const size = config.block_size;
    const edges = await page.locator('.canvas .tok.edge').evaluateAll((marks) => marks.map((mark) => Number(mark.dataset.block)));
    assert.deepEqual(edges, Array.from({ length: Math.ceil(config.length / size) }, (_, block) => block + 1));
    for (const at of [1, 60, steps.length]) {
      await show(page, at);
      await until(`step ${at}`, async () => new RegExp(`step ${at} of`).test(await playground.counters(page)));
      const { c: cache, q: queries } = steps[at - 1];
      const said = page.locator('.blocks-said');
      await until('the step in words', async () => (await said.innerText()).startsWith(`Step ${at}:`));
      const words = await said.innerText();
      assert.match(words, new RegExp(`${queries} tokens? of block`));
      if (cache.reused > 0) assert.match(words, new RegExp(`${cache.reused} tokens of blocks? .* from the cache`));
      const marks = await page.locator('.canvas .tok').evaluateAll((all) => all.map((mark) => ['cached', 'computed', 'unread'].find((name) => mark.classList.contains(name))));
      const want = marks.map((_, pos) => (pos < cache.reused ? 'cached' : pos < cache.reused + queries ? 'computed' : 'unread'));
      assert.deepEqual(marks, want, `step ${at}`);
    }
    // In words too, for people who listen.
    await show(page, 60);
    await until('step 60', async () => /step 60 of/.test(await playground.counters(page)));
    assert.match(await page.locator('.canvas .tok.computed').first().getAttribute('aria-label'), /computed in this step$/);
    assert.match(await page.locator('.canvas .tok.cached:not(.filled)').first().getAttribute('aria-label'), /from the cache$/);
    await page.getByRole('button', { name: 'Close this note' }).click();
    await shot(page, 'blocks');
    await page.emulateMedia({ colorScheme: 'dark', reducedMotion: 'reduce' });
    // Colours take half a second to change.
    await page.waitForTimeout(800);
    await shot(page, 'blocks-dark');
    await page.emulateMedia({ colorScheme: 'light' });
    await page.setViewportSize({ width: 360, height: 1100 });
    await until('the narrow layout', async () => (await page.locator('.canvas').boundingBox()).width < 340);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(wide <= 0, `the page is ${wide} px too wide at 360 px`);
    await page.evaluate(() => scrollTo(0, 0));
    await shot(page, 'blocks-phone');
    await page.getByRole('button', { name: 'Confidence', exact: true }).click();
    await until('no blocks', async () => (await page.locator('.tok.edge, .tok.cached, .blocks-said').count()) === 0);
    assert.deepEqual(page.trouble, []);
    await page.context().close();
  });
});
