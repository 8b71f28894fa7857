// The left column: what a request asks for, and what is remembered of it until the tab is closed.

const FIELDS = ["temperature", "top_p", "frequency_penalty", "max_tokens", "seed", "stop", "system", "key"];
const SWITCHES = ["probabilities", "heat"];

// As many as a router allows unless its operator chose otherwise.
const ALTERNATIVES = 5;

const field = (name) => document.getElementById(name);

export function remember() {
  for (const name of FIELDS) {
    field(name).value = sessionStorage.getItem(name) ?? field(name).value;
    field(name).addEventListener("input", () => sessionStorage.setItem(name, field(name).value));
  }
  for (const name of SWITCHES) {
    field(name).checked = (sessionStorage.getItem(name) ?? String(field(name).checked)) === "true";
    field(name).addEventListener("input", () => sessionStorage.setItem(name, String(field(name).checked)));
  }
  for (const output of document.querySelectorAll("output[for]")) {
    const show = () => (output.value = Number(field(output.htmlFor[0]).value).toFixed(2));
    field(output.htmlFor[0]).addEventListener("input", show);
    show();
  }
  const colour = () => document.body.classList.toggle("heat", field("heat").checked);
  field("heat").addEventListener("input", colour);
  colour();
}

export function key() {
  return field("key").value.trim();
}

export function askForKey() {
  field("key-field").hidden = false;
}

// Leaves room for a prompt, of the tokens that prompt and answer may have together.
export function limit(together) {
  field("max_tokens").max = together - 1;
  const half = Math.floor(together / 2);
  if (Number(field("max_tokens").value) > half) field("max_tokens").value = half;
}

// What both kinds of request share, under the names of the OpenAI API; what is off is left out.
function chosen() {
  const temperature = Number(field("temperature").value);
  const topP = Number(field("top_p").value);
  const penalty = Number(field("frequency_penalty").value);
  const stop = field("stop").value.split("\n").filter((line) => line !== "");
  return {
    ...(field("max_tokens").value !== "" && { max_tokens: Number(field("max_tokens").value) }),
    temperature,
    ...(temperature > 0 && topP < 1 && { top_p: topP }),
    ...(penalty !== 0 && { frequency_penalty: penalty }),
    ...(field("seed").value !== "" && { seed: Number(field("seed").value) }),
    ...(stop.length && { stop }),
  };
}

export function chatRequest(messages) {
  const system = field("system").value.trim();
  return {
    path: "v1/chat/completions",
    body: {
      model: "tgi",
      messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
      ...chosen(),
      ...(field("probabilities").checked && { logprobs: true, top_logprobs: ALTERNATIVES }),
      stream: true,
      stream_options: { include_usage: true },
    },
  };
}

export function completionRequest(prompt) {
  const { max_tokens, temperature, ...others } = chosen();
  return {
    path: "generate_stream",
    body: {
      inputs: prompt,
      parameters: {
        ...(max_tokens !== undefined && { max_new_tokens: max_tokens }),
        ...(temperature > 0 && { do_sample: true, temperature }),
        ...others,
        ...(field("probabilities").checked && { top_n_tokens: ALTERNATIVES }),
        details: true,
      },
    },
  };
}
