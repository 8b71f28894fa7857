// Puts the page together.

import { Conversation, copy, examples } from "./conversation.js";
import * as live from "./live.js";
import { facts, isHealthy, look } from "./service.js";
import * as settings from "./settings.js";
import { curl, python } from "./snippets.js";

const LOOK_MILLISECONDS = 1000;

// A service that is ready is asked for its health only now and then.
const HEALTH_EVERY = 10;

const element = (id) => document.getElementById(id);
const all = (selector) => document.querySelectorAll(selector);

let snippet = "curl";
let sent = null;

const conversation = new Conversation({
  onRequest(request) {
    sent = { request, key: settings.key() };
    element("request").hidden = false;
    drawSnippet();
  },
  onBusy(busy) {
    document.body.classList.toggle("busy", busy);
    element("send").ariaLabel = busy ? "Stop" : "Send";
    checkSend();
  },
});

// --- writing ---

const prompt = element("prompt");

function fit() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
  checkSend();
}

function checkSend() {
  element("send").disabled = !conversation.busy && (!isReady() || prompt.value.trim() === "");
}

function submit() {
  if (conversation.busy) {
    conversation.stop();
  } else if (isReady() && prompt.value.trim() !== "") {
    const text = conversation.mode === "chat" ? prompt.value.trim() : prompt.value;
    prompt.value = "";
    fit();
    conversation.send(text);
  }
}

prompt.addEventListener("input", fit);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !conversation.busy) {
    event.preventDefault();
    submit();
  }
});
element("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
element("clear").addEventListener("click", () => conversation.clear());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && conversation.busy) conversation.stop();
});

// --- choices ---

function choose(group, attribute, value, state) {
  for (const button of all(`${group} button`)) button.setAttribute(state, String(button.dataset[attribute] === value));
}

function setMode(mode) {
  document.body.dataset.mode = mode;
  choose(".modes", "mode", mode, "aria-checked");
  prompt.placeholder = mode === "chat" ? "Write a message" : "Write how the text begins";
  conversation.setMode(mode);
  examples(mode, (text) => {
    prompt.value = text;
    fit();
    prompt.focus();
  });
  fit();
}

function setPane(pane) {
  document.body.dataset.pane = pane;
  choose(".panes", "pane", pane, "aria-selected");
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

function drawSnippet() {
  choose(".request", "snippet", snippet, "aria-selected");
  if (sent) element("snippet").textContent = (snippet === "curl" ? curl : python)(sent.request, sent.key);
}

for (const button of all("[data-mode]:not(body)")) button.addEventListener("click", () => setMode(button.dataset.mode));
for (const button of all(".panes button")) button.addEventListener("click", () => setPane(button.dataset.pane));
for (const button of all("[data-snippet]")) {
  button.addEventListener("click", () => {
    snippet = button.dataset.snippet;
    drawSnippet();
  });
}
element("copy-request").addEventListener("click", (event) => copy(event.target, element("snippet").textContent));

const dark = matchMedia("(prefers-color-scheme: dark)");
const systemTheme = () => (dark.matches ? "dark" : "light");
dark.addEventListener("change", () => setTheme(localStorage.getItem("theme") ?? systemTheme()));
element("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", theme);
  setTheme(theme);
});

// --- the service ---

const service = { state: "waiting", slots: null, looks: 0 };

function isReady() {
  return service.state === "ready";
}

function setState(state, words) {
  service.state = state;
  element("state").dataset.state = state === "warming" ? "waiting" : state;
  element("state").lastElementChild.textContent = words;
  element("warming").hidden = state !== "warming";
  checkSend();
}

async function becomeReady(info) {
  const told = await facts();
  service.slots = told.slots ?? null;
  element("model").textContent = nameOf(info.model_id);
  element("model").title = `${info.model_id}, served by ${told.service ?? info.router}`;
  document.title = nameOf(info.model_id);
  element("longest").textContent = `${live.count(info.max_input_tokens)} tokens`;
  element("together").textContent = `${live.count(info.max_total_tokens)} tokens`;
  settings.limit(info.max_total_tokens);
  if (told.needs_key) settings.askForKey();
  live.forget();
  setState("ready", "Ready");
}

// A path on the server says little, and is long.
function nameOf(model) {
  return model.startsWith("/") || model.startsWith(".") ? model.replace(/\/+$/, "").split("/").at(-1) : model;
}

function showWarming({ status, programs, left }) {
  const [done, of] = (programs ?? "").split("/").map(Number);
  const bar = document.querySelector(".bar");
  bar.classList.toggle("unknown", !of);
  if (of) {
    element("warming-bar").style.width = `${(100 * done) / of}%`;
    bar.ariaValueNow = Math.round((100 * done) / of);
    element("warming-title").textContent = "Compiling programs";
    element("warming-text").textContent = `${done} of ${of}${left ? `, about ${live.duration(left)} left` : ""}`;
  } else {
    element("warming-title").textContent = status === "starting" ? "The service is starting" : "Loading the model";
    element("warming-text").textContent = "The service answers as soon as its programs are compiled.";
  }
  setState("warming", of ? `Warming up ${programs}` : "Starting");
}

async function tick() {
  service.looks += 1;
  if (!isReady()) {
    const seen = await look();
    if (seen.state === "warming") showWarming(seen);
    else if (seen.state === "lost") setState("lost", "The service cannot be reached");
    else if (service.state === "unhealthy" && !(await isHealthy())) return;
    else await becomeReady(seen.info);
  } else if (service.looks % HEALTH_EVERY === 0 && !(await isHealthy())) {
    setState("unhealthy", "The service is not healthy");
  }
  if (isReady()) await live.update(service.slots);
}

async function watch() {
  for (;;) {
    if (!document.hidden) await tick();
    await new Promise((resolve) => setTimeout(resolve, LOOK_MILLISECONDS));
  }
}

setTheme(localStorage.getItem("theme") ?? systemTheme());
settings.remember();
setMode("chat");
setPane("talk");
drawSnippet();
watch();
