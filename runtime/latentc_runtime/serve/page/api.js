// The server's interface: models, samples as a stream of events, errors as {code, message, help}.

const KEY = "latentc-key";

export class ApiError extends Error {
  constructor({ code, message, help, status, after }) {
    super(message);
    Object.assign(this, { code, help, status, after });
  }
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function headers(more) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({ message: "The server does not answer.", help: "Check that it still runs, then try again." });
  }
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => ({ message: `The server answered with status ${answer.status}.` }));
  throw new ApiError({ ...found, status: answer.status, after: Number(answer.headers.get("Retry-After")) || null });
}

export async function openapi() {
  return (await ask("openapi.json", {})).json();
}

export async function models() {
  return (await (await ask("v1/models", {})).json()).models;
}

function body(request, files) {
  if (!Object.keys(files).length) {
    return { body: JSON.stringify(request), headers: { "Content-Type": "application/json" } };
  }
  const form = new FormData();
  form.append("request", JSON.stringify(request));
  for (const [name, file] of Object.entries(files)) form.append(name, file);
  return { body: form, headers: {} };
}

// All samples as one file of the type `accept`.
export async function file(model, request, files, accept) {
  const sent = body(request, files);
  const options = { method: "POST", body: sent.body, headers: { ...sent.headers, Accept: accept } };
  return (await ask(`v1/models/${model}/sample`, options)).blob();
}

// Yields [name, data] of each event; throws ApiError if sampling fails.
export async function* sample(model, request, files, signal) {
  const sent = body(request, files);
  const options = { method: "POST", body: sent.body, signal, headers: { ...sent.headers, Accept: "text/event-stream" } };
  const answer = await ask(`v1/models/${model}/sample`, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const messages = text.split("\n\n");
    text = messages.pop();
    for (const message of messages) {
      const lines = message.split("\n");
      const name = lines.find((line) => line.startsWith("event: "))?.slice(7);
      if (!name) continue; // a comment that keeps the connection alive
      const data = JSON.parse(lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n"));
      if (name === "error") throw new ApiError(data);
      yield [name, data];
    }
  }
}
