// The form of a model: controls from its description, and the request that they ask for.

import { make } from "./dom.js";

const FEW = 24; // classes that are shown as buttons
const SEEDS = Number.MAX_SAFE_INTEGER;

export const title = (condition, number) =>
  condition.names?.length ? condition.names[number].split(",")[0] : String(number);

export class Form {
  // `query`: URLSearchParams with values to start from.
  constructor(place, model, query) {
    Object.assign(this, { place, model, query, files: {} });
    const names = [...new Set(model.programs.map((program) => program.name))];
    this.programName = names.includes(query.get("program")) ? query.get("program") : names[0];
    this.build(names);
  }

  get program() {
    const chosen = Number(this.controls.steps?.value);
    const named = this.model.programs.filter((program) => program.name === this.programName);
    return named.find((program) => program.steps === chosen) ?? named[0];
  }

  get conditions() {
    return this.model.conditions.filter((condition) => this.program.conditions.includes(condition.name));
  }

  get label() {
    const labels = this.conditions.filter((condition) => condition.form === "label");
    return labels.length === 1 ? labels[0] : null;
  }

  build(names) {
    this.controls = {};
    this.chosen = [];
    this.place.replaceChildren();
    if (names.length > 1) {
      const select = make("select", { id: "f-program" }, ...names.map((name) => new Option(name, name)));
      select.value = this.programName;
      select.onchange = () => {
        this.programName = select.value;
        this.build(names);
      };
      this.field("Program", select);
    }
    const { label } = this;
    if (label) this.classes(label);
    for (const condition of this.conditions) if (condition !== label) this.condition(condition);
    this.number("per", label ? "Samples per class" : "Samples", { min: 1, max: this.model.max_samples, value: 4, step: 1 });
    this.seed();
    for (const setting of this.model.settings) if (this.program.settings.includes(setting.name)) this.setting(setting);
    this.steps();
  }

  field(text, control, ...more) {
    const label = make("label", { for: control.id, textContent: text });
    const field = make("div", { className: "field" }, label, control, ...more);
    this.place.append(field);
    return field;
  }

  number(name, text, { value, ...limits }) {
    const input = make("input", { type: "number", id: `f-${name}`, inputMode: "decimal", ...limits });
    input.value = this.query.get(name) ?? value;
    this.controls[name] = input;
    return this.field(text, input);
  }

  seed() {
    const again = make("button", { type: "button", id: "reseed", className: "beside", textContent: "New" });
    again.title = "A new seed (N)";
    again.onclick = () => this.newSeed();
    const field = this.number("seed", "Seed", { min: 0, max: SEEDS, step: 1, value: 0 });
    field.append(again);
    field.classList.add("with-button");
  }

  newSeed() {
    this.controls.seed.value = Math.floor(Math.random() * 2 ** 32);
  }

  setting(setting) {
    const { name, low, high, unlimited } = setting;
    const text = name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
    const field = this.number(name, text, { min: low ?? undefined, max: high ?? undefined, step: "any", value: setting.default ?? "" });
    this.controls[name].placeholder = unlimited ? "no limit" : "";
    const [from, to] = [low ?? 0, high ?? (name === "guidance" ? Math.max(8, 2 * setting.default) : null)];
    if (to === null) return;
    const slider = make("input", { type: "range", min: from, max: to, step: (to - from) / 80, tabIndex: -1, "aria-hidden": "true" });
    slider.value = this.controls[name].value;
    slider.oninput = () => (this.controls[name].value = Number(Number(slider.value).toFixed(3)));
    this.controls[name].oninput = () => (slider.value = this.controls[name].value);
    field.classList.add("with-slider");
    field.append(slider);
  }

  steps() {
    const counts = this.model.programs.filter((program) => program.name === this.programName).map((program) => program.steps);
    if (counts.length < 2) return;
    const select = make("select", { id: "f-steps" }, ...counts.map((count) => new Option(count, count)));
    const wanted = this.query.get("steps");
    if (counts.map(String).includes(wanted)) select.value = wanted;
    this.controls.steps = select;
    this.field("Steps", select);
  }

  classes(condition) {
    const wanted = (this.query.get("classes") ?? "").split(",").filter(Boolean).map(Number);
    this.chosen = wanted.filter((number) => number >= 0 && number < condition.classes);
    if (!this.chosen.length) this.chosen = [...Array(Math.min(condition.classes, 4)).keys()];
    const group = make("fieldset", { className: "field" }, make("legend", { textContent: "Classes" }));
    this.place.append(group);
    if (condition.classes <= FEW) this.buttons(group, condition);
    else this.search(group, condition);
  }

  buttons(group, condition) {
    const all = make("button", { type: "button", className: "link", textContent: "All" });
    const boxes = [...Array(condition.classes).keys()].map((number) => {
      const box = make("input", { type: "checkbox", id: `class-${number}`, value: number, checked: this.chosen.includes(number) });
      box.onchange = () => {
        this.chosen = boxes.filter((b) => b.checked).map((b) => Number(b.value));
        all.textContent = boxes.every((b) => b.checked) ? "None" : "All";
      };
      return box;
    });
    all.onclick = () => {
      const none = boxes.every((box) => box.checked);
      for (const box of boxes) box.checked = !none;
      boxes[0].onchange();
    };
    const toggles = boxes.map((box) => make("label", { className: "toggle" }, box, make("span", { textContent: title(condition, box.value) })));
    group.querySelector("legend").append(all);
    group.append(make("div", { className: `toggles ${condition.names?.length ? "" : "narrow"}` }, ...toggles));
  }

  search(group, condition) {
    const options = make("datalist", { id: "known" });
    const chips = make("div", { className: "chips" });
    const input = make("input", { id: "f-classes", list: "known", autocomplete: "off", "aria-label": "Add a class" });
    input.placeholder = condition.names?.length ? "Name or number" : `0 to ${condition.classes - 1}`;
    for (let number = 0; number < condition.classes && condition.names?.length; number += 1) {
      options.append(make("option", { value: condition.names[number], textContent: String(number) }));
    }
    const show = () =>
      chips.replaceChildren(
        ...this.chosen.map((number) => {
          const chip = make("button", { type: "button", className: "chip", textContent: title(condition, number) });
          chip.setAttribute("aria-label", `Remove ${title(condition, number)}`);
          chip.onclick = () => {
            this.chosen = this.chosen.filter((other) => other !== number);
            show();
            input.focus();
          };
          return chip;
        }),
      );
    input.oninput = () => input.setCustomValidity("");
    const add = () => {
      const text = input.value.trim();
      const number = /^\d+$/.test(text) ? Number(text) : named(condition, text);
      input.setCustomValidity(text && (number < 0 || number >= condition.classes) ? `No class ${text}` : "");
      if (!text || !input.reportValidity()) return;
      if (!this.chosen.includes(number)) this.chosen.push(number);
      input.value = "";
      show();
    };
    input.onchange = add;
    input.onkeydown = (event) => {
      if (event.key === "Enter" && !event.ctrlKey && !event.metaKey && input.value) {
        event.preventDefault();
        add();
      }
    };
    show();
    group.append(chips, input, options);
  }

  condition(condition) {
    const size = condition.shape.reduce((product, d) => product * d, 1);
    const name = `f-${condition.name}`;
    const [shape, bytes] = [condition.shape.join(" × ") || "one number", isText(condition)];
    const what = condition.form === "tokens" ? (bytes ? `text, up to ${shape} bytes` : `${shape} numbers below ${condition.vocabulary}`) : `${shape} numbers`;
    if (condition.form === "label") {
      const options = [...Array(condition.classes).keys()].map((number) => new Option(title(condition, number), number));
      const select = make("select", { id: name }, ...(condition.required ? [] : [new Option("default", "")]), ...options);
      select.value = this.query.get(condition.name) ?? (condition.required ? "0" : "");
      this.controls[condition.name] = select;
      this.field(condition.name, select);
      return;
    }
    const input = make("input", { type: "file", id: `${name}-file`, accept: ".npy,.npz,.json" });
    input.setAttribute("aria-label", `File of ${condition.name}`);
    input.onchange = () => {
      if (input.files[0]) this.files[condition.name] = input.files[0];
      else delete this.files[condition.name];
    };
    const hint = make("p", { className: "quiet", textContent: `${what}; a file: .npy, .npz or JSON${condition.required ? "" : "; optional"}` });
    if (condition.form === "tokens" || size <= 16) {
      const text = make("textarea", { id: name, rows: 2, spellcheck: false });
      text.value = this.query.get(condition.name) ?? "";
      this.controls[condition.name] = text;
      this.field(condition.name, text, hint, input);
    } else {
      this.field(condition.name, input, hint).querySelector("label").setAttribute("for", input.id);
    }
  }

  // {request, query, files}: what is asked of the server, its address as a page, and the files that belong to it.
  read() {
    const request = { seeds: Number(this.controls.seed.value || 0), conditions: {}, settings: {} };
    const query = new URLSearchParams({ model: this.model.name });
    if (this.label) {
      const per = Number(this.controls.per.value || 1);
      request.classes = this.chosen.flatMap((number) => Array(per).fill(number));
      query.set("classes", this.chosen.join(","));
    } else {
      request.count = Number(this.controls.per.value || 1);
    }
    query.set("per", this.controls.per.value || 1);
    query.set("seed", request.seeds);
    for (const setting of this.model.settings) {
      const text = this.controls[setting.name]?.value;
      if (!text) continue;
      request.settings[setting.name] = Number(text);
      query.set(setting.name, text);
    }
    if (this.controls.steps) query.set("steps", (request.steps = this.program.steps));
    if (this.model.programs.some((program) => program.name !== this.programName)) {
      query.set("program", (request.program = this.programName));
    }
    const files = {};
    for (const condition of this.conditions.filter((c) => c !== this.label)) {
      const text = this.controls[condition.name]?.value.trim();
      if (this.files[condition.name]) files[condition.name] = this.files[condition.name];
      else if (text) {
        request.conditions[condition.name] = value(condition, text);
        query.set(condition.name, text);
      }
    }
    if (!Object.keys(request.conditions).length) delete request.conditions;
    if (!Object.keys(request.settings).length) delete request.settings;
    return { request, query, files };
  }
}

// The class of a name, or of one of its synonyms; -1 if there is none.
function named({ names = [] }, text) {
  const wanted = text.toLowerCase();
  const whole = names.findIndex((name) => name.toLowerCase() === wanted);
  if (whole >= 0) return whole;
  return names.findIndex((name) => name.toLowerCase().split(",").some((part) => part.trim() === wanted));
}

// Whether tokens in a row are the bytes of a text.
function isText({ form, vocabulary, shape }) {
  return form === "tokens" && vocabulary === 256 && shape.length === 1;
}

function value(condition, text) {
  if (condition.form === "label") return Number(text);
  if (isText(condition)) return [...new TextEncoder().encode(text)];
  if (/[[\]]/.test(text)) {
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }
  const numbers = text.split(/[\s,]+/).map(Number);
  if (!condition.shape.length) return numbers[0];
  return reshape(numbers, condition.shape);
}

// A flat list as nested lists; as it is if the sizes differ, which the server explains.
function reshape(flat, shape) {
  if (shape.length < 2 || flat.length !== shape.reduce((a, b) => a * b, 1)) return flat;
  const inner = flat.length / shape[0];
  return [...Array(shape[0]).keys()].map((i) => reshape(flat.slice(i * inner, (i + 1) * inner), shape.slice(1)));
}
