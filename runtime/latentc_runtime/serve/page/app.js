// The page: one form, one grid of samples, one dialog about a sample.

import { ApiError, file, models, sample, setKey } from "./api.js";
import { again, commandForAll, tidy } from "./again.js";
import { $, copy, make, save } from "./dom.js";
import { Form, title } from "./form.js";
import { large, picture, saved, sheet } from "./media.js";

const SMALL = 64; // pictures up to this side are enlarged without smoothing
const [SMALLEST, GAP] = [84, 14]; // pixels of a tile, and between tiles

let known = []; // descriptions of the models
let form = null;
let run = null; // what was asked last: {model, program, request, query, files, items}
let abort = null;
let shown = 0; // index of the sample in the dialog

// ---- models

async function start() {
  const query = new URLSearchParams(location.search);
  try {
    known = await models();
  } catch (error) {
    if (error.status === 401) return askForKey(error);
    return fail(error, start);
  }
  $("model").replaceChildren(...known.map((model) => new Option(model.name, model.name)));
  $("pick").hidden = known.length < 2;
  $("name").hidden = known.length > 1;
  const named = known.find((model) => model.name === query.get("model"));
  choose(named ?? known[0], query);
  if (query.has("seed")) go();
}

function choose(model, query) {
  $("model").value = $("name").textContent = model.name;
  const state = model.state === "ready" ? "" : `, ${model.state}`;
  $("about").textContent = `${model.engine} ${model.precision} on ${model.device}${state}`;
  document.title = `${model.name} · latentc`;
  form = new Form($("fields"), model, query);
  clear();
  $("empty").hidden = false;
}

function askForKey(error) {
  if (error.message.includes("wrong")) $("ask-why").textContent = "That key is wrong.";
  $("ask-form").onsubmit = () => {
    setKey($("key").value);
    new ResizeObserver(arrange).observe($("grid"));
start();
  };
  $("key").value = "";
  $("ask").showModal();
}

// ---- sampling

function clear() {
  abort?.abort();
  $("grid").replaceChildren();
  $("error").hidden = $("empty").hidden = $("after").hidden = $("progress").hidden = true;
  $("status").textContent = "";
}

function invalid() {
  for (const input of $("form").querySelectorAll("input, select")) {
    if (!input.checkValidity()) {
      input.reportValidity();
      return true;
    }
  }
  return false;
}

async function go() {
  if (invalid()) return;
  clear();
  const { request, query, files } = form.read();
  run = { model: form.model, program: form.program, label: form.label, request, query, files, items: [] };
  if (form.label && !request.classes.length) {
    return fail(new ApiError({ message: "No class is chosen.", help: "Choose one or more." }), null);
  }
  history.replaceState(null, "", `?${tidy(query)}`);
  const mine = (abort = new AbortController());
  const count = request.classes?.length ?? request.count;
  const tiles = layOut(Math.min(count, run.model.max_samples));
  busy(true);
  const begin = performance.now();
  try {
    for await (const [name, data] of sample(run.model.name, request, files, mine.signal)) {
      if (name === "accepted") say(data.waiting > data.samples ? "Waiting in the queue" : "Sampling", count);
      if (name === "progress") advance(data.done, data.total);
      if (name === "preview") paint(tiles[data.index], data, true);
      if (name === "sample") {
        run.items[data.index] = data;
        paint(tiles[data.index], data, false);
      }
    }
    if (mine !== abort) return;
    const seconds = (performance.now() - begin) / 1000;
    $("status").textContent = `${plural(count)} in ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  } catch (error) {
    if (mine !== abort) return; // another run has begun
    $("grid").replaceChildren(...[...$("grid").children].filter((tile) => tile.classList.contains("done")));
    $("status").textContent = error.name === "AbortError" ? `Stopped after ${plural(finished().length)}` : "";
    if (error.status === 401) askForKey(error);
    else if (error.name !== "AbortError") fail(error, go);
    if (!finished().length && error.name === "AbortError") $("empty").hidden = false;
  } finally {
    if (mine === abort) {
      busy(false);
      $("after").hidden = !finished().length;
    }
  }
}

const finished = () => run.items.filter(Boolean);
const plural = (count) => `${count} sample${count === 1 ? "" : "s"}`;

function busy(now) {
  const focused = [$("go"), $("stop")].includes(document.activeElement);
  $("go").hidden = now;
  $("stop").hidden = $("progress").hidden = !now;
  $("progress").removeAttribute("value");
  $("form").classList.toggle("busy", now);
  $("keys").replaceChildren(...(now ? ["Esc"] : ["Ctrl", "Enter"]).map((key) => make("kbd", { textContent: key })));
  if (focused) $(now ? "stop" : "go").focus({ preventScroll: true });
}

const say = (what, count) => ($("status").textContent = `${what}: ${plural(count)}`);

function advance(done, total) {
  $("progress").value = done / total;
  $("status").textContent = `${Math.floor(done)} of ${plural(total)}`;
}

function fail(error, retry) {
  const box = $("error");
  const head = make("p", { className: "what" }, error.message);
  if (error.code) head.append(make("code", { textContent: error.code }));
  box.replaceChildren(head);
  if (error.help) box.append(make("p", { className: "quiet", textContent: error.help }));
  const passes = !error.status || error.status === 429 || error.status >= 500;
  if (retry && passes) {
    const button = make("button", { type: "button", id: "retry", textContent: "Try again" });
    button.onclick = retry;
    box.append(button);
    let left = error.after ?? 0;
    const tick = () => {
      button.textContent = left > 0 ? `Try again (${left} s)` : "Try again";
      if (left-- > 0 && button.isConnected) setTimeout(tick, 1000);
    };
    tick();
  }
  $("empty").hidden = true;
  box.hidden = false;
}

// ---- the grid

function layOut(count) {
  const side = run.program.side ?? [1, 1];
  const width = count <= 4 ? 200 : count <= 12 ? 148 : count <= 32 ? 112 : SMALLEST;
  $("grid").className = `grid ${run.program.medium}`;
  $("grid").style.setProperty("--tile", `${width}px`);
  $("grid").style.setProperty("--ratio", `${side[1]} / ${side[0]}`);
  const tiles = [...Array(count).keys()].map((index) => {
    const face = make("span", { className: "face" });
    const tile = make("button", { type: "button", className: "tile", disabled: true }, face, make("span", { className: "caption" }));
    tile.onclick = () => open(index);
    return tile;
  });
  $("grid").replaceChildren(...tiles);
  arrange();
  return tiles;
}

// Rows end between classes if they are long enough for one.
function arrange() {
  const fit = (width) => Math.max(1, Math.floor(($("grid").clientWidth + GAP) / (width + GAP)));
  const per = run?.request.classes ? Number(run.query.get("per")) : 1;
  const columns = fit(parseFloat($("grid").style.getPropertyValue("--tile")) || SMALLEST);
  const longer = Math.ceil(columns / per) * per;
  const whole = longer <= columns * 1.25 || columns < per ? longer : columns - (columns % per);
  const possible = whole <= fit(SMALLEST) ? whole : columns;
  $("grid").style.setProperty("--columns", possible);
}

function named(item) {
  const labels = Object.entries(item.labels ?? {});
  const told = labels.map(([name, number]) => title(run.model.conditions.find((c) => c.name === name), number));
  return told.join(", ");
}

const pixelated = () => Math.max(...(run.program.side ?? [SMALL + 1])) <= SMALL && run.program.medium !== "audio";

function paint(tile, item, unfinished) {
  if (!tile || (unfinished && tile.classList.contains("done"))) return;
  const alt = unfinished ? "unfinished" : [named(item), `seed ${item.seed}`].filter(Boolean).join(", ");
  tile.querySelector(".face").replaceChildren(picture(item, alt, pixelated()));
  tile.classList.toggle("done", !unfinished);
  tile.classList.toggle("unfinished", unfinished);
  tile.disabled = unfinished;
  if (!unfinished) tile.querySelector(".caption").textContent = named(item) || `seed ${item.seed}`;
}

// ---- one sample

function open(index) {
  const item = run.items[index];
  if (!item) return;
  shown = index;
  const name = named(item);
  $("detail-title").textContent = name || `Sample ${index + 1}`;
  $("detail-media").style.setProperty("--ratio", $("grid").style.getPropertyValue("--ratio"));
  $("detail-media").replaceChildren(...large(item, `${name}, seed ${item.seed}`, pixelated()));
  const facts = { seed: item.seed, ...item.labels, ...item.settings, steps: run.program.steps, solver: run.program.solver };
  $("detail-facts").replaceChildren(
    ...Object.entries(facts).map(([key, value]) => make("div", {}, make("dt", { textContent: key }), make("dd", { textContent: value }))),
  );
  const { found, note } = again(run, item);
  $("detail-again").replaceChildren(
    ...found.map(({ what, text }) => {
      const button = make("button", { type: "button", textContent: "Copy" });
      button.setAttribute("aria-label", `Copy: ${what}`);
      button.onclick = () => copy(text, button);
      const words = text.split(" ").flatMap((word) => [make("i", { textContent: word }), " "]);
      return make("div", { className: "row" }, make("span", { textContent: what }), button, make("code", {}, ...words.slice(0, -1)));
    }),
    ...(note ? [make("p", { className: "quiet", textContent: note })] : []),
  );
  $("detail-before").disabled = !run.items[index - 1];
  $("detail-next").disabled = !run.items[index + 1];
  if (!$("detail").open) $("detail").showModal();
}

const fileName = (item, suffix) => [run.model.name, ...Object.values(item.labels ?? {}), `seed${item.seed}`].join("-") + `.${suffix}`;

async function saveAll() {
  const items = finished();
  try {
    if (run.program.medium === "image") {
      const per = Number(run.query.get("per"));
      const columns = run.request.classes && per > 1 ? per : Math.min(8, items.length);
      save(await sheet(items, columns), `${run.model.name}.png`);
    } else {
      const type = run.program.types[0];
      save(await file(run.model.name, run.request, run.files, type), `${run.model.name}.${type.split(/[/-]/).pop()}`);
    }
  } catch (error) {
    fail(error);
  }
}

// ---- wiring

$("form").onsubmit = (event) => {
  event.preventDefault();
  go();
};
$("model").onchange = () => {
  choose(known.find((model) => model.name === $("model").value), new URLSearchParams());
  history.replaceState(null, "", `?model=${$("model").value}`);
};
$("stop").onclick = () => abort?.abort();
$("save").onclick = saveAll;
$("save-npz").onclick = () =>
  file(run.model.name, run.request, run.files, "application/x-npz").then((blob) => save(blob, `${run.model.name}.npz`), fail);
$("copy-all").onclick = () => copy(commandForAll(run), $("copy-all"));
$("detail-close").onclick = () => $("detail").close();
$("detail-before").onclick = () => open(shown - 1);
$("detail-next").onclick = () => open(shown + 1);
$("detail-save").onclick = () => {
  const [blob, suffix] = saved(run.items[shown]);
  save(blob, fileName(run.items[shown], suffix));
};
$("detail").onclick = (event) => {
  if (event.target === $("detail")) $("detail").close(); // the backdrop
};
$("detail").onclose = () => $("grid").children[shown]?.focus();
document.onkeydown = (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && event.target.type !== "checkbox";
  if ($("detail").open) {
    if (event.key === "ArrowLeft" && run.items[shown - 1]) open(shown - 1);
    if (event.key === "ArrowRight" && run.items[shown + 1]) open(shown + 1);
    return;
  }
  if ($("ask").open || !form) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    go();
  } else if (event.key === "Escape" && !$("stop").hidden) {
    abort?.abort();
  } else if (event.key === "n" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    form.newSeed();
    go();
  } else if (event.key.startsWith("Arrow") && event.target.classList?.contains("tile")) {
    move(event);
  }
};

// Arrow keys move over the grid.
function move(event) {
  const tiles = [...$("grid").children];
  const columns = tiles.filter((tile) => tile.offsetTop === tiles[0].offsetTop).length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const next = tiles[tiles.indexOf(event.target) + by];
  if (next) {
    event.preventDefault();
    next.focus();
  }
}

new ResizeObserver(arrange).observe($("grid"));
start();
