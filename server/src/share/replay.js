'use strict';
(() => {
  const data = JSON.parse(document.getElementById('replay').textContent);
  const [canvas, scrub, play, log] = ['canvas', 'scrub', 'play', 'log'].map(id => document.getElementById(id));
  const text = id => data.pieces[id] ?? '\uFFFD';
  const last = data.frames.length;
  let at = 0, timer = 0;

  // The text after n steps: every action is replayed from the start, which is cheap at this size.
  function state(n) {
    const cells = data.initial.map(([status, id]) => ({ status, id, mark: '', old: null }));
    for (let i = 0; i < n; i++) {
      for (const c of cells) { c.mark = ''; c.old = null; }
      for (const [kind, pos, old, id] of data.frames[i].actions) {
        const c = cells[pos];
        if (kind === 'm' || kind === 'r') { c.status = 'masked'; c.id = data.mask; continue; }
        c.status = kind === 'f' ? 'fixed' : 'written';
        c.id = id;
        c.mark = kind === 'e' ? 'edited' : kind === 'c' ? 'new' : '';
        c.old = kind === 'e' ? old : null;
      }
    }
    return cells;
  }

  function show(n) {
    at = Math.max(0, Math.min(last, n));
    scrub.value = at;
    const cells = state(at);
    const end = cells.findIndex((c, i) => i >= data.prompt && c.status !== 'masked' && c.id === data.eos);
    canvas.replaceChildren();
    cells.forEach((c, i) => {
      if (c.status !== 'masked' && (c.id === data.eos || (end >= 0 && i >= end))) return;
      if (c.old !== null) {
        const del = document.createElement('del');
        del.textContent = text(c.old);
        canvas.append(del);
      }
      const span = document.createElement('span');
      span.textContent = c.status === 'masked' ? '\u2007\u2007\u2007\u2007 ' : text(c.id);
      span.className = [c.status, c.mark].join(' ').trim();
      canvas.append(span);
    });
    const masked = cells.filter(c => c.status === 'masked').length;
    const edits = at ? data.frames[at - 1].actions.filter(a => a[0] === 'e').length : 0;
    log.textContent = `step ${at} of ${last}, ${masked} masked` + (edits ? `, ${edits} edited` : '');
  }

  function stop() { clearInterval(timer); timer = 0; play.textContent = 'Play'; }
  function start() {
    if (at >= last) show(0);
    play.textContent = 'Pause';
    timer = setInterval(() => { show(at + 1); if (at >= last) stop(); }, 220);
  }

  scrub.max = last;
  scrub.addEventListener('input', () => { stop(); show(+scrub.value); });
  play.addEventListener('click', () => (timer ? stop() : start()));
  document.getElementById('back').addEventListener('click', () => { stop(); show(at - 1); });
  document.getElementById('next').addEventListener('click', () => { stop(); show(at + 1); });
  show(last);
})();
