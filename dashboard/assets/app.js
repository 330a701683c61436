// What the pages do beyond HTML: live values, theme, keys. Everything shown is
// also there without this script.
'use strict';
(() => {
  const root = document.documentElement;
  root.classList.add('js');
  const stored = (() => { try { return localStorage.getItem('theme'); } catch { return null; } })();
  if (stored === 'light' || stored === 'dark') root.dataset.theme = stored;

  const toggleTheme = () => {
    const systemDark = matchMedia('(prefers-color-scheme: dark)').matches;
    const isDark = root.dataset.theme ? root.dataset.theme === 'dark' : systemDark;
    root.dataset.theme = isDark ? 'light' : 'dark';
    try { localStorage.setItem('theme', root.dataset.theme); } catch { /* private window */ }
  };

  const all = (selector, from = document) => from.querySelectorAll(selector);
  const states = ['ok', 'est', 'none', 'over', 'hidden'];

  // Puts a snapshot's values where they belong; touches only what changed.
  const apply = (live) => {
    for (const clock of all('[data-at]')) clock.textContent = live.at;
    for (const node of all('[data-live]')) {
      const text = live.text[node.dataset.live];
      if (text !== undefined && node.textContent !== text) node.textContent = text;
    }
    for (const node of all('[data-state]')) {
      const state = live.state[node.dataset.state];
      if (state && !node.classList.contains(state)) { node.classList.remove(...states); node.classList.add(state); }
    }
    for (const node of all('[data-bar]')) {
      const bar = live.bar[node.dataset.bar];
      if (bar) { node.setAttribute('x', bar[0] + '%'); node.setAttribute('width', bar[1] + '%'); }
    }
    for (const node of all('[data-mark]')) {
      const bar = live.bar[node.dataset.mark];
      if (bar) node.setAttribute('x', bar[0] + '%');
    }
    for (const node of all('[data-cell]')) {
      const cell = live.cell[node.dataset.cell];
      if (cell && node.title !== cell[1]) {
        node.className = 'cell ' + cell[0];
        node.title = cell[1];
        node.setAttribute('aria-label', cell[1]);
      }
    }
  };

  // Parts that are made anew on the server: charts and lists.
  const replace = async (box, address) => {
    if (box.dataset.busy || document.hidden) return;
    box.dataset.busy = 'yes';
    try {
      const answer = await fetch(address);
      if (answer.ok) {
        const open = box.querySelector('details')?.open;
        const focused = box.contains(document.activeElement);
        if (!focused) {
          box.innerHTML = await answer.text();
          const details = box.querySelector('details');
          if (details && open) details.open = true;
        }
      }
    } catch { /* the event stream tells of a lost connection */ } finally { delete box.dataset.busy; }
  };
  const chart = (box) => {
    const width = Math.round(Math.min(2400, Math.max(240, box.clientWidth)));
    const height = Math.round(Math.min(300, Math.max(190, width * 0.3)));
    return replace(box, `${box.dataset.chart}&inline=1&w=${width}&h=${height}`);
  };
  // Sections of this very page, made anew on the server.
  const renew = async () => {
    const boxes = all('[data-self]');
    if (!boxes.length || document.hidden) return;
    try {
      const answer = await fetch(location.pathname);
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
      for (const box of boxes) {
        const fresh = page.querySelector(`[data-self="${box.dataset.self}"]`);
        if (fresh && !box.contains(document.activeElement)) box.innerHTML = fresh.innerHTML;
      }
    } catch { /* the event stream tells of a lost connection */ }
  };
  const refresh = () => {
    renew();
    for (const box of all('[data-chart]')) chart(box);
    for (const box of all('[data-fragment]')) replace(box, box.dataset.fragment);
  };

  const listen = () => {
    const dot = document.getElementById('live-dot');
    const note = document.getElementById('live-note');
    const source = new EventSource('/events');
    source.addEventListener('snapshot', (event) => {
      apply(JSON.parse(event.data));
      for (const box of all('[data-now]')) replace(box, box.dataset.now);
      dot.className = 'dot on';
      note.textContent = '';
    });
    source.addEventListener('error', () => {
      dot.className = 'dot lost';
      note.textContent = 'connection lost, values are old';
    });
    // Without this, leaving the page counts as an error in some browsers.
    addEventListener('pagehide', () => source.close());
    setInterval(refresh, 5000);
  };

  // Arrow keys in the heat-map: one stop for the tab key, then by place.
  const heatmap = (map) => {
    const cells = [...all('.cell', map)];
    if (!cells.length) return;
    for (const cell of cells) cell.tabIndex = -1;
    cells[0].tabIndex = 0;
    map.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      const here = event.target.closest('.cell');
      if (!step || !here) return;
      event.preventDefault();
      const a = here.getBoundingClientRect();
      let best = null, least = Infinity;
      for (const cell of cells) {
        const b = cell.getBoundingClientRect();
        const along = (b.x - a.x) * step[0] + (b.y - a.y) * step[1];
        const across = Math.abs((b.x - a.x) * step[1]) + Math.abs((b.y - a.y) * step[0]);
        const distance = along + 4 * across;
        if (along > 2 && distance < least) { least = distance; best = cell; }
      }
      if (best) { here.tabIndex = -1; best.tabIndex = 0; best.focus(); }
    });
  };

  addEventListener('DOMContentLoaded', () => {
    document.getElementById('theme')?.addEventListener('click', toggleTheme);
    for (const map of all('[data-heatmap]')) heatmap(map);
    for (const box of all('[data-chart]')) chart(box);
    if (document.body.dataset.livePage === 'yes') listen();
    const keys = document.getElementById('keys');
    let before = '';
    addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|TEXTAREA|SELECT/.test(event.target.tagName)) return;
      const places = { o: '/', j: '/jobs', d: '/decisions' };
      if (event.key === '?') keys.showModal();
      else if (event.key === 't') toggleTheme();
      else if (before === 'g' && places[event.key]) location.href = places[event.key];
      before = event.key;
    });
  });
})();
