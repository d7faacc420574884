"use strict";
const { texts, paging, models } = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const symbols = { differ: "≠", same: "=", none: "–" };
const verdicts = { differ: "The meanings differ", same: "The meanings are the same", none: "No verdict" };

// rows are all mismatches in reading order.
const rows = [], byLink = new Map();
texts.forEach((text, t) => text.rows.forEach((row) => {
  row.text = t;
  row.link = (text.job ? encodeURIComponent(text.job) + "/" : "") + encodeURIComponent(text.id) + "@" + row.p;
  byLink.set(row.link, rows.length);
  rows.push(row);
}));
let here = -1;     // the mismatch one is at
let shown = -1;    // the text on the page
let hits = [];     // mismatches that pass the filters, ascending
let marks = [];    // links of the text on the page, by mismatch
let firstMark = 0; // mismatch of marks[0]

// visible shows what would be invisible or would turn the direction of what follows.
function visible(s) {
  return s.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (c) => {
    const n = c.codePointAt(0);
    return n < 32 ? String.fromCodePoint(0x2400 + n) : "⟨U+" + n.toString(16).toUpperCase().padStart(4, "0") + "⟩";
  });
}

// short cuts what is far longer than any token.
const short = (s, n = 300) => s.length > n ? s.slice(0, n) + `… (${s.length - n} characters more)` : s;

function add(parent, name, text, type) {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = visible(short(text, 5000));
  if (type) e.className = type;
  parent.append(e);
  return e;
}

const confidence = (row) => row.conf === undefined ? "" : row.conf.toFixed(2).replace(/^0/, "") + (row.unsure ? "?" : "");

function label(row) {
  const sure = row.conf === undefined ? "" : ", confidence " + row.conf.toFixed(2);
  return `Mismatch at ${row.p}: ${verdicts[row.verdict]}${sure}. Text: ${short(row.real)}. Small: ${short(row.sides[0].pred)}. Reference: ${short(row.sides[1].pred)}.`;
}

// render puts one text on the page: only one is there at a time.
function render(t) {
  shown = t;
  $("text").value = t;
  firstMark = rows.findIndex((row) => row.text === t);
  marks = [];
  const page = document.createDocumentFragment();
  texts[t].rows.forEach((row, i) => {
    page.append(visible(row.before.slice(i > 0 && row.before.startsWith(texts[t].rows[i - 1].real) ? texts[t].rows[i - 1].real.length : 0)));
    const lead = /^ *(?=\S)/.exec(row.real)?.[0] ?? "";
    page.append(lead); // a line may break here, not within the mark
    const a = add(page, "a", undefined, "m " + row.verdict);
    a.href = "#" + row.link;
    a.setAttribute("aria-label", visible(label(row)));
    a.dataset.row = firstMark + i;
    add(a, "span", short(row.real.slice(lead.length)).replace(/^ +$/, (s) => "␣".repeat(s.length)).replace(/\n/g, "⏎\n") || "∅");
    add(a, "sup", symbols[row.verdict] + confidence(row));
    marks.push(a);
  });
  $("read").replaceChildren(page);
  fade();
}

// fade marks the mismatches that do not pass the filters.
function fade() {
  const wanted = new Set(hits);
  marks.forEach((a, i) => a.classList.toggle("out", !wanted.has(firstMark + i)));
}

const number = (v) => v === undefined ? "" : Number(v.toPrecision(4)).toString();

function detail(k) {
  const box = document.createDocumentFragment(), row = rows[k];
  if (row) {
    const sure = row.conf === undefined ? "" : `, confidence ${row.conf.toFixed(2)}${row.unsure ? " (unsure)" : ""}`;
    add(box, "h2", `${symbols[row.verdict]} ${verdicts[row.verdict]}${sure}`);
    add(box, "p", `Text ${texts[row.text].id}, position ${row.p}, ${row.class}${row.tie ? ", near tie" : ""}${row.cut ? ", length-cut" : ""}${row.status === "ok" ? "" : ", " + row.status}`);
    ["Small", "Reference"].forEach((side, i) => {
      const s = row.sides[i];
      add(box, "h3", side + (models[i] ? " " + models[i] : "") + (s.finish ? ` (ends: ${s.finish})` : ""));
      const p = add(box, "p");
      add(p, "span", short(s.pred), "pred");
      if (s.cont === undefined) p.append(" no continuation");
      else add(p, "span", s.cont.startsWith(s.pred) ? s.cont.slice(s.pred.length) : " → " + s.cont);
    });
    add(box, "h3", "In the text");
    add(add(box, "p"), "span", short(row.real), "pred");
    if (row.why) { add(box, "h3", "Explanation"); add(box, "p", row.why); }
    if (row.diffs) { add(box, "h3", "Key differences"); row.diffs.forEach((d) => add(box, "p", "• " + d)); }
    measures(box, row);
    if (row.judge) add(box, "p", `Judge ${row.judge}${row.source ? "; confidence by " + row.source : ""}`);
    const link = add(add(box, "p"), "a", "Link to this mismatch");
    link.href = "#" + row.link;
  }
  $("detail").replaceChildren(box);
}

function measures(box, row) {
  const names = ["entropy", "au", "eu", "margin"].filter((name) => row.sides.some((s) => s[name] !== undefined));
  if (names.length === 0) return;
  const table = add(box, "table"), head = add(add(table, "thead"), "tr"), body = add(table, "tbody");
  for (const title of ["Measure", "small", "reference"]) add(head, "th", title).scope = "col";
  for (const name of names) {
    const line = add(body, "tr");
    add(line, "th", name.length === 2 ? name.toUpperCase() : name).scope = "row";
    row.sides.forEach((s) => add(line, "td", number(s[name])));
  }
}

// go moves to a mismatch; focus is left where it is while one types or chooses.
function go(k, focus) {
  if (!rows[k]) return;
  if (shown !== rows[k].text) render(rows[k].text);
  marks[here - firstMark]?.classList.remove("here");
  here = k;
  const a = marks[k - firstMark];
  a.classList.add("here");
  if (focus) a.focus({ preventScroll: true });
  a.scrollIntoView({ block: "nearest" });
  detail(k);
  count();
  if (location.hash !== "#" + rows[k].link) history.replaceState(null, "", "#" + rows[k].link);
}

function count() {
  const at = hits.indexOf(here);
  $("count").textContent = `${at < 0 ? "" : at + 1 + " of "}${hits.length} mismatches` + (paging ? " on this page" : "") + (paging?.none ? "; no more that match" : "");
}

function step(by) {
  const next = by > 0 ? hits.find((k) => k > here) : hits.findLast((k) => k < here);
  if (next !== undefined) go(next, true);
  else if (paging) find(by);
}

const boxes = [...document.querySelectorAll("fieldset input")], tokenClass = document.querySelector("select[name=class]");

function filter() {
  const flags = boxes.filter((box) => box.checked).map((box) => box.name), query = $("search").value.toLowerCase();
  hits = [];
  rows.forEach((row, k) => {
    if (flags.some((f) => f === "differ" ? row.verdict !== "differ" : !row[f])) return;
    if (tokenClass.value && row.class !== tokenClass.value) return;
    if (query) {
      row.all ??= [row.before + row.real, ...row.sides.map((s) => s.cont ?? s.pred), row.why ?? "", ...(row.diffs ?? [])].join("\n").toLowerCase();
      if (!row.all.includes(query)) return;
    }
    hits.push(k);
  });
  if (paging) paging.none = false;
  if (!hits.includes(here) && hits.length > 0) go(hits.find((k) => k > here) ?? hits[0], false);
  fade();
  count();
}

// find asks View's server for the next page with a mismatch that passes the filters.
function find(by, more) {
  const q = new URLSearchParams({ from: paging.page, by, q: $("search").value, class: tokenClass.value, ...more });
  for (const box of boxes) if (box.checked) q.set(box.name, "1");
  location.href = "find?" + q;
}

function start() {
  const link = location.hash; // before anything moves
  texts.forEach((text, t) => {
    const differ = text.rows.filter((row) => row.verdict === "differ").length;
    add($("text"), "option", `${text.job ? text.job + " " : ""}${text.id}: ${text.rows.length} mismatches, ${differ} divergent`).value = t;
  });
  if (paging) {
    const q = new URLSearchParams(location.search);
    boxes.forEach((box) => { box.checked = q.has(box.name); });
    $("search").value = q.get("q") ?? "";
    tokenClass.value = q.get("class") ?? "";
    $("pageback").onclick = () => find(-1, { any: 1 });
    $("pagenext").onclick = () => find(1, { any: 1 });
    $("goto").onchange = () => find(1, { text: $("goto").value });
  }
  const none = paging?.none;
  filter();
  if (none) { paging.none = true; count(); }
  const linked = byLink.get(link.slice(1));
  if (linked !== undefined) go(linked, false);
  else if (link === "#last") go(hits.at(-1), false);
  else if (here < 0) go(0, false);
  if (rows.length === 0) $("read").textContent = "There are no mismatches to show.";
}

boxes.forEach((box) => { box.onchange = filter; });
tokenClass.onchange = filter;
let typing;
$("search").oninput = () => { clearTimeout(typing); typing = setTimeout(filter, 120); };
$("text").onchange = () => { const t = +$("text").value; go(hits.find((k) => rows[k].text === t) ?? rows.findIndex((row) => row.text === t), false); };
$("back").onclick = () => step(-1);
$("next").onclick = () => step(1);
const marked = (e) => e.target.closest?.("a.m");
$("read").addEventListener("click", (e) => { const a = marked(e); if (a) { e.preventDefault(); go(+a.dataset.row, true); } });
$("read").addEventListener("focusin", (e) => { const a = marked(e); if (a && +a.dataset.row !== here) go(+a.dataset.row, false); });
$("read").addEventListener("pointerover", (e) => { const a = marked(e); if (a) detail(+a.dataset.row); });
$("read").addEventListener("pointerout", (e) => { if (marked(e)) detail(here); });
addEventListener("hashchange", () => { const k = byLink.get(location.hash.slice(1)); if (k !== undefined && k !== here) go(k, true); });
addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.altKey || e.metaKey) return;
  if (e.key === "Escape" && e.target === $("search")) {
    marks[here - firstMark]?.focus();
    e.preventDefault(); // it would be emptied
  }
  if (e.target.closest?.("input:not([type=checkbox]), select")) return;
  if (e.key === "n" || e.key === "ArrowRight") step(1);
  else if (e.key === "p" || e.key === "ArrowLeft") step(-1);
  else if (e.key === "/") $("search").focus();
  else return;
  e.preventDefault();
});
start();
