// What makes a sample again: a command, an address of this page, an address of the sample itself.

const plain = /^[\w./=:,@%+-]+$/;
const quoted = (text) => (plain.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// Options of `latentc sample` other than classes, seeds and the file.
function options({ model, request, files }) {
  const found = [];
  for (const [name, value] of Object.entries(request.settings ?? {})) {
    found.push(...(name === "guidance" || name === "truncation" ? [`--${name}`, value] : ["--setting", `${name}=${value}`]));
  }
  if (request.program) found.push("--program", request.program);
  if (request.steps) found.push("--steps", request.steps);
  for (const name of Object.keys(request.conditions ?? {})) found.push("--given", `${name}=${name}.npy`);
  for (const [name, file] of Object.entries(files)) found.push("--given", `${name}=${file.name}`);
  return found;
}

const folded = (text) => text.normalize("NFKC").toLowerCase().replaceAll("_", " ").trim().split(/\s+/).join(" ");

// The class of a sample as commands and addresses take it: its short name if no other class has it, else its number.
function classOf(model, item) {
  const [condition, label] = Object.entries(item.labels)[0] ?? [];
  const names = model.conditions.find(({ name }) => name === condition)?.names ?? [];
  const short = (names[label] ?? "").split(",")[0].trim();
  const holders = names.filter((name) => [name, ...name.split(",")].some((part) => folded(part) === folded(short)));
  if (!short || short.startsWith("-") || holders.length > 1) return label;
  return /^[\d\s-]+$|^all$|"/.test(short) ? `"${short.replaceAll('"', '""')}"` : short;
}

const line = (words) => words.map((word) => quoted(String(word))).join(" ");
const suffix = { image: "png", video: "gif", audio: "wav", text: "txt" };

export function commandForAll(run) {
  const { model, request, query } = run;
  const per = query.get("per");
  const which = request.classes
    ? ["--class", query.get("classes"), ...(per === "1" ? [] : ["--per-class", per])]
    : ["--count", request.count];
  const kind = suffix[run.program.medium] ?? "npz";
  return line(["latentc", "sample", model.bundle, ...which, "--seed", request.seeds, ...options(run), "-o", `samples.${kind}`]);
}

// [{what, text}] for one sample, and a note if files are needed for it.
export function again(run, item) {
  const { model, request, query, files } = run;
  const label = Object.values(item.labels)[0];
  const one = request.classes ? ["--class", classOf(model, item)] : ["--count", 1];
  const kind = suffix[run.program.medium] ?? "npz";
  const command = line(["latentc", "sample", model.bundle, ...one, "--seed", item.seed, ...options(run), "-o", `sample.${kind}`]);
  const found = [{ what: "Command", text: command }];
  const names = [...Object.keys(request.conditions ?? {}), ...Object.keys(files)];
  if (!Object.keys(files).length) {
    const page = new URLSearchParams(query);
    if (request.classes) page.set("classes", label);
    page.set("per", 1);
    page.set("seed", item.seed);
    const direct = new URLSearchParams(page);
    for (const name of ["model", "per", "seed"]) direct.delete(name);
    if (request.classes) direct.set("classes", classOf(model, item));
    direct.set("seeds", item.seed);
    for (const [name, value] of Object.entries(request.conditions ?? {})) direct.set(name, JSON.stringify(value));
    found.push({ what: "This page", text: `${location.origin}${location.pathname}?${tidy(page)}` });
    found.push({ what: "The file", text: new URL(`v1/models/${model.name}/sample?${tidy(direct)}`, location).href });
  }
  const note = names.length ? `The command needs ${names.map((name) => `the values of ${name}`).join(" and ")} as a file.` : "";
  return { found, note };
}

export const tidy = (query) => query.toString().replaceAll("%2C", ",");
