// What the journeys share: the real server on a free port, Chromium, stories to train on, screenshots.
//
// Environment, set by `cargo xtask test --only browser`: HILDA_BIN, CHROMIUM, NODE_MODULES (folder with playwright-core),
// SHOTS (folder for screenshots).
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';

const wanted = (name) => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; run these through: cargo xtask test --only browser`);
  return value;
};
const { chromium } = createRequire(path.join(wanted('NODE_MODULES'), 'journeys.js'))('playwright-core');

/** Waits until `check` gives something true; fails after `limit` ms with `what`. */
export async function until(what, check, limit = 60_000, pause = 50) {
  const end = Date.now() + limit;
  for (;;) {
    const value = await check();
    if (value) return value;
    if (Date.now() > end) throw new Error(`still waiting after ${limit} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

/** A temporary folder, removed when the process ends. */
export function folder() {
  const made = fs.mkdtempSync(path.join(os.tmpdir(), 'hilda-journey-'));
  process.on('exit', () => fs.rmSync(made, { recursive: true, force: true }));
  return made;
}

/** Processes whose command line mentions `needle`. Linux only; empty elsewhere. */
function processesOn(needle) {
  if (!fs.existsSync('/proc/self/cmdline')) return [];
  return fs.readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(needle);
    } catch {
      return false; // ended meanwhile
    }
  }).map(Number);
}

const servers = new Set();
process.on('exit', () => servers.forEach((server) => server.kill()));

/** `hilda serve` on a free port with its data in `data`. */
export class Server {
  static async start(data) {
    const server = new Server();
    server.data = data;
    server.log = '';
    server.child = spawn(wanted('HILDA_BIN'), ['serve', '--port', '0', '--data-dir', data], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    server.ended = new Promise((resolve) => server.child.on('exit', resolve));
    for (const stream of [server.child.stdout, server.child.stderr]) {
      stream.on('data', (text) => (server.log += text));
    }
    servers.add(server);
    server.url = await until(
      `the server's address in: ${server.log}`,
      () => {
        if (server.child.exitCode !== null) throw new Error(`the server ended:\n${server.log}`);
        return /HILDA is at (http:\/\/\S+)/.exec(server.log)?.[1];
      },
      30_000,
    );
    return server;
  }

  async api(call, options) {
    const answer = await fetch(this.url + call, options);
    if (!answer.ok) throw new Error(`${call}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }

  /** Ends server and trainers at once, as a power cut would. */
  kill() {
    servers.delete(this);
    if (this.child.exitCode === null) this.child.kill('SIGKILL');
    for (const pid of processesOn(this.data)) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // ended meanwhile
      }
    }
  }

  async stop() {
    this.kill();
    await this.ended;
  }
}

/** Registers a corpus of short stories, no two alike, under the name `stories`. */
export function addStories(data) {
  const names = ['Tom', 'Lily', 'Ben', 'Mia', 'Sam', 'Anna', 'Max', 'Sue'];
  const things = ['red ball', 'small boat', 'old book', 'green hat', 'warm cake', 'long rope', 'blue cup'];
  const stories = Array.from({ length: 400 }, (_, i) => {
    const [name, friend, thing] = [names[i % 8], names[(i + 3) % 8], things[Math.floor(i / 3) % 7]];
    return `Once upon a time there was a child named ${name}. One day ${name} found a ${thing}. "Look at my ${thing} `
      + `number ${i}," said ${name}. ${friend} came too. They played until the sun went down.`;
  });
  const file = path.join(data, '..', `stories-${path.basename(data)}.txt`);
  fs.writeFileSync(file, stories.join('\n<|endoftext|>\n'));
  const added = spawnSync(wanted('HILDA_BIN'), ['data', 'add', 'stories', file, '--data-dir', data], {
    encoding: 'utf8',
  });
  fs.rmSync(file);
  if (added.status !== 0) throw new Error(`hilda data add: ${added.stderr}`);
}

/** A recipe of `steps` steps of 8 x 64 tokens on the corpus `stories`. */
export const recipe = (name, steps) => `name = "${name}"
about = "A test of the machinery, not of a method."
seed = 3
device = "cpu"
[model]
size = "tiny"
context = 64
[data]
corpus = "stories"
vocab = 320
[data.packing]
length = 64
[batch]
rows = 8
[eval]
every = 20
rows = 8
[checkpoint]
every = 10
[sample]
length = 16
[[phase]]
objective = "mdlm"
tokens = ${steps * 512}
lr = { peak = 3e-3, warmup = 5 }
`;

/** What `hilda sample` writes on the CPU with the demo model for a request of the page; its record. */
export function sample(prompt, { length, prompt: ids, policy, temperature, seed }, arithmetic = 'f32') {
  const args = ['sample', '--json', '--model', 'public/models/hilda-tiny', '--prompt', prompt, '--arithmetic', arithmetic];
  args.push('--length', length - ids.length, '--policy', JSON.stringify(policy));
  args.push('--temperature', temperature, '--seed', seed);
  const ended = spawnSync(wanted('HILDA_BIN'), args.map(String), { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (ended.status !== 0) throw new Error(`hilda ${args.join(' ')}: ${ended.stderr}`);
  return JSON.parse(ended.stdout).trajectory;
}

// A closed network makes Chromium's own traffic fail many times a second; these switch it off.
const FLAGS = [
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
];

/** A browser; with `webgpu` the page finds Chromium's software adapter, else none. */
export function launch({ webgpu = false } = {}) {
  return chromium.launch({
    executablePath: wanted('CHROMIUM'),
    headless: true,
    args: [...FLAGS, ...(webgpu ? ['--enable-unsafe-webgpu'] : ['--disable-gpu'])],
  });
}

/** A page in a new profile. Collects errors in `page.trouble` and long tasks of its main thread (ms) on request. */
export async function visit(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
  const page = await context.newPage();
  page.trouble = [];
  page.on('pageerror', (error) => page.trouble.push(`error: ${error.message}`));
  page.on('console', (message) => {
    if (message.type() === 'error') page.trouble.push(`console: ${message.text()}`);
  });
  page.on('requestfailed', (request) => {
    const why = request.failure()?.errorText ?? '';
    // a stream that the page closes itself is not trouble
    if (why !== 'net::ERR_ABORTED') page.trouble.push(`request: ${request.url()} ${why}`);
  });
  await page.addInitScript(() => {
    globalThis.longTasks = [];
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) globalThis.longTasks.push([entry.startTime, entry.duration]);
    }).observe({ type: 'longtask', buffered: true });
  });
  await page.goto(url);
  return page;
}

/** Longest main-thread task since `since` (page time in ms), 0 if none took 50 ms. */
export const longestTask = (page, since = 0) =>
  page.evaluate((since) => Math.max(0, ...longTasks.filter(([at]) => at >= since).map(([, ms]) => ms)), since);

/** Screenshot `NAME.png` in the folder SHOTS. */
export async function shot(page, name) {
  const folder = wanted('SHOTS');
  fs.mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: path.join(folder, `${name}.png`) });
}
