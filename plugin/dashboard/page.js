// The page of `kubectl aifactory dashboard`. The server sends the whole view as JSON whenever it has changed; `draw`
// makes a tree of it, and `mend` changes the page until it is like that tree: what has the focus or is open stays so.
// Text gets into the page as text only (createTextNode), never as HTML: names and messages come from anybody.

const MARKS = {
  ok: ["✓", "fine"],
  busy: ["▸", "on its way"],
  held: ["‖", "rests on request"],
  wait: ["!", "waits for somebody"],
  stuck: ["✕", "stuck"],
};
const NOTHING = {
  Data: "no inputs named",
  Train: "no job makes it",
  Version: "no version yet",
  Serve: "no pool serves it",
  Tokens: "none yet",
};
const SVG = "http://www.w3.org/2000/svg";

// ---- making and mending elements

function h(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "line"].includes(name);
  const made = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat(3)) {
    if (child instanceof Node) made.append(child);
    else if (child !== undefined && child !== null && child !== "") made.append(document.createTextNode(child));
  }
  return made;
}

// Which child is which: by its key, else the how-manieth of its sort it is among those that have none.
function keysOf(parent) {
  const counts = {};
  return [...parent.childNodes].map((node) => {
    const key = node.nodeType === 1 && node.getAttribute("data-key");
    if (key) return `${node.nodeName} ${key}`;
    counts[node.nodeName] = (counts[node.nodeName] || 0) + 1;
    return `${node.nodeName} #${counts[node.nodeName]}`;
  });
}

function mend(old, made) {
  const keys = keysOf(made);
  const known = new Map();
  // What goes, goes first: an element that is moved would lose the focus.
  keysOf(old).forEach((key, place) => known.set(key, known.get(key) || [...old.childNodes][place]));
  const kept = new Set(keys.map((key) => known.get(key)));
  [...old.childNodes].filter((node) => !kept.has(node)).forEach((node) => node.remove());
  let next = old.firstChild;
  [...made.childNodes].forEach((wanted, place) => {
    const node = known.get(keys[place]) || wanted;
    known.delete(keys[place]);
    if (node === next) next = next.nextSibling;
    else old.insertBefore(node, next);
    if (node === wanted) return;
    if (node.nodeType === 3) {
      if (node.data !== wanted.data) node.data = wanted.data;
      return;
    }
    const names = new Set([...node.attributes, ...wanted.attributes].map((attribute) => attribute.name));
    names.delete("open"); // whether something is open is for the reader to say
    for (const name of names) {
      if (!wanted.hasAttribute(name)) node.removeAttribute(name);
      else if (node.getAttribute(name) !== wanted.getAttribute(name)) {
        node.setAttribute(name, wanted.getAttribute(name));
      }
    }
    mend(node, wanted);
  });
}

function fill(id, ...children) {
  mend(document.getElementById(id), h("div", {}, ...children));
}

// ---- words

function ago(since) {
  const seconds = (Date.now() - Date.parse(since)) / 1000;
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 120) return `${Math.max(0, Math.floor(seconds / 10) * 10)}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)}h` : `${Math.floor(seconds / 86400)}d`;
}

const clock = (seconds) => new Date(seconds * 1000).toTimeString().slice(0, 8);
const places = (value) => (value === null ? "none" : String(Number(value.toPrecision(5))));

function mark(name) {
  if (!MARKS[name]) return undefined;
  const [sign, words] = MARKS[name];
  return h("span", { class: `mark ${name}`, role: "img", "aria-label": words, title: words }, sign);
}

const opened = new Set();

// Rows are made when somebody looks at them: there may be hundreds behind each picture.
function table(owner, title, head, rows) {
  const name = `${owner} ${title}`;
  const summary = h("summary", {}, `${title} (${rows.length})`);
  const told = h("details", { "data-key": `table ${title}`, "data-table": name }, summary);
  if (!opened.has(name)) return told;
  told.append(
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "group", "aria-label": title },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
        h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell))))),
      ),
    ),
  );
  return told;
}

// ---- pictures

const WIDE = 240;
const HIGH = 56;

// Where the line is broken: after an attempt that began again at an earlier step, and where there was no figure.
function pieces(points) {
  const found = [[]];
  points.forEach((point, place) => {
    if (point[1] === null || (place && point[0] < points[place - 1][0])) found.push([]);
    if (point[1] !== null) found[found.length - 1].push(point);
  });
  return found.filter((piece) => piece.length);
}

function curve(owner, { title, axis, points }) {
  const time = axis === "time";
  const last = points[points.length - 1];
  // A pool says its figure when it has changed: until then it is what it was.
  const drawn = time ? [...points, [Math.max(Date.now() / 1000, last[0]), last[1]]] : points;
  const known = drawn.filter((point) => point[1] !== null);
  if (!known.length) return undefined;
  const xs = drawn.map((point) => point[0]);
  const ys = known.map((point) => point[1]);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  // Of a loss the shape counts, of all else the size.
  const [low, high] = [title === "Loss" ? Math.min(...ys) : 0, Math.max(...ys)];
  const x = (value) => 3 + ((WIDE - 6) * (value - left)) / (right - left || 1);
  const y = (value) => HIGH - 4 - ((HIGH - 8) * (value - low)) / (high - low || 1);
  const at = (point) => `${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`;
  const path = pieces(drawn)
    .map((piece) =>
      piece
        .map((point, place) => {
          if (!place) return `M${at(point)}`;
          return time ? `H${x(point[0]).toFixed(1)}V${y(point[1]).toFixed(1)}` : `L${at(point)}`;
        })
        .join(""),
    )
    .join("");
  const where = (value) => (time ? clock(value) : `step ${value}`);
  const words =
    `${title}: ${places(last[1])} at ${where(last[0])}; ` +
    `since ${where(left)} between ${places(Math.min(...ys))} and ${places(Math.max(...ys))}`;
  return h(
    "figure",
    { "data-key": `curve ${title}` },
    h("figcaption", {}, title, h("b", {}, places(last[1]))),
    h(
      "svg",
      { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": words },
      h("line", { class: "base", x1: 0, x2: WIDE, y1: HIGH - 0.5, y2: HIGH - 0.5 }),
      h("path", { d: path, "vector-effect": "non-scaling-stroke" }),
      known.length === 1
        ? h("path", { class: "dot", d: `M${at(known[0])}h0.01`, "vector-effect": "non-scaling-stroke" })
        : undefined,
    ),
    h(
      "p",
      { class: "axis" },
      h("span", {}, where(left)),
      h("span", {}, `${places(low)} to ${places(high)}`),
      h("span", {}, time ? "now" : where(right)),
    ),
    table(
      owner,
      `${title} as a table`,
      [time ? "time" : "step", title],
      [...points].reverse().map((point) => [time ? clock(point[0]) : String(point[0]), places(point[1])]),
    ),
  );
}

function bar({ title, words, parts }) {
  const many = parts.length > 1;
  const said = parts.map((part) => `${part.name} ${Math.round(part.percent)} %`).join(", ");
  return h(
    "div",
    { class: "bar", "data-key": `bar ${title}` },
    h("p", {}, h("span", {}, title), h("span", { class: "dim" }, words)),
    h(
      "svg",
      { viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": `${title}: ${said}` },
      parts.map((part, place) => {
        const from = parts.slice(0, place).reduce((sum, other) => sum + other.percent, 0);
        const to = Math.min(100, from + part.percent);
        return h("path", { class: `part${place}`, d: `M${from} 0H${to}V10H${from}Z` });
      }),
      many ? h("line", { class: "cut", x1: parts[0].percent, x2: parts[0].percent, y1: 0, y2: 10 }) : undefined,
    ),
    many
      ? h(
          "p",
          { class: "legend" },
          parts.map((part, place) =>
            h(
              "span",
              {},
              h("i", { class: `key part${place}`, "aria-hidden": "true" }),
              `${part.name} ${Math.round(part.percent)} %`,
            ),
          ),
        )
      : undefined,
  );
}

// ---- the line from data to tokens

function fact([name, value]) {
  return h("div", { "data-key": name }, h("dt", {}, name), h("dd", {}, value));
}

function card(found, namespace) {
  const owner = `${namespace}/${found.ref}`;
  return h(
    "article",
    { class: `card ${found.mark || ""}`, "data-key": found.ref, "aria-label": found.ref },
    h(
      "p",
      { class: "head" },
      mark(found.mark),
      h("b", { class: "ref" }, found.ref),
      found.phase ? h("span", { class: "phase" }, found.phase) : undefined,
    ),
    found.big && found.big.length
      ? h("p", { class: "big" }, found.big.map(([value, unit]) => h("span", {}, h("b", {}, value), ` ${unit}`)))
      : undefined,
    found.message && found.mark !== "ok"
      ? h(
          "p",
          { class: "words" },
          found.reason ? h("b", {}, `${found.reason}: `) : undefined,
          found.message,
          found.since ? h("span", { class: "dim" }, ` (for ${ago(found.since)})`) : undefined,
        )
      : undefined,
    (found.bars || []).map(bar),
    found.steps && found.steps.length
      ? h(
          "ol",
          { class: "steps", "aria-label": "Steps of the change" },
          found.steps.map(([words, state]) =>
            h("li", { class: state, "aria-current": state === "now" ? "step" : undefined },
              `${{ done: "✓ ", now: "▸ " }[state] || ""}${words}`),
          ),
        )
      : undefined,
    (found.curves || []).map((each) => curve(owner, each)),
    (found.facts || []).length ? h("dl", { class: "facts" }, found.facts.map(fact)) : undefined,
    found.base
      ? h("p", {}, h("a", { href: `#${placeOf(namespace, found.base)}` }, `see the line of ${found.base}`))
      : undefined,
    (found.tables || []).map(({ title, head, rows }) => table(owner, title, head, rows)),
  );
}

const placeOf = (namespace, title) => `line-${namespace}-${title}`;

function stage([title, cards], namespace) {
  const marks = cards.map((found) => found.mark);
  const moves = marks.includes("busy") ? " moves" : "";
  return h(
    "li",
    { class: `stage${cards.length ? "" : " empty"}${moves}`, "data-key": title },
    h("h4", {}, title),
    cards.length ? cards.map((found) => card(found, namespace)) : h("p", { class: "dim" }, NOTHING[title]),
  );
}

function worst(line) {
  const marks = line.stages.flatMap(([, cards]) => cards.map((found) => found.mark));
  return ["stuck", "wait", "held", "busy", "ok"].find((name) => marks.includes(name));
}

function drawLine(line, everywhere) {
  return h(
    "section",
    {
      class: "line",
      "data-key": `${line.namespace}/${line.title}`,
      id: placeOf(line.namespace, line.title),
      "aria-label": `line of ${line.title}${everywhere ? ` in ${line.namespace}` : ""}`,
    },
    h(
      "h3",
      {},
      mark(worst(line)),
      line.title,
      everywhere ? h("span", { class: "dim" }, `in ${line.namespace}`) : undefined,
    ),
    h("ol", { class: "stages" }, line.stages.map((found) => stage(found, line.namespace))),
    line.leftOut ? h("p", { class: "dim" }, `and ${line.leftOut} earlier that nothing depends on`) : undefined,
  );
}

// ---- what blocks

// Our own words have code between backticks.
function coded(text) {
  return text.split("`").map((part, place) => (place % 2 ? h("code", {}, part) : part));
}

function command(text) {
  return h("li", {}, h("code", {}, text), h("button", { type: "button", class: "copy", "data-text": text }, "Copy"));
}

function blocker(found, first) {
  return h(
    "details",
    { class: `blocker ${found.state}`, "data-key": `${found.namespace}/${found.ref}`, open: first },
    h(
      "summary",
      {},
      mark(found.state),
      h("b", { class: "ref" }, found.ref),
      ` ${{ stuck: "is stuck", wait: "waits", held: "rests" }[found.state]}: ${found.reason}`,
      found.since ? h("span", { class: "dim" }, ` for ${ago(found.since)}`) : undefined,
    ),
    found.message ? h("p", { class: "words" }, found.message) : undefined,
    h(
      "dl",
      { class: "facts" },
      found.meaning ? fact(["why", coded(found.meaning)]) : undefined,
      found.advice ? fact(["do", coded(found.advice)]) : undefined,
    ),
    h("ul", { class: "commands", "aria-label": "Commands that mend it" }, found.commands.map(command)),
  );
}

function drawBlocked(view) {
  const more = view.blockedInAll - view.blocked.length;
  return [
    h("h2", { id: "blocked-title" }, view.blockedInAll ? `What blocks (${view.blockedInAll})` : "Nothing blocks"),
    view.blocked.map((found, place) => blocker(found, place === 0)),
    more > 0 ? h("p", { class: "dim" }, `and ${more} more`) : undefined,
  ];
}

// ---- the page

let view;
let told = "";

function wanted(line) {
  const words = document.getElementById("words").value.trim().toLowerCase();
  const mine = ["stuck", "wait", "held"].includes(worst(line));
  if (document.getElementById("only").checked && !mine) return false;
  const text = [line.namespace, line.title, ...line.stages.flatMap(([, cards]) =>
    cards.flatMap((found) => [found.ref, found.phase, found.reason, found.message]))].join(" ").toLowerCase();
  return words.split(/\s+/).every((word) => text.includes(word));
}

function draw() {
  if (!view) return;
  const blocked = view.blockedInAll;
  const title = `${blocked ? `(${blocked}!) ` : ""}AI factory, ${view.title}`;
  if (document.title !== title) document.title = title;
  fill("title", view.title);
  fill("totals", view.totals.map(([value, name]) => fact([name, value])));
  fill(
    "troubles",
    view.troubles.map(([kind, words]) =>
      h("p", { class: "trouble", role: "alert", "data-key": kind }, mark("stuck"), `${kind}s can not be read: `, words),
    ),
  );
  fill("blocked", view.known ? drawBlocked(view) : h("h2", { id: "blocked-title" }, "Reading the cluster"));
  const first = view.blocked[0];
  fill("said", first ? `${blocked} block, first ${first.ref}: ${first.reason}` : "");
  const lines = view.lines.filter(wanted);
  const everywhere = new Set(view.lines.map((line) => line.namespace)).size > 1;
  fill("lines", lines.map((line) => drawLine(line, everywhere)));
  const none = view.known && !view.linesInAll && !view.troubles.length;
  const hidden = view.linesInAll - lines.length;
  fill("count", none
    ? "There is no TrainingJob, ModelVersion or InferencePool here yet. Is the cluster fit: kubectl aifactory check"
    : hidden ? `${lines.length} of ${view.linesInAll} lines are shown` : "");
  fill(
    "since",
    `Curves begin when the command was started, at ${new Date(view.since).toLocaleString()}: a status holds its `,
    "latest figures only. What was before is in Prometheus, if it collects the operator's metrics.",
  );
}

function link(words, state) {
  if (told === words) return;
  told = words;
  const place = document.getElementById("link");
  place.className = state;
  fill("link", words);
}

const changes = new EventSource("changes");
changes.onmessage = (event) => {
  view = JSON.parse(event.data);
  link("live", "live");
  draw();
};
changes.onopen = () => link("live", "live");
changes.onerror = () => link("not connected: has the command ended? It is tried again", "lost");

setInterval(draw, 10000);
document.getElementById("filter").addEventListener("input", draw);
document.getElementById("filter").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    document.getElementById("words").focus();
  }
});
document.addEventListener(
  "toggle",
  ({ target }) => {
    if (!target.dataset.table) return;
    if (target.open) opened.add(target.dataset.table);
    else opened.delete(target.dataset.table);
    draw();
  },
  true,
);
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
});
