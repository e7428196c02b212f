// The playground as a person sees it: what its marks, counters and buttons say.
import { until } from './harness.mjs';

/** The text shown, masks as low lines, for people who listen. */
export const text = (page) => page.locator('.canvas > p.visually-hidden').textContent();

/** How many positions are masked now. */
export const masked = (page) => page.locator('.canvas .tok.masked').count();

/** Text of the step counter. */
export const counters = (page) => page.locator('.counters').first().innerText();

/** Where the model runs, as the page says it. */
export const device = (page) => page.locator('.pill.device').innerText();

/** Waits until text is there and no mask is left; the text. */
export async function written(page, limit = 120_000) {
  await until('the first token on the canvas', async () => (await page.locator('.canvas .tok').count()) > 0, limit);
  await until(
    'a text without masks',
    async () => (await masked(page)) === 0 && /step (\d+) of \1\b/.test(await counters(page)),
    limit,
  );
  return text(page);
}
