// The request that was just sent, as one would write it elsewhere.

import { url } from "./service.js";

export function curl(request, key) {
  const lines = [`curl --no-buffer ${url(request.path)}`, "-H 'Content-Type: application/json'"];
  if (key) lines.push('-H "Authorization: Bearer $API_KEY"');
  lines.push(`-d '${JSON.stringify(request.body, null, 2).replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n  ");
}

export function python(request, key) {
  return request.path.startsWith("v1/") ? openai(request, key) : huggingface(request, key);
}

function openai({ body }, key) {
  const { stream, ...rest } = body;
  return [
    ...(key ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(url("v1"))}, api_key=${key ? 'os.environ["API_KEY"]' : '"-"'})`,
    "stream = client.chat.completions.create(",
    ...named(rest),
    "    stream=True,",
    ")",
    "for chunk in stream:",
    "    if chunk.choices:",
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
  ].join("\n");
}

function huggingface({ body }, key) {
  const address = literal(url("").replace(/\/$/, ""));
  return [
    ...(key ? ["import os", ""] : []),
    "from huggingface_hub import InferenceClient",
    "",
    `client = InferenceClient(${address}${key ? ', token=os.environ["API_KEY"]' : ""})`,
    "stream = client.text_generation(",
    `    ${literal(body.inputs)},`,
    ...named(body.parameters),
    "    stream=True,",
    ")",
    "for answer in stream:",
    '    print("" if answer.token.special else answer.token.text, end="", flush=True)',
  ].join("\n");
}

function named(values) {
  return Object.entries(values).map(([name, value]) => `    ${name}=${literal(value, "    ")},`);
}

// A value as Python writes it. JSON's strings are Python's.
function literal(value, indent = "") {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (typeof value !== "object") return JSON.stringify(value);
  const deeper = `${indent}    `;
  const items = Array.isArray(value)
    ? value.map((item) => literal(item, deeper))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, deeper)}`);
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  const line = `${open}${items.join(", ")}${close}`;
  return line.length < 80 ? line : `${open}\n${items.map((item) => `${deeper}${item},\n`).join("")}${indent}${close}`;
}
