"use strict";
// Draws one recorded run. Everything is in `run`; nothing is ever loaded. What comes from the run is put on the
// page as text only.
(() => {
  const run = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const [AT, LANE, TONE, TEXT, ORDERS] = [0, 1, 2, 3, 4];
  const last = run.steps.length - 1;
  const reduced = matchMedia("(prefers-color-scheme: dark)");

  // --- where we are ---------------------------------------------------------------------------------------------

  const rows = new Array(run.rows.length).fill(null); // what each row shows at the present step
  let at = -1; // the step whose effect `rows` shows
  let dirty = new Set(); // rows that moved since the panels were drawn
  let fresh = new Set(); // rows that the present step itself changed

  function seek(step) {
    while (at < step) {
      at += 1;
      for (const [row, , after] of run.changes[at]) { rows[row] = after; dirty.add(row); }
    }
    while (at > step) {
      for (const [row, before] of run.changes[at].slice().reverse()) { rows[row] = before; dirty.add(row); }
      at -= 1;
    }
    for (const row of fresh) dirty.add(row);
    fresh = new Set(run.changes[at].map((change) => change[0]));
    for (const row of fresh) dirty.add(row);
  }

  function chain(step, orders) {
    const seen = new Set();
    const waiting = [step];
    while (waiting.length) {
      const one = waiting.pop();
      const about = run.steps[one][ORDERS];
      if (seen.has(one) || (orders.length && about.length && !about.some((order) => orders.includes(order)))) continue;
      seen.add(one);
      waiting.push(...run.causes[one]);
    }
    return seen;
  }

  // --- what is shown --------------------------------------------------------------------------------------------

  const ROW = 28, TOP = 26, TOGETHER = 24; // more orders than this share one lane, until one is chosen
  const view = { filter: "all", together: run.orders.length > TOGETHER, scale: "step", zoom: 1, orders: null, steps: [], x: new Float64Array(run.steps.length), lanes: [], y: [], width: 0, height: 0 };
  let gutter = 120;
  const laneOfOrder = new Map(run.orders.map((name, order) => [order, run.lanes.findIndex((lane) => lane.name === `order:${name}`)]));
  const colourOf = {}; // read from the style sheet, so that light and dark come from one place

  function wanted() {
    if (view.filter === "all") return null;
    if (view.filter === "wrong") return new Set(run.accused);
    return new Set([Number(view.filter)]);
  }

  // Of what is about no order in particular: ends of engines, and what befell everybody.
  function befellAll(lane, tone) {
    const { group, name } = run.lanes[lane];
    if (tone === "crash" || (group === "world" && tone === "plain")) return true;
    return tone === "fault" ? group === "psp" || group === "store" || group === "world" : name.startsWith("engine-") && tone === "plain";
  }

  const everUsed = new Set(run.steps.map((step) => step[LANE]));
  function choose() {
    const orders = wanted(), used = new Set();
    $("each").parentElement.hidden = orders !== null || run.orders.length < 2;
    view.orders = orders;
    view.steps = [];
    for (let step = 0; step <= last; step += 1) {
      const [, lane, tone, , about] = run.steps[step];
      if (orders === null || (about.length ? about.some((order) => orders.has(order)) : befellAll(lane, tone))) { view.steps.push(step); used.add(lane); }
    }
    for (const order of orders || []) used.add(laneOfOrder.get(order));
    run.lanes.forEach((lane, number) => { if (lane.name === "store" || (lane.group === "psp" && everUsed.has(number))) used.add(number); });
    const one = orders === null && view.together; // all orders in one lane
    const first = laneOfOrder.get(0);
    const fits = (number) => run.lanes[number].group !== "order" || (one ? number === first : orders === null || orders.has(run.orders.indexOf(run.lanes[number].label)));
    if (one) used.add(first);
    view.lanes = run.lanes.map((_, number) => number).filter((number) => used.has(number) && fits(number));
    view.y = new Array(run.lanes.length).fill(-1);
    view.lanes.forEach((lane, place) => { view.y[lane] = TOP + place * ROW + ROW / 2; });
    if (one) for (const lane of laneOfOrder.values()) view.y[lane] = view.y[first];
    view.one = one;
    view.height = TOP + view.lanes.length * ROW + 6;
    spread();
  }

  function spread() {
    const start = gutter + 16;
    let x = start, before = 0, visible = 0;
    const span = Math.max(1, run.steps[last][AT]);
    for (let step = 0; step <= last; step += 1) {
      const now = run.steps[step][AT];
      const shown = visible < view.steps.length && view.steps[visible] === step;
      if (view.scale === "time") {
        x = start + (now / span) * 3000 * view.zoom;
      } else if (shown) {
        // Each step has room of its own; a pause has more the longer it is, but not in proportion.
        if (visible > 0) x += (9 + 7 * Math.log10(1 + (now - before) / 300)) * view.zoom;
        before = now;
      }
      if (shown) visible += 1;
      view.x[step] = x;
    }
    view.width = x + 60;
    $("extent").style.width = `${view.width}px`;
    $("extent").style.height = `${view.height}px`;
  }

  // --- the picture ----------------------------------------------------------------------------------------------

  const canvas = $("canvas"), pen = canvas.getContext("2d"), box = $("lanes");
  const ARROWS = { request: "accent", answer: "answer", webhook: "crash", write: "soft", commit: "soft", client: "ink", order: "soft" };
  const TONES = { plain: "ink", quiet: "soft", fault: "fault", lost: "fault", crash: "crash", money: "good" };
  const STATES = { NOT_STARTED: "soft", IN_REVIEW: "answer", EXECUTING: "accent", AWAITING_BUYER: "answer", PENDING: "answer", UNKNOWN: "fault", RETRY_WAIT: "crash", SUCCESS: "good", FAILED: "bad", CANCELLED: "bad" };

  // The states of each order, and the times at which no engine was up, once and for all.
  const bands = new Map(run.orders.map((_, order) => [order, []]));
  const outages = [];
  {
    const alive = new Map();
    const order = new Map(run.orders.map((name, number) => [name, number]));
    let downSince = 0;
    run.changes.forEach((changes, step) => {
      for (const [row, before, after] of changes) {
        const [kind, name] = run.rows[row];
        if (kind === "order" && (before === null || before[2] !== after[2])) bands.get(order.get(name)).push([step, after[2]]);
        if (kind === "engine") alive.set(name, after[1]);
      }
      const up = [...alive.values()].includes("up");
      if (!up && downSince === null) downSince = step;
      if (up && downSince !== null) { outages.push([downSince, step]); downSince = null; }
    });
    if (downSince !== null && downSince > 0) outages.push([downSince, last]);
  }
  const wrongAt = new Map();
  for (const [step, , text] of run.verdicts) wrongAt.set(step, [...(wrongAt.get(step) || []), text]);

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["paper", "panel", "ink", "soft", "line", "band", "accent", "good", "bad", "fault", "crash", "answer", "mark"]) colourOf[name] = style.getPropertyValue(`--${name}`).trim();
  }

  let led = new Set(), queued = false;
  function paintSoon() {
    if (!queued) { queued = true; requestAnimationFrame(() => { queued = false; paint(); }); }
  }

  function paint() {
    const wide = box.clientWidth, high = box.clientHeight, sharp = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(wide * sharp) || canvas.height !== Math.round(high * sharp)) {
      canvas.width = Math.round(wide * sharp); canvas.height = Math.round(high * sharp);
      canvas.style.width = `${wide}px`; canvas.style.height = `${high}px`;
    }
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.fillStyle = colourOf.paper; pen.fillRect(0, 0, wide, high);
    pen.font = "12px system-ui, sans-serif"; pen.textBaseline = "middle";
    const left = box.scrollLeft, top = box.scrollTop;
    const X = (step) => view.x[step] - left, Y = (lane) => view.y[lane] - top;
    pen.save();
    pen.beginPath(); pen.rect(gutter, TOP, wide - gutter, high - TOP); pen.clip();
    paintLanes(X, Y, wide, high);
    paintArrows(X, Y, wide);
    paintSteps(X, Y, wide);
    pen.restore();
    paintTimes(X, wide);
    paintNames(Y, wide, high);
  }

  function paintLanes(X, Y, wide, high) {
    for (const lane of view.lanes) {
      const y = Y(lane);
      if (y < TOP - ROW || y > high + ROW) continue;
      pen.strokeStyle = colourOf.line; pen.lineWidth = 1;
      pen.beginPath(); pen.moveTo(gutter, y); pen.lineTo(wide, y); pen.stroke();
      if (run.lanes[lane].group === "order" && !view.one) paintBand(run.orders.indexOf(run.lanes[lane].label), X, y, wide);
    }
    // A process that is gone leaves a break in every lane of the engine.
    for (const [from, to] of outages) {
      const x0 = Math.max(gutter, X(from)), x1 = X(to);
      if (x1 < gutter || x0 > wide || from === 0) continue;
      for (const lane of view.lanes) {
        const group = run.lanes[lane].group;
        if (group !== "engine" && group !== "order") continue;
        pen.fillStyle = colourOf.paper; pen.fillRect(x0, Y(lane) - ROW / 2 + 2, Math.max(6, x1 - x0), ROW - 4);
        pen.strokeStyle = colourOf.crash; pen.setLineDash([2, 4]);
        pen.beginPath(); pen.moveTo(x0, Y(lane)); pen.lineTo(Math.max(x0 + 6, x1), Y(lane)); pen.stroke();
        pen.setLineDash([]);
      }
      pen.strokeStyle = colourOf.crash;
      pen.beginPath(); pen.moveTo(x0, TOP); pen.lineTo(x0, high); pen.stroke();
    }
  }

  function paintBand(order, X, y, wide) {
    const band = bands.get(order);
    band.forEach(([step, state], place) => {
      const x0 = Math.max(gutter, X(step)), ends = place + 1 < band.length ? X(band[place + 1][0]) : ["SUCCESS", "FAILED", "CANCELLED"].includes(state) ? X(step) + 26 : X(last);
      if (ends < gutter || x0 > wide) return;
      pen.globalAlpha = 0.3; pen.fillStyle = colourOf[STATES[state]];
      pen.fillRect(x0, y - 6, Math.max(2, ends - x0), 12);
      pen.globalAlpha = 1;
      if (pen.measureText(state).width * 0.75 < ends - x0 || ends - x0 > 70) { pen.fillStyle = colourOf[STATES[state]]; pen.font = "9px system-ui, sans-serif"; pen.fillText(state, x0 + 1, y - 11, ends - x0 - 2); pen.font = "12px system-ui, sans-serif"; }
    });
  }

  // A batch is about many orders; of one that was chosen, only its part is told.
  function sentence(step) {
    const parts = run.parts[step], one = view.orders !== null && view.orders.size === 1 ? [...view.orders][0] : null;
    return (parts && parts[one]) || run.steps[step][TEXT];
  }

  function concerns(orders) {
    return view.orders === null || orders.length === 0 || orders.some((order) => view.orders.has(order));
  }

  function paintArrows(X, Y, wide) {
    for (const [kind, from, fromLane, to, toLane, orders] of run.arrows) {
      if (view.y[fromLane] < 0 || view.y[toLane] < 0 || !concerns(orders)) continue;
      const x0 = X(from), y0 = Y(fromLane), lost = to < 0;
      const x1 = lost ? x0 + 30 : X(to), y1 = lost ? y0 + (Y(toLane) - y0) * 0.45 : Y(toLane);
      if (Math.max(x0, x1) < gutter || Math.min(x0, x1) > wide) continue;
      const bold = led.has(from) && (lost || led.has(to));
      pen.strokeStyle = pen.fillStyle = lost ? colourOf.bad : colourOf[ARROWS[kind]];
      pen.lineWidth = bold ? 2.4 : 1; pen.globalAlpha = bold || lost ? 1 : led.size ? 0.45 : 0.8;
      pen.setLineDash(lost ? [5, 3] : kind === "webhook" ? [6, 2] : kind === "order" ? [1, 2] : []);
      pen.beginPath(); pen.moveTo(x0, y0); pen.lineTo(x1, y1); pen.stroke();
      pen.setLineDash([]);
      if (lost) cross(x1, y1, 4); else if (kind !== "order") head(x0, y0, x1, y1);
    }
    pen.globalAlpha = 1;
  }

  function head(x0, y0, x1, y1) {
    const angle = Math.atan2(y1 - y0, x1 - x0);
    pen.beginPath(); pen.moveTo(x1, y1);
    pen.lineTo(x1 - 8 * Math.cos(angle - 0.4), y1 - 8 * Math.sin(angle - 0.4));
    pen.lineTo(x1 - 8 * Math.cos(angle + 0.4), y1 - 8 * Math.sin(angle + 0.4));
    pen.fill();
  }

  function cross(x, y, size) {
    pen.lineWidth = 2; pen.beginPath();
    pen.moveTo(x - size, y - size); pen.lineTo(x + size, y + size); pen.moveTo(x - size, y + size); pen.lineTo(x + size, y - size);
    pen.stroke();
  }

  function paintSteps(X, Y, wide) {
    const here = X(at);
    pen.fillStyle = colourOf.accent; pen.globalAlpha = 0.16; pen.fillRect(here - 4, 0, 8, 5000); pen.globalAlpha = 1;
    for (const step of view.steps) {
      const x = X(step);
      if (x < gutter - 8 || x > wide + 8) continue;
      const [, lane, tone] = run.steps[step], y = Y(lane);
      pen.fillStyle = pen.strokeStyle = colourOf[TONES[tone]];
      if (tone === "fault") bolt(x, y);
      else if (tone === "crash") cross(x, y, 5);
      else if (tone === "money") { pen.beginPath(); pen.moveTo(x, y - 7); pen.lineTo(x + 7, y); pen.lineTo(x, y + 7); pen.lineTo(x - 7, y); pen.fill(); }
      else if (tone === "lost") { pen.lineWidth = 2; pen.beginPath(); pen.arc(x, y, 4, 0, 7); pen.stroke(); }
      else { pen.beginPath(); pen.arc(x, y, tone === "quiet" ? 2 : 3.2, 0, 7); pen.fill(); }
      if (led.has(step)) { pen.strokeStyle = colourOf.accent; pen.lineWidth = 1.5; pen.beginPath(); pen.arc(x, y, 8, 0, 7); pen.stroke(); }
      if (wrongAt.has(step)) { pen.strokeStyle = colourOf.bad; pen.lineWidth = 2.5; pen.beginPath(); pen.arc(x, y, 11, 0, 7); pen.stroke(); }
    }
    pen.strokeStyle = colourOf.accent; pen.lineWidth = 2;
    if (here >= gutter) { pen.beginPath(); pen.arc(here, Y(run.steps[at][LANE]), 9, 0, 7); pen.stroke(); }
  }

  function bolt(x, y) {
    pen.beginPath(); pen.moveTo(x + 2, y - 8); pen.lineTo(x - 5, y + 2); pen.lineTo(x, y + 2); pen.lineTo(x - 2, y + 8); pen.lineTo(x + 5, y - 2); pen.lineTo(x, y - 2); pen.fill();
  }

  function paintTimes(X, wide) {
    pen.fillStyle = colourOf.panel; pen.fillRect(gutter, 0, wide - gutter, TOP - 2);
    pen.fillStyle = colourOf.soft; pen.font = "11px system-ui, sans-serif";
    let free = gutter;
    for (const step of view.steps) {
      const x = X(step);
      if (x < free || x > wide) continue;
      pen.fillRect(x, TOP - 6, 1, 4);
      pen.fillText(`${(run.steps[step][AT] / 1e6).toFixed(3)} s`, x + 3, TOP / 2 - 1);
      free = x + 78;
    }
    const here = X(at);
    if (here >= gutter) { pen.fillStyle = colourOf.accent; pen.beginPath(); pen.moveTo(here - 5, TOP - 8); pen.lineTo(here + 5, TOP - 8); pen.lineTo(here, TOP); pen.fill(); }
  }

  function paintNames(Y, wide, high) {
    pen.fillStyle = colourOf.panel; pen.fillRect(0, 0, gutter, high);
    pen.font = "12px system-ui, sans-serif";
    for (const lane of view.lanes) {
      const y = Y(lane), { label, group } = run.lanes[lane];
      if (y < TOP || y > high + ROW) continue;
      const order = group === "order" ? run.orders.indexOf(label) : -1;
      pen.fillStyle = run.accused.includes(order) && !view.one ? colourOf.bad : group === "psp" ? colourOf.good : group === "order" ? colourOf.ink : colourOf.soft;
      pen.fillText(group === "order" && view.one ? `${run.orders.length} orders` : label, 8, y, gutter - 14);
    }
    pen.fillStyle = colourOf.panel; pen.fillRect(0, 0, gutter, TOP - 2);
    pen.fillStyle = colourOf.soft; pen.fillText("time", 8, TOP / 2 - 1);
    pen.strokeStyle = colourOf.line; pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(gutter + 0.5, 0); pen.lineTo(gutter + 0.5, high); pen.stroke();
  }

  // --- the panels -----------------------------------------------------------------------------------------------

  const TABLES = {
    order: ["order", "amount", "state", "attempt", "PSP", "books", "why"],
    payment: ["PSP", "order", "key", "amount", "status"],
    account: ["account", "debited", "credited", "balance"],
    wallet: ["seller", "available", "pending", "held"],
    letter: ["order", "reason", "dead letter"],
    mismatch: ["order", "mismatch", "amount", "PSP", "remedy"],
  };
  const NUMBERS = new Set(["amount", "debited", "credited", "balance", "available", "pending", "held"]);
  const EMPTY = { order: "no payment order is recorded", payment: "nothing", account: "nothing is posted", wallet: "nobody has anything", letter: "nobody", mismatch: "" };
  const NOTES = { engine: ([name, state]) => `${name} ${state}`, queue: ([name, count]) => (count && !isGone(name.split(" ")[0]) ? `${name}: ${count}` : null), cursor: ([name, position]) => `receiver ${name} has ${position} events`, psp: ([name, state]) => (state === "up" ? null : `${name} ${state}`) };
  // What waited in an engine that is gone is forgotten.
  const engines = new Map();
  function isGone(name) { return engines.has(name) && !(rows[engines.get(name)] || [])[1]?.match(/^(up|paused)$/); }
  const bodies = {}, lines = new Array(run.rows.length).fill(null);
  const rowsOf = {};
  run.rows.forEach(([kind, name], row) => { if (kind === "engine") engines.set(name, row); (rowsOf[kind] = rowsOf[kind] || []).push(row); });
  const collator = new Intl.Collator("en", { numeric: true });
  for (const kind of Object.keys(rowsOf)) rowsOf[kind].sort((one, other) => collator.compare(run.rows[one][1], run.rows[other][1]));
  const truthOf = new Map(run.orders.map((name) => [name, new Set()])); // the PSPs' rows about each order
  const beliefOf = new Map((rowsOf.order || []).map((row) => [run.rows[row][1], row]));
  for (const changes of run.changes) {
    for (const [row, , cells] of changes) {
      if (run.rows[row][0] === "payment" && truthOf.has(cells[1])) truthOf.get(cells[1]).add(row);
    }
  }

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function makeTables() {
    for (const [kind, columns] of Object.entries(TABLES)) {
      const table = element("table"), top = table.createTHead().insertRow();
      for (const column of columns) top.append(element("th", column, NUMBERS.has(column) ? "number" : ""));
      bodies[kind] = table.createTBody();
      for (const row of rowsOf[kind] || []) {
        const line = bodies[kind].insertRow();
        line.hidden = true;
        lines[row] = line;
        columns.forEach((column) => line.append(element("td", "", NUMBERS.has(column) ? "number" : column)));
      }
      $(kind).append(table, element("p", EMPTY[kind], "empty"));
    }
  }

  function orderOf(kind, cells) {
    if (kind === "order" || kind === "letter" || kind === "mismatch") return cells[0];
    return kind === "payment" ? cells[1] : null;
  }

  const NOT_CHARGED = new Set(["NOT_STARTED", "IN_REVIEW", "RETRY_WAIT", "FAILED", "CANCELLED"]);
  function contradicts(cells) {
    const charged = [...truthOf.get(cells[0])].filter((row) => rows[row] !== null && rows[row][4] === "charged").length;
    return cells[2] === "SUCCESS" ? charged !== 1 : charged > 1 || (charged > 0 && NOT_CHARGED.has(cells[2]));
  }

  function fill() {
    // What a PSP knows may contradict what we believe of the order.
    for (const row of [...dirty]) {
      const belief = run.rows[row][0] === "payment" && rows[row] !== null ? beliefOf.get(rows[row][1]) : undefined;
      if (belief !== undefined) dirty.add(belief);
    }
    for (const row of dirty) {
      const line = lines[row];
      if (!line) continue;
      const kind = run.rows[row][0], cells = rows[row];
      line.hidden = cells === null || !isShown(kind, cells);
      if (line.hidden) continue;
      cells.forEach((cell, place) => { const text = place === 0 && (kind === "account" || kind === "wallet") ? brief(String(cell)) : String(cell); if (line.cells[place].textContent !== text) { line.cells[place].textContent = text; if (String(cell).length > 12) line.cells[place].title = cell; } });
      if (kind === "order") { line.cells[2].className = `state ${cells[2]}`; line.classList.toggle("odd", contradicts(cells)); }
      if (kind === "payment") line.cells[4].className = `state ${cells[4]}`;
      line.classList.toggle("new", fresh.has(row));
    }
    dirty = new Set();
    for (const kind of Object.keys(TABLES)) {
      const any = (rowsOf[kind] || []).some((row) => !lines[row].hidden);
      $(kind).firstChild.hidden = !any;
      $(kind).lastChild.hidden = any;
    }
    for (const [kind, say] of Object.entries(NOTES)) {
      $(kind).textContent = (rowsOf[kind] || []).map((row) => (rows[row] === null ? null : say(rows[row]))).filter(Boolean).join("\n");
    }
  }

  function brief(name) { // bank accounts are long; their ends tell them apart
    return name.split(":").map((part) => (/^[A-Z]{2}[0-9]/.test(part) && part.length > 12 ? `${part.slice(0, 4)}…${part.slice(-4)}` : part)).join(" ");
  }

  function isShown(kind, cells) {
    if (kind === "letter" && cells[2] !== "open") return false;
    const order = orderOf(kind, cells);
    return order === null || view.orders === null || view.orders.has(run.orders.indexOf(order));
  }

  // --- the present step -----------------------------------------------------------------------------------------

  function clock(us) {
    const text = (us / 1e6).toFixed(us % 1000 ? 6 : 3);
    return `${text} s`;
  }

  function show(step, { follow = true } = {}) {
    step = Math.max(0, Math.min(last, step));
    seek(step);
    const [when, lane, tone, , about] = run.steps[step], text = sentence(step);
    led = chain(step, view.orders === null ? about : [...view.orders]);
    // What is wrong may be found at a step that is about nobody: then its order's own last step leads there.
    for (const [, , , order] of run.verdicts.filter((one) => one[0] === step && one[3] >= 0 && !about.includes(one[3]))) {
      const before = lastAbout(order, step);
      if (before !== null && (view.orders === null || view.orders.has(order))) for (const one of chain(before, [order])) led.add(one);
    }
    $("sentence").textContent = text;
    $("now").dataset.tone = tone;
    $("found").replaceChildren(...(wrongAt.get(step) || []).map((one) => element("li", `✗ ${one}`)));
    const place = placeOf(step);
    $("slider").value = place;
    $("slider").setAttribute("aria-valuetext", `${clock(when)}, ${text}`);
    $("place").textContent = `step ${step} of ${last} · ${clock(when)} · ${run.lanes[lane].label}`;
    fill();
    explain();
    if (follow) reveal(step, lane);
    paintSoon();
  }

  function lastAbout(order, step) {
    for (let one = step; one >= 0; one -= 1) if (run.steps[one][ORDERS].includes(order)) return one;
    return null;
  }

  function explain() {
    const steps = [...led].sort((one, other) => one - other).filter((one) => run.steps[one][TONE] !== "quiet").slice(-24);
    $("why").replaceChildren(...steps.map((step) => {
      const line = element("li"), button = element("button"), tone = run.steps[step][TONE];
      button.append(element("time", `${(run.steps[step][AT] / 1e6).toFixed(3)} s`), element("span", sentence(step), tone));
      button.addEventListener("click", () => show(step));
      line.append(button);
      return line;
    }));
    $("why").scrollTop = $("why").scrollHeight;
  }

  function reveal(step, lane) {
    const x = view.x[step], y = view.y[lane], room = box.clientWidth;
    if (x < box.scrollLeft + gutter + 40 || x > box.scrollLeft + room - 60) box.scrollLeft = x - gutter - (room - gutter) * 0.4;
    if (y >= 0 && (y < box.scrollTop + TOP + ROW || y > box.scrollTop + box.clientHeight - ROW)) box.scrollTop = y - box.clientHeight / 2;
  }

  function placeOf(step) { // in the visible steps: the last one that is not after `step`
    let low = 0, high = view.steps.length - 1;
    while (low < high) { const middle = (low + high + 1) >> 1; if (view.steps[middle] <= step) low = middle; else high = middle - 1; }
    return low;
  }

  function move(by) {
    const place = placeOf(at), now = view.steps[place];
    const target = by < 0 && now < at ? place : place + by;
    show(view.steps[Math.max(0, Math.min(view.steps.length - 1, target))]);
  }

  // --- controls -------------------------------------------------------------------------------------------------

  let playing = null;
  function play(on) {
    clearInterval(playing);
    playing = on ? setInterval(() => { if (placeOf(at) >= view.steps.length - 1) play(false); else move(1); }, 140) : null;
    $("play").textContent = on ? "Pause" : "Play";
  }

  function refilter() {
    choose();
    $("slider").max = view.steps.length - 1;
    for (let row = 0; row < rows.length; row += 1) dirty.add(row);
    show(view.steps[placeOf(Math.max(0, at))]);
  }

  function zoom(by) {
    view.zoom = Math.max(0.15, Math.min(12, view.zoom * by));
    spread();
    show(at);
  }

  function fit() {
    gutter = box.clientWidth < 560 ? 84 : 124;
    spread();
    paintSoon();
  }

  function nearest(event) {
    const bounds = canvas.getBoundingClientRect();
    const x = event.clientX - bounds.left + box.scrollLeft, y = event.clientY - bounds.top + box.scrollTop;
    if (event.clientX - bounds.left < gutter) return null;
    let best = null, distance = Infinity;
    for (const step of view.steps) {
      const dx = Math.abs(view.x[step] - x), dy = Math.abs(view.y[run.steps[step][LANE]] - y);
      if (dx > 40) continue;
      const far = dx + dy * 1.5;
      if (far < distance) { best = step; distance = far; }
    }
    return best;
  }

  function legend() {
    const entries = [["accent", "request, and EXECUTING"], ["answer", "answer, and waiting for the buyer or the PSP"], ["crash", "webhook (dashed), crash ✕, and RETRY_WAIT"], ["soft", "to the database and back"], ["good", "◆ money taken, and SUCCESS"], ["bad", "✕ message lost; red ring: something is wrong; FAILED"], ["fault", "↯ fault, ○ nothing heard, and UNKNOWN"]];
    for (const [name, text] of entries) {
      const line = element("span"), swatch = element("i");
      swatch.style.background = `var(--${name})`;
      line.append(swatch, text);
      $("legend").append(line);
    }
    $("legend").append(element("span", "Ringed steps and thick arrows led to the present step. A broken lane: the engine was down."));
  }

  function begin() {
    $("title").textContent = run.title;
    const bad = run.broken.length > 0;
    document.querySelector("header").classList.toggle("bad", bad);
    $("verdict").textContent = bad ? `✗ ${run.broken.length === 1 ? "One thing is" : `${run.broken.length} things are`} wrong${run.money === "no money" ? "" : `: ${run.money}`}. ${run.broken[0]}` : "✓ Every invariant held.";
    if (run.broken.length > 1) {
      $("wrongs").hidden = false;
      $("wrongs").querySelector("summary").textContent = `All ${run.broken.length}`;
      $("wrongs").querySelector("ul").append(...run.broken.map((one) => element("li", one)));
    }
    const options = [["all", run.orders.length === 1 ? "everything" : `all ${run.orders.length} orders`]];
    if (run.accused.length && run.accused.length < run.orders.length) options.push(["wrong", "what is wrong"]);
    run.orders.forEach((name, order) => options.push([String(order), run.accused.includes(order) ? `${name} ✗` : name]));
    for (const [value, text] of options) { const option = element("option", text); option.value = value; $("filter").append(option); }
    view.filter = run.accused.length ? String(run.accused[0]) : "all";
    $("filter").value = view.filter;
    $("each").checked = !view.together;
    $("wrong").hidden = run.verdicts.length === 0;
    legend();
    readColours();
    makeTables();
    listen();
    fit();
    at = -1;
    choose();
    $("slider").max = view.steps.length - 1;
    seek(0);
    for (let row = 0; row < rows.length; row += 1) dirty.add(row);
    if (run.verdicts.length) goWrong(); else show(view.steps[0]);
  }

  function goWrong() {
    const mine = run.verdicts.filter(([, , , order]) => order < 0 || view.orders === null || view.orders.has(order));
    const steps = (mine.length ? mine : run.verdicts).map((one) => one[0]);
    const after = steps.filter((step) => step > at);
    show(after.length ? after[0] : steps[0]);
  }

  function listen() {
    $("filter").addEventListener("change", (event) => { view.filter = event.target.value; refilter(); });
    $("each").addEventListener("change", (event) => { view.together = !event.target.checked; refilter(); });
    $("scale").addEventListener("change", (event) => { view.scale = event.target.value; spread(); show(at); });
    $("in").addEventListener("click", () => zoom(1.4));
    $("out").addEventListener("click", () => zoom(1 / 1.4));
    $("first").addEventListener("click", () => show(view.steps[0]));
    $("back").addEventListener("click", () => move(-1));
    $("next").addEventListener("click", () => move(1));
    $("play").addEventListener("click", () => play(playing === null));
    $("wrong").addEventListener("click", goWrong);
    $("slider").addEventListener("input", (event) => show(view.steps[Number(event.target.value)]));
    $("legend-toggle").addEventListener("click", () => { const open = $("legend").hidden; $("legend").hidden = !open; $("legend-toggle").setAttribute("aria-expanded", String(open)); });
    canvas.addEventListener("click", (event) => { const step = nearest(event); if (step !== null) show(step, { follow: false }); });
    box.addEventListener("scroll", paintSoon, { passive: true });
    box.addEventListener("wheel", (event) => { if (event.ctrlKey) { event.preventDefault(); zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15); } }, { passive: false });
    new ResizeObserver(fit).observe(box);
    reduced.addEventListener("change", () => { readColours(); paintSoon(); });
    document.addEventListener("keydown", key);
  }

  function key(event) {
    if (event.target instanceof HTMLSelectElement || event.target.type === "checkbox" || event.ctrlKey || event.metaKey || event.altKey) return;
    const many = event.shiftKey ? 10 : 1;
    const acts = { ArrowRight: () => move(many), ArrowLeft: () => move(-many), Home: () => show(view.steps[0]), End: () => show(view.steps[view.steps.length - 1]), " ": () => play(playing === null), "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), w: () => { if (run.verdicts.length) goWrong(); } };
    if (acts[event.key]) {
      if (event.key === " " && event.target instanceof HTMLButtonElement) return;
      event.preventDefault();
      acts[event.key]();
    }
  }

  begin();
})();
