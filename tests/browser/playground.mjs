// The playground as a person sees it: what its marks, counters and buttons say.
import zlib from 'node:zlib';

import { until, visit } from './harness.mjs';

/** The text shown, masks as low lines, for people who listen. */
export const text = (page) => page.locator('.canvas > p.visually-hidden').textContent();

/** How many positions are masked now. */
export const masked = (page) => page.locator('.canvas .tok.masked').count();

/** How many words the model has written on the canvas. */
export const words = (page) => page.locator('.canvas .tok.new, .canvas .tok.plain, .canvas .tok.edited').count();

/** Text of the step counter. */
export const counters = async (page) => (await page.locator('.counters').first().innerText()).replaceAll('\n', ' ');

/** Where the model runs, as the page says it. */
export const device = (page) => page.locator('.pill.device').innerText();

/** Sets how many steps are shown a second; a visitor finds 12. */
export const pace = (page, steps) => page.getByLabel('Speed, steps per second').selectOption(String(steps));

/** Sets how many tokens are written after the prompt. */
export const length = (page, tokens) =>
  page.locator('.dial', { hasText: 'Length' }).locator('input[type=range]').fill(String(tokens));

/** Chooses a policy by its kind, with what it comes with. */
export async function policy(page, kind) {
  await page.getByRole('button', { name: 'Custom', exact: true }).first().click();
  await page.locator(`select:has(option[value="${kind}"])`).first().selectOption(kind);
}

/**
 * Opens a page of the playground and lets it show steps as fast as it offers to. A text of 128 tokens takes three
 * seconds to compute and at the visitor's pace twelve to show: only what is about that pace should wait for it.
 */
export async function open(browser, url, options) {
  const page = await visit(browser, url, options);
  await pace(page, 60);
  return page;
}

/** Waits for the first word that the model writes; milliseconds since the page began to load. */
export const firstWord = (page) =>
  until('the first word on the canvas', async () => {
    const now = await page.evaluate(() => performance.now());
    return (await words(page)) > 0 && now;
  });

/** Waits until the text is written to its end and no mask is left; the text. */
export async function written(page, limit = 120_000) {
  await until('the first token on the canvas', async () => (await page.locator('.canvas .tok').count()) > 0, limit);
  await until(
    'a text without masks',
    async () => (await masked(page)) === 0 && /step (\d+) of \1 ·/.test(await counters(page)),
    limit,
  );
  return text(page);
}

/** Types a prompt and lets it be written; the text. */
export async function write(page, prompt) {
  await page.locator('#prompt').fill(prompt);
  await page.locator('#prompt').press('Enter');
  await until('the new prompt on the canvas', async () => (await text(page)).trim().startsWith(prompt));
  return written(page);
}

/** Presses Share; the address with the recorded text. */
export async function share(page) {
  await page.evaluate(() => history.replaceState(null, '', location.pathname + location.search));
  await page.getByRole('button', { name: 'Share', exact: true }).click();
  return until('a link in the address', () => page.url().includes('#w=') && page.url());
}

/** The record in a link: base64url of deflate of JSON after `#w=`. */
export const record = (link) =>
  JSON.parse(zlib.inflateRawSync(Buffer.from(link.split('#w=')[1], 'base64url')).toString()).trajectory;

/**
 * Compares two records of one request. They must agree up to a first difference, and every action there that the two
 * do not share must have been won by at most `tolerance`; beyond it they are different texts. Gives the number of
 * equal steps and the margin of the difference, null when there is none.
 */
export function compare(a, b, tolerance) {
  const key = ([kind, pos, old, token]) => `${kind} ${pos} ${old} ${token}`;
  const steps = Math.min(a.steps.length, b.steps.length);
  for (let index = 0; index < steps; index++) {
    const [x, y] = [a, b].map((trace) => trace.steps[index].a ?? []);
    const [xs, ys] = [x, y].map((actions) => new Set(actions.map(key)));
    const alone = [...x.filter((action) => !ys.has(key(action))), ...y.filter((action) => !xs.has(key(action)))];
    if (alone.length === 0) continue;
    const margin = Math.max(...alone.map((action) => action[6]));
    if (margin > tolerance) {
      throw new Error(`step ${index} differs in a decision won by ${margin} (tolerance ${tolerance}): ${alone.map(key)}`);
    }
    return { steps: index, margin };
  }
  if (a.steps.length !== b.steps.length) throw new Error(`${a.steps.length} and ${b.steps.length} steps`);
  return { steps, margin: null };
}
