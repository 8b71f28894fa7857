// The service over HTTP: its state, and answers that arrive piece by piece.

export class ServiceError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function url(path) {
  return new URL(path, document.baseURI).href;
}

// What the service is doing: {state: "ready", info}, {state: "warming", status, programs, left}, or {state: "lost"}.
export async function look() {
  try {
    const response = await fetch(url("info"), { cache: "no-store" });
    if (response.ok) return { state: "ready", info: await response.json() };
    const said = await response.json().catch(() => ({}));
    if (response.status === 503) {
      return { state: "warming", status: said.status ?? "starting", programs: said.programs ?? null, left: said.seconds_left ?? null };
    }
    return { state: "lost" };
  } catch {
    return { state: "lost" };
  }
}

// Whether the router says that the model can be used; a shard that hangs is noticed here.
export async function isHealthy() {
  try {
    return (await fetch(url("health"), { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

// What the page is told beside the router's own routes: {slots, service}.
export async function facts() {
  const response = await fetch(url("page/facts.json"), { cache: "no-store" }).catch(() => null);
  return response?.ok ? response.json() : {};
}

export async function metricsText() {
  const response = await fetch(url("metrics"), { cache: "no-store" });
  return response.ok ? response.text() : "";
}

// Yields {text, logprob, top, finish, tokens} until the answer ends. Throws ServiceError.
export async function* answer(request, key, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(url(request.path), {
    method: "POST",
    headers,
    body: JSON.stringify(request.body),
    signal,
  }).catch((error) => {
    throw error.name === "AbortError" ? error : new ServiceError("The service cannot be reached.", 0);
  });
  if (!response.ok) throw new ServiceError(await refusal(response), response.status);
  const reading = request.path.startsWith("v1/") ? chatPiece : completionPiece;
  for await (const event of events(response.body)) {
    if (event === "[DONE]") return;
    const said = JSON.parse(event);
    if (said.error) throw new ServiceError(said.error.message ?? said.error, said.error.http_status_code ?? 424);
    yield reading(said);
  }
}

async function refusal(response) {
  const text = await response.text();
  if (response.status === 401) return "This service wants an API key: write it under Settings.";
  try {
    const said = JSON.parse(text);
    if (said.status) return `The service is not ready yet: ${said.status}.`;
    return said.error?.message ?? said.error ?? said.message ?? text;
  } catch {
    return text || `The service answered with status ${response.status}.`;
  }
}

// The data of server-sent events, whatever pieces the bytes come in.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value.replaceAll("\r", "");
    const whole = rest.split("\n\n");
    rest = whole.pop();
    for (const event of whole) {
      const data = event.split("\n").filter((line) => line.startsWith("data:"));
      if (data.length) yield data.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

function chatPiece(said) {
  const choice = said.choices?.[0];
  const token = choice?.logprobs?.content?.[0];
  return {
    text: choice?.delta?.content ?? "",
    logprob: token?.logprob ?? null,
    top: possible((token?.top_logprobs ?? []).map((other) => ({ text: other.token, logprob: other.logprob }))),
    finish: choice?.finish_reason ?? null,
    tokens: said.usage ? { prompt: said.usage.prompt_tokens, answer: said.usage.completion_tokens } : null,
  };
}

function completionPiece(said) {
  const details = said.details;
  return {
    text: said.token.special ? "" : said.token.text,
    logprob: said.token.logprob,
    top: possible((said.top_tokens ?? []).map((other) => ({ text: other.text, logprob: other.logprob }))),
    finish: details?.finish_reason ?? null,
    tokens: details ? { prompt: details.input_length, answer: details.generated_tokens } : null,
  };
}

// Those that could have been chosen: JSON has null for the logarithm of 0.
function possible(tokens) {
  return tokens.filter((token) => token.logprob !== null);
}
