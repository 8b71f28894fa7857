// The right column: what /metrics says, looked at once a second while somebody can see it.

import { metricsText } from "./service.js";

const SECONDS_KEPT = 60;
const MOST_SLOTS = 64;

const lines = { queue: [], speed: [], first: [] };
let before = null;

const show = (name, text) => (document.getElementById(name).textContent = text);

// Draws one more second. `slots` is the batch size, if it is known.
export async function update(slots) {
  const text = await metricsText().catch(() => null);
  if (text === null) return;
  const now = { ...readings(text), time: performance.now() / 1000 };
  const last = before ?? now;
  before = now;
  show("running", count(now.running));
  show("queued", count(now.queued));
  show("answered", count(now.answered));
  show("failed", count(now.failed));
  drawSlots(now.running, slots);

  const seconds = now.time - last.time;
  // Each decode is one token for every running request.
  const speed = seconds > 0 ? ((now.decodes - last.decodes) * Math.max(now.running, last.running, 1)) / seconds : 0;
  const first = firstTokenSeconds(now, last);
  push("queue", now.queued);
  push("speed", Math.max(0, speed));
  push("first", first ?? lines.first.at(-1) ?? 0);
  show("speed", speed >= 100 ? count(speed) : speed.toFixed(1));
  if (first !== null) show("first", duration(first));
}

export function forget() {
  before = null;
}

function readings(text) {
  const values = parse(text);
  const sum = (name) => (values.get(name) ?? []).reduce((total, sample) => total + sample.value, 0);
  const of = (name, method) =>
    (values.get(name) ?? []).find((sample) => sample.labels.includes(`method="${method}"`))?.value ?? 0;
  return {
    running: sum("tgi_batch_current_size"),
    queued: sum("tgi_queue_size"),
    answered: sum("tgi_request_success"),
    failed: sum("tgi_request_failure"),
    decodes: of("tgi_batch_inference_success", "decode"),
    prefills: of("tgi_batch_inference_duration_count", "prefill"),
    prefillSeconds: of("tgi_batch_inference_duration_sum", "prefill"),
    waited: sum("tgi_request_queue_duration_count"),
    waitedSeconds: sum("tgi_request_queue_duration_sum"),
  };
}

function parse(text) {
  const values = new Map();
  for (const line of text.split("\n")) {
    const found = /^([a-z_]+)(\{[^}]*\})? (\S+)/.exec(line);
    if (!found) continue;
    const [, name, labels = "", value] = found;
    if (!values.has(name)) values.set(name, []);
    values.get(name).push({ labels, value: Number(value) });
  }
  return values;
}

// The mean of what has happened since the last look, else of everything; null before the first request.
function firstTokenSeconds(now, last) {
  const prefill = mean(now.prefillSeconds, now.prefills, last.prefillSeconds, last.prefills);
  if (prefill === null) return null;
  return prefill + (mean(now.waitedSeconds, now.waited, last.waitedSeconds, last.waited) ?? 0);
}

function mean(sum, number, lastSum, lastNumber) {
  if (number > lastNumber) return (sum - lastSum) / (number - lastNumber);
  return number > 0 ? sum / number : null;
}

function drawSlots(running, slots) {
  const grid = document.getElementById("slots");
  show("of-slots", slots ? `of ${slots} are busy` : "requests are running");
  const cells = slots && slots <= MOST_SLOTS ? slots : 0;
  if (grid.children.length !== cells) {
    grid.replaceChildren(...Array.from({ length: cells }, () => document.createElement("i")));
  }
  [...grid.children].forEach((cell, index) => cell.classList.toggle("busy", index < running));
}

function push(name, value) {
  const values = lines[name];
  values.push(value);
  if (values.length > SECONDS_KEPT) values.shift();
  const most = Math.max(...values, 1e-9);
  const points = values.map((height, index) => {
    const x = 120 - ((values.length - 1 - index) / (SECONDS_KEPT - 1)) * 120;
    return `${x.toFixed(1)},${(31 - (height / most) * 29).toFixed(1)}`;
  });
  const start = points[0].split(",")[0];
  const svg = document.getElementById(`${name}-line`);
  svg.innerHTML = '<path class="under"/><path class="over"/>';
  svg.querySelector(".under").setAttribute("d", `M${start},32 L${points.join(" ")} L120,32 Z`);
  svg.querySelector(".over").setAttribute("d", `M${points.join(" ")}`);
}

export function count(value) {
  return Math.round(value).toLocaleString("en");
}

export function duration(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}
