// The live page. What arrives may be hostile: text goes into the page as text nodes only.

const KEPT = 1000; // entries, as the server keeps
const ALLOWED = 60; // queries or exports an hour, of most projects
const FRESH = 12; // entries of one frame that are shown as new; more would only flicker
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const VERDICTS = ["accepted", "duplicate", "rejected", "faulted"];
const OTHER_VERDICTS = ["queued", "retrying", "dropped"];
const ALL = [...VERDICTS, ...OTHER_VERDICTS];
const CHANGE = { "X-Live-Page": "1", "Content-Type": "application/json" };

// ---- nodes --------------------------------------------------------------------------------------

// Characters that have no shape, or that change the direction of the text around them.
// eslint-disable-next-line no-control-regex
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb]/g;
const escaped = (char) => "\\u" + char.charCodeAt(0).toString(16).padStart(4, "0");

/** Return text as one line, with what cannot be seen as its escape. */
function line(text) {
  return String(text ?? "").replace(INVISIBLE, escaped);
}

/** Return text of several lines, with what cannot be seen as its escape. */
function lines(text) {
  return String(text ?? "").replace(INVISIBLE, (char) => (char === "\n" || char === "\t" ? char : escaped(char)));
}

/** Make an element. Attributes are set as text, `on…` are listeners; strings become text nodes. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}

function icon(name, kind = "") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `icon ${kind}`);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

function verdictOf(verdict) {
  return el("span", { class: `verdict ${verdict}` }, icon(verdict), el("b", {}, verdict));
}

// ---- numbers and times --------------------------------------------------------------------------

const plain = new Intl.NumberFormat("en");
const pad = (number, width = 2) => String(number).padStart(width, "0");

function short(number) {
  if (number < 10_000) return plain.format(number);
  if (number < 1e6) return (number / 1e3).toFixed(number < 1e5 ? 1 : 0) + " k";
  return (number / 1e6).toFixed(1) + " M";
}

function bytes(number) {
  if (number < 1000) return `${number} B`;
  if (number < 1e6) return `${(number / 1e3).toFixed(1)} kB`;
  return `${(number / 1e6).toFixed(1)} MB`;
}

function clock(seconds) {
  const at = new Date(seconds * 1000);
  return `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}.${pad(at.getMilliseconds(), 3)}`;
}

function day(seconds) {
  const at = new Date(seconds * 1000);
  if (Number.isNaN(at.getTime())) return "?";
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
}

// ---- the filter, whose text is the state --------------------------------------------------------

const FIELDS = {
  lane: (entry) => entry.lane,
  verdict: (entry) => entry.verdict,
  event: (entry) => entry.event ?? "",
  user: (entry) => entry.distinct_id ?? "",
  problem: (entry) => entry.problems,
  path: (entry) => entry.path,
  status: (entry) => String(entry.status ?? "none"),
  fault: (entry) => entry.fault ?? "",
  id: (entry) => entry.insert_id ?? "",
  via: (entry) => entry.via ?? "here",
};

/** Split a filter into conditions: words, and `field:value,value` with values in quotes if needed. */
function parse(text) {
  const found = [];
  for (const match of text.matchAll(/(-?)(?:([a-z]+):)?((?:"[^"]*"?|[^\s"])+)/g)) {
    const [whole, minus, field, value] = match;
    if (field && Object.hasOwn(FIELDS, field)) {
      const values = [...value.matchAll(/"([^"]*)"?|([^,"]+)/g)].map((part) => (part[1] ?? part[2]).toLowerCase()).filter(Boolean);
      if (values.length) found.push({ not: minus === "-", field, values });
    } else {
      found.push({ not: minus === "-" && whole.length > 1, word: (minus ? whole.slice(1) : whole).replaceAll('"', "").toLowerCase() });
    }
  }
  return found;
}

function written(field, values) {
  return `${field}:${values.map((value) => (/[\s,"]/.test(value) ? `"${value.replaceAll('"', "")}"` : value)).join(",")}`;
}

function matches(entry, conditions) {
  for (const { not, field, values, word } of conditions) {
    let found;
    if (field) {
      const value = FIELDS[field](entry);
      const have = Array.isArray(value) ? value : [value.toLowerCase()];
      found = values.some((wanted) => have.includes(wanted));
    } else {
      entry.text ??= [entry.event, entry.distinct_id, entry.lane, entry.verdict, entry.reason, entry.path, entry.insert_id, entry.fault, entry.preview]
        .join(" ").toLowerCase();
      found = entry.text.includes(word);
    }
    if (found === not) return false;
  }
  return true;
}

/** Add a value to a field of the filter, or remove it. */
function toggle(field, value) {
  const conditions = parse($("q").value);
  const low = value.toLowerCase();
  const has = conditions.find((one) => one.field === field && !one.not);
  const rest = conditions.filter((one) => one !== has).map(({ not, field: name, values, word }) =>
    (not ? "-" : "") + (name ? written(name, values) : /\s/.test(word) ? `"${word}"` : word));
  let values = has ? has.values : [];
  values = values.includes(low) ? values.filter((one) => one !== low) : [...values, low];
  if (values.length) rest.push(written(field, values));
  setFilter(rest.join(" "));
}

// ---- what arrived -------------------------------------------------------------------------------

let entries = []; // oldest first
let byId = new Map();
let shown = []; // newest first, as filtered
let conditions = [];
let waiting = []; // while paused, or while the list is scrolled
let waitingCount = 0;
let lostCount = 0;
let isPaused = false;
let isScrolled = false;
let selected = null; // the id of an entry
let state = null;
let isDirty = false;
let isReset = false;

function arrive(batch, lost) {
  if (isReset) isReset = false; // what came before the page was opened is not lost
  else lostCount += lost;
  if (isPaused || isScrolled) {
    const known = batch.filter((entry) => byId.has(entry.id));
    if (known.length) insert(known);
    const fresh = batch.filter((entry) => !byId.has(entry.id));
    waitingCount += fresh.length;
    waiting.push(...fresh);
    if (waiting.length > KEPT) waiting = waiting.slice(-KEPT);
    drawWaiting();
    return;
  }
  insert(batch);
}

function insert(batch) {
  const few = batch.length <= FRESH && entries.length > 0;
  let isSorted = true; // those that changed since come later than their numbers say
  for (const entry of batch) {
    const old = byId.get(entry.id);
    if (old) {
      old.text = undefined;
      Object.assign(old, entry);
      continue;
    }
    if (few) entry.isFresh = true;
    isSorted &&= entries.length === 0 || entries.at(-1).id < entry.id;
    byId.set(entry.id, entry);
    entries.push(entry);
  }
  if (!isSorted) entries.sort((one, other) => one.id - other.id);
  if (entries.length > KEPT) {
    for (const entry of entries.slice(0, -KEPT)) byId.delete(entry.id);
    entries = entries.slice(-KEPT);
  }
  refresh();
}

function release() {
  const batch = waiting;
  waiting = [];
  waitingCount = 0;
  insert(batch);
  drawWaiting();
}

function reset() {
  entries = [];
  byId = new Map();
  waiting = [];
  waitingCount = lostCount = 0;
  selected = null;
  isReset = true;
  drawWaiting();
  refresh();
}

function refresh() {
  if (isDirty) return;
  isDirty = true;
  requestAnimationFrame(() => {
    isDirty = false;
    shown = [];
    for (let at = entries.length - 1; at >= 0; at--) {
      if (matches(entries[at], conditions)) shown.push(entries[at]);
    }
    drawList();
    drawChips();
    drawFound();
  });
}

// ---- the list: only the rows in view exist ------------------------------------------------------

const rows = el("div", { class: "rows", role: "presentation" });
$("list").append(rows);
const pool = [];
let rowHeight = 36;

function measure() {
  rowHeight = parseInt(getComputedStyle(document.documentElement).getPropertyValue("--row"), 10) || 36;
  drawList();
}

function makeRow() {
  const parts = {
    at: el("span", { class: "at" }),
    verdict: el("span", { class: "verdict" }),
    lane: el("span", { class: "lane" }),
    event: el("span", { class: "event" }),
    who: el("span", { class: "who" }),
    what: el("span", { class: "what" }),
  };
  const node = el("div", { class: "row", role: "option" }, ...Object.values(parts));
  const row = { node, parts, entry: null, key: "" };
  node.addEventListener("click", () => {
    if (row.entry) open(row.entry.id);
  });
  return row;
}

function whatOf(entry) {
  if (entry.reason) return [shortened(entry.reason), entry.verdict === "faulted" || entry.verdict === "retrying" ? "odd" : "bad"];
  if (entry.note) return [entry.note, "odd"];
  const times = entry.tries > 1 ? `${plain.format(entry.tries)} times, at last ${clock(entry.last ?? entry.at)}: ` : "";
  return [times + (entry.preview || `${entry.method} ${entry.path}`), ""];
}

/** Return a reason that begins with what distinguishes it: columns are narrow. */
function shortened(reason) {
  return reason.replace(/^[\w. ]+: HTTP \d+: /, "").replace(/^'(?:properties\.)?([^']+)' is (?:invalid: )?/, "$1: ");
}

function fill(row, entry, at) {
  const { node, parts } = row;
  node.style.transform = `translateY(${at * rowHeight}px)`;
  node.setAttribute("aria-posinset", at + 1);
  node.setAttribute("aria-setsize", shown.length);
  node.setAttribute("aria-selected", String(entry.id === selected));
  const key = `${entry.id} ${entry.last} ${entry.verdict} ${entry.status} ${entry.reason} ${entry.tries} ${entry.problems.length}`;
  if (row.key === key) return;
  row.key = key;
  row.entry = entry;
  node.id = `e-${entry.id}`;
  node.classList.toggle("fresh", entry.isFresh === true);
  parts.at.textContent = clock(entry.at);
  parts.verdict.className = `verdict ${entry.verdict}`;
  parts.verdict.replaceChildren(icon(entry.verdict), el("b", {}, entry.verdict));
  parts.lane.textContent = entry.via ? `${entry.lane} ↗` : entry.lane;
  parts.lane.title = entry.via ? `reported by ${line(entry.via)}` : "";
  parts.event.textContent = line(entry.event ?? `${entry.method} ${entry.path}`);
  parts.who.textContent = line(entry.distinct_id ?? "");
  const [what, kind] = whatOf(entry);
  parts.what.textContent = line(what);
  parts.what.className = `what ${kind}`;
}

function drawList() {
  const list = $("list");
  list.hidden = shown.length === 0; // before it is measured
  rows.style.height = `${shown.length * rowHeight}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / rowHeight) - 4);
  const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / rowHeight) + 8);
  const free = [];
  const used = new Map();
  const wanted = new Set(shown.slice(first, last).map((entry) => entry.id));
  for (const row of pool) {
    if (row.entry && wanted.has(row.entry.id)) used.set(row.entry.id, row);
    else free.push(row);
  }
  let place = rows.firstChild; // the order of the nodes is that of the screen
  for (let at = first; at < last; at++) {
    const entry = shown[at];
    let row = used.get(entry.id);
    if (!row) {
      row = free.pop();
      if (!row) {
        row = makeRow();
        pool.push(row);
      }
    }
    if (row.node === place) place = place.nextSibling;
    else rows.insertBefore(row.node, place);
    fill(row, entry, at);
    row.node.hidden = false;
    entry.isFresh = false;
  }
  for (const row of free) {
    row.node.hidden = true;
    row.entry = null;
    row.key = "";
    row.node.removeAttribute("id");
  }
  const active = selected !== null && wanted.has(selected) ? `e-${selected}` : null;
  if (active) list.setAttribute("aria-activedescendant", active);
  else list.removeAttribute("aria-activedescendant");
  drawEmpty();
}

function drawEmpty() {
  const empty = $("empty");
  const is = shown.length === 0;
  const kind = !is ? "" : entries.length || isPaused && waitingCount ? "filtered" : "nothing";
  empty.hidden = !is;
  if (!is || empty.dataset.kind === kind + $("q").value) return;
  empty.dataset.kind = kind + $("q").value;
  if (kind === "filtered") {
    empty.replaceChildren(
      el("strong", {}, "No entry matches the filter"),
      el("p", {}, ...near()),
      el("button", { class: "button", type: "button", onclick: () => setFilter("") }, "Show everything"),
    );
    return;
  }
  const origin = location.origin;
  empty.replaceChildren(
    el("strong", {}, "Nothing has arrived yet"),
    el("p", {}, "Events, profiles, flags and messages show up here as they arrive. Point a program to this address:"),
    el("pre", { class: "code" }, state?.kind === "program" ? "mp.track(\"u-17\", \"Order Paid\")" : `MP_BASE_URL=${origin} python app.py`),
    state?.kind !== "program" && el("button", { class: "button", type: "button", onclick: sendSample }, "Send a sample event"),
  );
}

/** Return a hint for a filter that finds nothing: the names that are nearly what it has. */
function near() {
  const squeeze = (text) => text.toLowerCase().replace(/[\W_]+/g, "");
  const words = squeeze(conditions.map((one) => one.word ?? one.values.join("")).join(""));
  const names = new Set(entries.map((entry) => entry.event).filter(Boolean));
  const alike = [...names].filter((name) => {
    const known = squeeze(name);
    return words.length > 2 && (known.includes(words) || words.includes(known) || isNear(known, words));
  });
  if (!alike.length) return ["Nothing like it is among the newest ", plain.format(entries.length), " entries."];
  return ["Did you mean ", ...alike.slice(0, 3).flatMap((name, at) => [
    at ? " or " : "",
    el("button", { class: "as-link", type: "button", onclick: () => setFilter(written("event", [name])) }, line(name)),
  ]), "?"];
}

/** Return true if one text becomes the other by at most two changed characters. */
function isNear(one, other) {
  if (Math.abs(one.length - other.length) > 2 || one.length < 4) return false;
  let before = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (let a = 1; a <= one.length; a++) {
    const row = [a];
    for (let b = 1; b <= other.length; b++) {
      row[b] = Math.min(before[b] + 1, row[b - 1] + 1, before[b - 1] + (one[a - 1] === other[b - 1] ? 0 : 1));
    }
    before = row;
  }
  return before[other.length] <= 2;
}

async function sendSample() {
  const number = Math.floor(Math.random() * 1e9).toString(36);
  const properties = { token: "sample", distinct_id: "u-17", $insert_id: `sample-${number}`, amount: 12.5, plan: "pro" };
  await fetch("/track", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify([{ event: "Order Paid", properties }]) });
}

/** Offer what the filter shows, and all entries. */
function drawExport() {
  const filter = $("q").value.trim();
  $("export-shown").hidden = !filter;
  $("export-shown").href = `/live/export?q=${encodeURIComponent(filter)}`;
}

function drawFound() {
  const all = entries.length, some = shown.length;
  let text = conditions.length ? `${plain.format(some)} of ${plain.format(all)} entries` : `${plain.format(all)} ${all === 1 ? "entry" : "entries"}`;
  $("export-shown").textContent = `What the filter shows (${plain.format(some)})`;
  $("export-all").textContent = `All entries (${plain.format(all)})`;
  if (all >= KEPT) text += `, the newest that are kept`;
  if (lostCount) text += `; ${plain.format(lostCount)} came too fast to show`;
  const now = Date.now();
  if (now - drawFound.at < 300) {
    drawFound.timer ??= setTimeout(() => { drawFound.timer = null; drawFound(); }, 350);
    return;
  }
  drawFound.at = now;
  const children = [text];
  if (conditions.length) children.push(" · ", el("button", { type: "button", onclick: () => setFilter("") }, "clear the filter"));
  if ($("found").dataset.text !== text + conditions.length) {
    $("found").dataset.text = text + conditions.length;
    $("found").replaceChildren(...children);
  }
}
drawFound.at = 0;

// ---- chips --------------------------------------------------------------------------------------

let chipsDue = null;
const chipNodes = new Map();

function drawChips() {
  if (chipsDue) return;
  chipsDue = setTimeout(() => { chipsDue = null; drawChipsNow(); }, chipNodes.size ? 400 : 0);
}

function drawChipsNow() {
  const counts = { verdict: new Map(), lane: new Map(), event: new Map() };
  for (const entry of entries) {
    for (const field of ["verdict", "lane", "event"]) {
      const value = entry[field];
      if (value) counts[field].set(value, (counts[field].get(value) ?? 0) + 1);
    }
  }
  const active = { verdict: [], lane: [], event: [] };
  for (const one of conditions) if (one.field in active && !one.not) active[one.field].push(...one.values);
  const wanted = [];
  for (const field of ["verdict", "lane", "event"]) {
    let values = [...counts[field]].sort((one, other) => other[1] - one[1] || (one[0] < other[0] ? -1 : 1));
    if (field === "event") values = values.filter(([name], at) => at < 8 || active.event.includes(name.toLowerCase()));
    if (field === "verdict") values.sort((one, other) => ALL.indexOf(one[0]) - ALL.indexOf(other[0]));
    for (const low of active[field]) if (!values.some(([name]) => name.toLowerCase() === low)) values.push([low, 0]);
    if (values.length && wanted.length) wanted.push({ key: `gap ${field}` });
    for (const [value, count] of values) wanted.push({ key: `${field} ${value}`, field, value, count, on: active[field].includes(value.toLowerCase()) });
  }
  const nodes = wanted.map((one) => {
    let node = chipNodes.get(one.key);
    if (!node) {
      node = one.field
        ? el("button", { class: "chip", type: "button", onclick: () => toggle(one.field, one.value) },
            one.field === "verdict" && icon(one.value), el("span", {}, line(one.value)), el("i"))
        : el("span", { class: "gap", "aria-hidden": "true" });
      chipNodes.set(one.key, node);
    }
    if (one.field) {
      node.setAttribute("aria-pressed", String(one.on));
      node.querySelector("i").textContent = short(one.count);
    }
    return node;
  });
  const box = $("chips");
  if (nodes.length !== box.children.length || nodes.some((node, at) => box.children[at] !== node)) {
    const focused = document.activeElement;
    box.replaceChildren(...nodes);
    if (nodes.includes(focused)) focused.focus();
  }
  if (chipNodes.size > 200) for (const key of [...chipNodes.keys()].slice(0, 100)) if (!wanted.some((one) => one.key === key)) chipNodes.delete(key);
}

// ---- meters -------------------------------------------------------------------------------------

const meters = {};

function makeMeters() {
  for (const name of [...VERDICTS, "bytes"]) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "spark");
    svg.setAttribute("viewBox", "0 0 59 26");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const area = document.createElementNS(SVG, "polygon");
    const stroke = document.createElementNS(SVG, "polyline");
    area.setAttribute("class", "area");
    stroke.setAttribute("class", "stroke");
    svg.append(area, stroke);
    const total = el("span", { class: "total" }, "0");
    const label = el("span", { class: "label" }, name !== "bytes" && icon(name), name === "bytes" ? "Received" : name[0].toUpperCase() + name.slice(1));
    const node = name === "bytes"
      ? el("div", { class: `meter ${name}` }, label, total, svg)
      : el("button", { class: `meter ${name}`, type: "button", "aria-pressed": "false", onclick: () => toggle("verdict", name) }, label, total, svg);
    meters[name] = { node, total, area, stroke };
    $("meters").append(node);
  }
}

function drawMeters() {
  for (const [name, { total, area, stroke, node }] of Object.entries(meters)) {
    const number = state.totals[name] ?? 0;
    total.textContent = name === "bytes" ? bytes(number) : short(number);
    const values = state.rates[name] ?? [];
    const most = Math.max(1, ...values);
    const points = values.map((value, at) => `${at},${(25 - (value / most) * 23).toFixed(1)}`).join(" ");
    stroke.setAttribute("points", points);
    area.setAttribute("points", `0,26 ${points} ${values.length - 1},26`);
    const now = values.at(-2) ?? 0;
    node.setAttribute("title", `${name === "bytes" ? bytes(now) : plain.format(now)} in the last full second; at most ${name === "bytes" ? bytes(most) : plain.format(most)} in one of the last 60`);
  }
  drawMeterStates();
}

function drawMeterStates() {
  const on = conditions.filter((one) => one.field === "verdict" && !one.not).flatMap((one) => one.values);
  for (const name of VERDICTS) meters[name].node.setAttribute("aria-pressed", String(on.includes(name)));
}

// ---- the state frame ----------------------------------------------------------------------------

function receive(found) {
  const before = state;
  state = found;
  drawMeters();
  const { problems } = found;
  const errors = problems.some((one) => one.severity === "error");
  badge("n-problems", problems.length, !errors);
  badge("n-faults", found.faults?.length ?? 0, true);
  document.title = problems.length ? `(${problems.length}) Live · Mixpanel` : "Live · Mixpanel";
  const isProgram = found.kind === "program";
  if (isProgram && !before) nameForProgram(found.program);
  document.querySelector('[data-panel="faults"]').hidden = isProgram;
  document.querySelector('[data-panel="flags"]').hidden = isProgram;
  $("clear-data").hidden = isProgram;
  drawBudget(found.budget);
  if (isProgram) {
    $("budget").hidden = false;
    $("budget").textContent = `${plain.format(found.waiting)} waiting for an outcome`;
  }
  const changed = (name) => JSON.stringify(before?.[name]) !== JSON.stringify(found[name]);
  if (panel.name === "problems" && changed("problems")) drawPanel();
  if (panel.name === "faults" && changed("faults")) drawActiveFaults();
  if (!before) { if (isProgram) $("empty").dataset.kind = ""; drawList(); }
}

/** Name what a program sends, instead of what a server gets. */
function nameForProgram(name) {
  $("address").textContent = name;
  const labels = { accepted: "Delivered", rejected: "Rejected or dropped", faulted: "Failed, tried again", bytes: "Composed" };
  for (const [verdict, label] of Object.entries(labels)) meters[verdict].node.querySelector(".label").lastChild.textContent = label;
  meters.duplicate.node.hidden = true;
  meters.bytes.node.parentElement.classList.add("program");
}

function badge(id, count, isWarning) {
  const node = $(id);
  node.hidden = !count;
  node.textContent = count;
  node.classList.toggle("warning", isWarning);
}

const SINGULAR = { queries: "query", exports: "export" };

function drawBudget(budget) {
  const node = $("budget");
  const wanted = Object.entries(budget ?? {}).filter(([, one]) => one.limit !== null || one.used);
  node.hidden = !wanted.length;
  node.textContent = wanted.map(([name, one]) => one.limit === null
    ? `${plain.format(one.used)} ${one.used === 1 ? SINGULAR[name] ?? name : name} in an hour; Mixpanel allows ${ALLOWED}`
    : `${one.left} of ${one.limit} ${name} left this hour`).join(" · ");
  node.classList.toggle("low", wanted.some(([, one]) => (one.limit === null ? one.used >= ALLOWED * 0.9 : one.left <= one.limit / 10)));
}

// ---- waiting and pause --------------------------------------------------------------------------

function drawWaiting() {
  const label = isPaused ? (waitingCount ? `Paused, ${short(waitingCount)} waiting` : "Paused") : "Pause";
  $("pause").querySelector("span").textContent = label;
  const more = $("more");
  more.hidden = !(waitingCount && !isPaused);
  more.textContent = `↑ ${short(waitingCount)} new`;
}

function pause(is = !isPaused) {
  isPaused = is;
  $("pause").setAttribute("aria-pressed", String(is));
  $("pause").querySelector("use").setAttribute("href", is ? "#i-play" : "#i-pause");
  drawWaiting();
  if (!is && !isScrolled) release();
}

function scrolled() {
  const before = isScrolled;
  isScrolled = $("list").scrollTop > 4;
  drawList();
  if (before && !isScrolled && !isPaused) release();
}

// ---- the side -----------------------------------------------------------------------------------

let panel = { name: "problems" };
let trail = [];
let opener = null;
let request = 0; // of the panel: late responses are ignored

function show(next, { remember = false } = {}) {
  if (remember) trail.push(panel);
  else trail = [];
  panel = next;
  document.body.classList.add("side-open");
  document.body.classList.remove("side-closed");
  drawPanel();
  save();
}

function close() {
  const isNarrow = matchMedia("(max-width: 1100px)").matches;
  selected = panel.name === "entry" ? selected : null;
  document.body.classList.remove("side-open");
  trail = [];
  if (!isNarrow && panel.name !== "problems") panel = { name: "problems" };
  else if (!isNarrow) document.body.classList.add("side-closed");
  else panel = { name: "problems" };
  drawPanel();
  save();
  drawList();
  (opener?.isConnected && !opener.hidden ? opener : $("list")).focus({ preventScroll: true });
  opener = null;
}

function isOpen() {
  const isNarrow = matchMedia("(max-width: 1100px)").matches;
  return isNarrow ? document.body.classList.contains("side-open") : !document.body.classList.contains("side-closed");
}

function drawPanel() {
  request += 1;
  $("back").hidden = !trail.length;
  for (const button of document.querySelectorAll("[data-panel]")) {
    button.setAttribute("aria-pressed", String(isOpen() && button.dataset.panel === panel.name));
  }
  const draw = { problems: drawProblems, flags: drawFlags, faults: drawFaults, entry: drawEntry, person: drawPerson }[panel.name];
  draw(request);
}

function side(title, ...children) {
  $("side-title").textContent = line(title);
  $("side-body").replaceChildren(...children.filter(Boolean));
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const found = await response.json();
  if (!response.ok) throw new Error(found.error ?? `status ${response.status}`);
  return found;
}

function code(text, label, note) {
  return el("div", { class: "block" },
    el("div", {}, el("h3", {}, label), el("button", { class: "button", type: "button", onclick: () => copy(text), "aria-label": `Copy: ${label}` }, "Copy")),
    el("pre", { class: "code", tabindex: "0", "aria-label": label }, lines(text)),
    note && el("p", { class: "note" }, note));
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch {
    toast("The browser did not allow copying: select the text instead");
  }
}

function toast(text) {
  const node = $("toast");
  node.textContent = text;
  node.classList.add("on");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => node.classList.remove("on"), 1800);
}

// What is wrong

function drawProblems() {
  const problems = state?.problems ?? [];
  if (!problems.length) {
    side("Problems", el("div", { class: "good" }, icon("accepted"), el("p", {}, state?.totals.accepted ? "Nothing is wrong with what arrived." : "What is wrong with the records that arrive will be here.")));
    return;
  }
  side("Problems", ...problems.map((one) =>
    el("section", { class: "card", "aria-label": one.title },
      el("div", { class: "card-top" }, icon(one.severity, one.severity), el("h3", {}, one.title), el("span", { class: "count" }, short(one.count))),
      el("p", {}, one.meaning),
      el("p", { class: "remedy" }, one.remedy),
      el("ul", { class: "examples" }, ...one.examples.map((example) =>
        el("li", {}, el("button", { class: "as-link", type: "button", onclick: () => open(example.id, { remember: true }) }, line(example.text) || "(empty)")))),
      el("div", {}, el("button", { class: "button", type: "button", onclick: () => setFilter(written("problem", [one.kind])) }, "Show in the list")),
    )));
}

// An entry

function open(id, options) {
  selected = id;
  show({ name: "entry", id, tab: panel.name === "entry" ? panel.tab : "properties" }, options);
  drawList();
}

async function drawEntry(mine) {
  const known = byId.get(panel.id) ?? waiting.find((entry) => entry.id === panel.id);
  if ($("side-title").dataset.id !== String(panel.id)) side(known?.event ?? known?.path ?? "Entry", el("p", { class: "note" }, "Loading…"));
  $("side-title").dataset.id = panel.id;
  let entry;
  try {
    entry = await ask(`/live/entry?id=${panel.id}`);
  } catch (error) {
    if (mine === request) side("Entry", el("p", { class: "note" }, error.message));
    return;
  }
  if (mine !== request) return;
  const remedies = entry.findings.map(({ kind, text }) => ({ ...state?.problems.find((one) => one.kind === kind), text, kind }));
  const isBad = entry.verdict === "rejected" || entry.verdict === "dropped";
  const banners = [];
  const covered = isBad ? remedies.find((one) => one.text === entry.reason) : null;
  if (entry.reason) {
    banners.push(el("div", { class: `banner ${isBad ? "error" : ""}` },
      el("strong", {}, line(entry.reason)),
      isBad && entry.status === 200 && el("p", {}, "The status of the response was 200 all the same."),
      covered?.remedy && el("p", {}, covered.remedy)));
  }
  for (const one of remedies.filter((each) => each !== covered)) {
    banners.push(el("div", { class: "banner" }, el("strong", {}, line(one.title ?? one.text)), one.title && el("p", {}, line(one.text)), one.remedy && el("p", {}, one.remedy)));
  }
  const { request: sent } = entry;
  const facts = el("dl", { class: "facts" });
  const fact = (name, value) => { if (value != null && value !== "") facts.append(el("dt", {}, name), el("dd", {}, value)); };
  fact("Verdict", verdictOf(entry.verdict));
  fact("Lane", entry.lane);
  fact("Time", day(entry.at));
  fact("Reported by", entry.via && line(entry.via));
  if (entry.distinct_id) fact("Person", canShowPerson(entry) ? el("button", { type: "button", onclick: () => show({ name: "person", id: entry.distinct_id }, { remember: true }) }, line(entry.distinct_id)) : line(entry.distinct_id));
  fact("Request", `${sent.method} ${line(sent.path)} → ${sent.status ?? "no response"}`);
  if (entry.count > 1) fact("Record", `${entry.index + 1} of ${entry.count} in the request`);
  if (entry.tries > 1) fact("Attempts", String(entry.tries));
  fact("Id", entry.insert_id && line(entry.insert_id));
  fact("Size", bytes(entry.bytes));
  const tabs = { properties: "Properties", raw: "Raw", request: "Request", repeat: "Repeat" };
  const bar = el("div", { class: "tabs", role: "tablist", "aria-label": "Views of the entry", "data-entry": entry.id });
  const body = el("div", { role: "tabpanel", id: "view", tabindex: "0" });
  const choose = (tab) => {
    panel.tab = tab;
    for (const button of bar.children) {
      button.setAttribute("aria-selected", String(button.dataset.tab === tab));
      button.tabIndex = button.dataset.tab === tab ? 0 : -1;
    }
    body.setAttribute("aria-label", tabs[tab]);
    body.replaceChildren(...views[tab](entry));
  };
  for (const [tab, label] of Object.entries(tabs)) {
    bar.append(el("button", { type: "button", role: "tab", "data-tab": tab, "aria-controls": "view", onclick: () => choose(tab) }, label));
  }
  bar.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const names = Object.keys(tabs);
    choose(names[(names.indexOf(panel.tab) + step + names.length) % names.length]);
    bar.querySelector('[aria-selected="true"]').focus();
  });
  side(entry.event ?? `${entry.method} ${entry.path}`, ...banners, facts, bar, body);
  choose(panel.tab in tabs ? panel.tab : "properties");
}

function canShowPerson(entry) {
  return !entry.via && state?.kind !== "program" && ["events", "imports", "profiles"].includes(entry.lane);
}

const views = {
  properties(entry) {
    const own = entry.properties.filter((one) => !one.default);
    const others = entry.properties.filter((one) => one.default);
    return [
      own.length ? pairs(own) : el("p", { class: "note" }, entry.properties.length ? "It has no properties of its own." : "The record could not be read, or has no properties."),
      others.length > 0 && el("details", { class: "fold", open: own.length === 0 }, el("summary", {}, `${others.length} default ${others.length === 1 ? "property" : "properties"}`), pairs(others)),
      entry.properties_left_out > 0 && el("p", { class: "note" }, `… and ${plain.format(entry.properties_left_out)} more.`),
    ].filter(Boolean);
  },
  raw(entry) {
    const cut = entry.raw_length > entry.raw.length;
    return [code(entry.raw.slice(0, 20_000), "Record as it was sent", (cut || entry.raw.length > 20_000) && `The first 20,000 of ${plain.format(entry.raw_length)} characters.`)];
  },
  request(entry) {
    const { request: sent } = entry;
    return [
      el("h3", {}, `${sent.method} ${line(sent.path)}`),
      sent.query.length > 0 && pairs(sent.query.map(([name, text]) => ({ name, text, notes: [] }))),
      el("h3", {}, "Headers"),
      sent.headers.length ? pairs(sent.headers.map(([name, text]) => ({ name, text, notes: [] }))) : el("p", { class: "note" }, "None are known."),
      el("h3", {}, "Response"),
      el("p", { class: "note" }, sent.status ? `Status ${sent.status}` : "None was sent."),
      sent.response && code(sent.response, "Body of the response"),
    ].filter(Boolean);
  },
  repeat(entry) {
    return [
      canSendAgain(entry) && el("div", { class: "block" },
        el("div", {}, el("h3", {}, "Here"), el("button", { class: "button", type: "button", onclick: () => sendAgain(entry) }, "Send again")),
        el("p", { class: "note" }, "The same record, with the same $insert_id if it has one: a copy counts as a duplicate.")),
      !entry.curl ? el("p", { class: "note" }, "It was not sent yet.") : code(entry.curl, "As curl", entry.curl.includes("$MP_") && "Set the variables to your credentials: they are not shown here."),
      code(entry.assertion, "As a line of a test"),
    ].filter(Boolean);
  },
};

/** Only what arrived here whole, at an endpoint that takes it without credentials. */
function canSendAgain(entry) {
  return !entry.via && state?.kind !== "program" && ["events", "profiles", "groups"].includes(entry.lane) && entry.raw && entry.raw_length === entry.raw.length;
}

async function sendAgain(entry) {
  const path = { events: "/track", profiles: "/engage", groups: "/groups" }[entry.lane];
  try {
    const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: `[${entry.raw}]` });
    toast(`Sent again: status ${response.status}`);
  } catch {
    toast("Sent again, but there was no response");
  }
}

function pairs(list) {
  return el("table", { class: "pairs" }, el("tbody", {}, ...list.map((one) =>
    el("tr", {}, el("th", { scope: "row" }, line(one.name)),
      el("td", {}, lines(one.text.slice(0, 5000)),
        one.length > 5000 && el("span", { class: "type odd" }, `… ${plain.format(one.length)} characters in all`),
        one.type && !["string", "null"].includes(one.type) && el("span", { class: "type" }, one.type),
        ...one.notes.map((note) => el("span", { class: "type odd" }, line(note))))))));
}

// A person

async function drawPerson(mine) {
  const { id } = panel;
  side(id, el("p", { class: "note" }, "Loading…"));
  $("side-title").dataset.id = "";
  let person;
  try {
    person = await ask(`/live/person?distinct_id=${encodeURIComponent(id)}`);
  } catch (error) {
    if (mine === request) side(id, el("p", { class: "note" }, error.message));
    return;
  }
  if (mine !== request) return;
  const profile = person.profile && Object.entries(person.profile).map(([name, value]) => ({ name, text: typeof value === "string" ? value : JSON.stringify(value), notes: [], length: 0 }));
  const items = [
    ...person.timeline.map((one) => ({ at: one.time, event: one.event, note: Object.entries(one.properties).filter(([name]) => !name.startsWith("$") && !name.startsWith("mp_")).slice(0, 4).map(([name, value]) => `${name} ${typeof value === "string" ? value.slice(0, 60) : JSON.stringify(value).slice(0, 60)}`).join(" · ") })),
    ...person.lost.map((one) => ({ at: one.at, event: one.event ?? "?", note: one.reason ?? "", id: one.id })),
  ].sort((one, other) => other.at - one.at);
  side(person.distinct_id,
    person.aliases.length > 0 && el("p", { class: "note" }, "Also ", ...person.aliases.slice(0, 10).flatMap((alias, at) => [at ? ", " : "", el("code", {}, line(alias))])),
    el("h3", {}, "Profile"),
    profile ? pairs(profile) : el("p", { class: "note" }, "There is no profile of this person."),
    el("h3", {}, `Timeline (${items.length})`),
    items.length ? el("ol", { class: "timeline" }, ...items.slice(0, 200).map((one) =>
      el("li", { class: one.id ? "lost" : "" }, el("span", { class: "at" }, day(one.at)),
        one.id ? el("button", { class: "as-link", type: "button", onclick: () => open(one.id, { remember: true }) }, line(one.event)) : el("b", {}, line(one.event)),
        one.note && el("span", { class: "note" }, line(one.note))))) : el("p", { class: "note" }, "No event of this person is stored."),
    el("button", { class: "button", type: "button", onclick: () => setFilter(written("user", [id])) }, "Show in the list"));
}

// Flags

async function drawFlags(mine) {
  if ($("side-title").textContent !== "Flags") side("Flags", el("p", { class: "note" }, "Loading…"));
  let flags;
  try {
    ({ flags } = await ask("/live/flags"));
  } catch (error) {
    if (mine === request) side("Flags", el("p", { class: "note" }, error.message));
    return;
  }
  if (mine !== request) return;
  if (!flags.length) {
    side("Flags", el("p", {}, "No flags are served. Start the emulator with a file of them:"), el("pre", { class: "code" }, "mp emulator --flags flags.json"));
    return;
  }
  side("Flags", ...flags.map((flag) => {
    const { definition: found, key, evaluations } = flag;
    const variants = found?.ruleset?.variants, rollouts = found?.ruleset?.rollout;
    const result = el("div", { role: "status" });
    const context = el("textarea", { rows: "3", spellcheck: "false" });
    context.value = JSON.stringify({ [found?.context ?? "distinct_id"]: "u-17" });
    const evaluate = async () => {
      try {
        const trace = await ask(`/live/flags?flag=${encodeURIComponent(key)}&context=${encodeURIComponent(context.value)}`);
        result.replaceChildren(el("pre", { class: "code", tabindex: "0", "aria-label": "Trace" }, lines(trace.trace)));
      } catch (error) {
        result.replaceChildren(el("p", { class: "error-text" }, line(error.message)));
      }
    };
    return el("section", { class: "card", "aria-label": line(key ?? "A flag without a key") },
      el("div", { class: "card-top" }, el("h3", {}, line(key ?? JSON.stringify(found).slice(0, 80))), el("span", { class: "tag" }, line(found?.status ?? "served"))),
      Array.isArray(variants) && el("p", {}, "Variants ", line(variants.map((one) => `${one?.key}${one?.split === undefined ? "" : ` ${Math.round(one.split * 100)} %`}`).join(", "))),
      Array.isArray(rollouts) && el("p", {}, rollouts.length ? "Rollouts " : "No rollouts: no one is included", line(rollouts.map((one) => `${Math.round((one?.rollout_percentage ?? 0) * 1000) / 10} %`).join(", "))),
      key != null && el("details", { class: "fold" }, el("summary", {}, "Evaluate for …"),
        el("div", { class: "block" },
          el("label", { class: "field" }, "Context, as JSON", context),
          el("span", {}, el("button", { class: "button", type: "button", onclick: evaluate }, "Evaluate")), result)),
      el("details", { class: "fold" }, el("summary", {}, `Latest evaluations (${evaluations.length})`),
        evaluations.length ? el("ol", { class: "timeline" }, ...evaluations.map((one) => el("li", {}, el("span", { class: "at" }, day(one.at)),
          el("button", { class: "as-link", type: "button", onclick: () => open(one.id, { remember: true }) }, line(one.distinct_id ?? "?")), " ",
          el("b", {}, line(one.variant ?? "no variant")), el("span", { class: "note" }, line(one.reason)))))
          : el("p", { class: "note" }, "None so far: clients that evaluate on their own report exposures only.")),
      el("details", { class: "fold" }, el("summary", {}, "Definition"), el("pre", { class: "code", tabindex: "0", "aria-label": "Definition" }, lines(JSON.stringify(found, null, 2).slice(0, 20_000)))));
  }));
}

// Faults

const QUICK = [
  ["503", "503", "Unavailable"],
  ["429", "429 retry-after 2", "Too many requests"],
  ["Reset", "reset", "The connection breaks"],
  ["Slow", "latency 2", "Two seconds later"],
  ["Lost response", "reset after", "Stored, but no response"],
];

function drawFaults() {
  const where = el("select", {}, ...["every path", "/track", "/import", "/engage", "/groups", "/flags/definitions", "/api/2.0/export", "/customerio/v1/batch", "/hightouch/v1/batch"].map((path) => el("option", {}, path)));
  const times = el("select", {}, ...[["the next request", " 1 times"], ["the next 10", " 10 times"], ["every tenth", " 10%"], ["every request", ""]].map(([label, value]) => el("option", { value }, label)));
  const text = el("input", { placeholder: "503 on /track 10%", "aria-label": "A fault, as text", spellcheck: "false" });
  const error = el("p", { class: "error-text", role: "alert" });
  const add = async (fault) => {
    try {
      receiveFaults(await ask("/live/faults", { method: "POST", headers: CHANGE, body: JSON.stringify({ fault }) }));
      error.textContent = "";
      text.value = "";
    } catch (failure) {
      error.textContent = line(failure.message);
    }
  };
  const compose = (kind) => kind + (where.selectedIndex ? ` on ${where.value}` : "") + times.value;
  side("Faults",
    el("p", { class: "note" }, "Break requests on purpose, to see what a program does then."),
    el("div", { class: "line" }, el("label", { class: "field" }, "Requests to", where), el("label", { class: "field" }, "How often", times)),
    el("div", { class: "line" }, ...QUICK.map(([label, kind, title]) => el("button", { class: "button", type: "button", title, onclick: () => add(compose(kind)) }, label))),
    el("form", { class: "line", onsubmit: (event) => { event.preventDefault(); add(text.value.trim()); } },
      el("span", { class: "field" }, text), el("button", { class: "button" }, "Add")),
    error,
    el("div", { id: "active-faults" }));
  drawActiveFaults();
}

function receiveFaults(found) {
  state = { ...state, ...found };
  badge("n-faults", found.faults.length, true);
  drawActiveFaults();
}

function drawActiveFaults() {
  const box = $("active-faults");
  if (!box) return;
  const faults = state?.faults ?? [];
  box.replaceChildren(
    el("h3", {}, `Scripted (${faults.length})`),
    faults.length ? el("ol", { class: "timeline" }, ...faults.map((one) => el("li", {}, el("b", {}, line(one.name)),
      el("span", { class: "note" }, [one.path ?? "every path", one.remaining !== null ? `${one.remaining} left` : one.percent < 100 ? null : "every request", one.percent < 100 && `${one.percent} % of requests`, one.conditional && "with a condition"].filter(Boolean).join(", ")))))
      : el("p", { class: "note" }, "None: requests are answered as usual."),
    faults.length ? el("button", { class: "button", type: "button", onclick: async () => receiveFaults(await ask("/live/faults", { method: "DELETE", headers: CHANGE })) }, "Remove all") : "");
}

// ---- the address bar ----------------------------------------------------------------------------

function setFilter(text, { fromInput = false } = {}) {
  if (!fromInput) $("q").value = text;
  conditions = parse(text);
  drawExport();
  $("list").scrollTop = 0;
  $("empty").dataset.kind = "";
  isScrolled = false;
  if (!isPaused && waiting.length) release();
  drawMeterStates();
  clearTimeout(chipsDue);
  chipsDue = null;
  drawChipsNow();
  refresh();
  save();
}

function save() {
  const params = new URLSearchParams();
  if ($("q").value.trim()) params.set("q", $("q").value.trim());
  if (panel.name === "entry") params.set("open", panel.id);
  else if (panel.name === "person") params.set("person", panel.id);
  else if (panel.name !== "problems" || document.body.classList.contains("side-open")) params.set("panel", panel.name);
  const query = params.toString().replaceAll("%3A", ":").replaceAll("%2C", ",");
  clearTimeout(save.timer);
  save.timer = setTimeout(() => history.replaceState(null, "", query ? `?${query}` : location.pathname), 150);
}

function restore() {
  const params = new URLSearchParams(location.search);
  $("q").value = params.get("q") ?? "";
  conditions = parse($("q").value);
  const number = Number(params.get("open"));
  if (Number.isSafeInteger(number) && number > 0) { selected = number; panel = { name: "entry", id: number, tab: "properties" }; }
  else if (params.get("person")) panel = { name: "person", id: params.get("person") };
  else if (["problems", "flags", "faults"].includes(params.get("panel"))) panel = { name: params.get("panel") };
  if (panel.name !== "problems" || params.has("panel")) document.body.classList.add("side-open");
}

// ---- keys ---------------------------------------------------------------------------------------

function move(step) {
  if (!shown.length) return;
  const at = shown.findIndex((entry) => entry.id === selected);
  const next = at < 0 ? 0 : Math.max(0, Math.min(shown.length - 1, at + step));
  selected = shown[next].id;
  const list = $("list"), top = next * rowHeight;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + rowHeight > list.scrollTop + list.clientHeight) list.scrollTop = top + rowHeight - list.clientHeight;
  list.focus({ preventScroll: true });
  if (panel.name === "entry" && isOpen()) {
    panel = { ...panel, id: selected };
    drawPanel();
    save();
  }
  drawList();
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { target } = event;
  const isText = target.matches?.("input, textarea, select");
  if (event.key === "Escape") {
    const menu = document.querySelector(".menu[open]");
    if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
    else if (target === $("q") && $("q").value) setFilter("");
    else if (isText) target.blur();
    else if (isOpen() && (panel.name !== "problems" || matchMedia("(max-width: 1100px)").matches)) close();
    else if ($("q").value) setFilter("");
    return;
  }
  if (target === $("q") && (event.key === "ArrowDown" || event.key === "Enter")) {
    event.preventDefault();
    move(0);
    if (event.key === "Enter" && selected !== null) open(selected);
    return;
  }
  if (isText) return;
  const inList = target === $("list") || target === document.body;
  if (event.key === "/") { event.preventDefault(); $("q").focus(); $("q").select(); }
  else if (event.key === "j" || (inList && event.key === "ArrowDown")) { event.preventDefault(); move(1); }
  else if (event.key === "k" || (inList && event.key === "ArrowUp")) { event.preventDefault(); move(-1); }
  else if (event.key === "p") pause();
  else if (inList && event.key === "Home") { event.preventDefault(); selected = null; move(1); }
  else if (inList && event.key === "End" && shown.length) { event.preventDefault(); selected = shown.at(-1).id; move(0); }
  else if (event.key === "Enter" && inList && selected !== null) {
    opener = $("list");
    open(selected);
    $("side").focus({ preventScroll: true });
  }
}

// ---- the stream ---------------------------------------------------------------------------------

function link(name, text) {
  $("link").dataset.state = name;
  if ($("link").textContent !== text) $("link").textContent = text;
}

function connect() {
  const source = new EventSource("/live");
  source.addEventListener("open", () => link("open", "live"));
  source.addEventListener("error", () => {
    link("lost", "not connected, trying again");
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  });
  source.addEventListener("reset", reset);
  source.addEventListener("state", (event) => receive(JSON.parse(event.data)));
  source.addEventListener("message", (event) => {
    const found = JSON.parse(event.data);
    arrive(found.entries, found.lost);
  });
}

// ---- start --------------------------------------------------------------------------------------

$("address").textContent = location.host;
makeMeters();
restore();
drawExport();
measure();
drawPanel();
$("q").addEventListener("input", () => setFilter($("q").value, { fromInput: true }));
$("pause").addEventListener("click", () => pause());
$("more").addEventListener("click", () => { $("list").scrollTop = 0; isScrolled = false; release(); });
$("list").addEventListener("scroll", scrolled, { passive: true });
$("close").addEventListener("click", close);
$("back").addEventListener("click", () => { panel = trail.pop() ?? { name: "problems" }; if (panel.name === "entry") selected = panel.id; drawPanel(); save(); drawList(); });
for (const button of document.querySelectorAll("[data-panel]")) {
  button.addEventListener("click", () => {
    opener = button;
    if (isOpen() && panel.name === button.dataset.panel) close();
    else show({ name: button.dataset.panel });
  });
}
$("clear-list").addEventListener("click", async () => {
  $("clear").open = false;
  await fetch("/live/clear", { method: "POST", headers: CHANGE, body: "{}" });
});
$("clear-data").addEventListener("click", async (event) => {
  const button = event.currentTarget;
  if (!button.classList.contains("sure")) {
    button.classList.add("sure");
    button.textContent = "Really delete all data?";
    return;
  }
  $("clear").open = false;
  await fetch("/live/clear", { method: "POST", headers: CHANGE, body: '{"data": true}' });
});
$("clear").addEventListener("toggle", () => {
  $("clear-data").classList.remove("sure");
  $("clear-data").textContent = "Delete all data, too";
});
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll(".menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
$("export").addEventListener("click", (event) => { if (event.target.matches("a")) $("export").open = false; });
document.addEventListener("keydown", key);
addEventListener("resize", measure);
addEventListener("popstate", () => { restore(); setFilter($("q").value); drawPanel(); });
connect();
