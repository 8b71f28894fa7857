// The middle column: what was said, and how a new answer comes to stand there.

import { duration } from "./live.js";
import { ServiceError, answer } from "./service.js";
import * as settings from "./settings.js";
import { render } from "./text.js";
import * as tip from "./tip.js";

const EXAMPLES = {
  chat: [
    "Explain continuous batching to a colleague in three sentences.",
    "Write a Python function that finds the longest word in a text.",
    "What could a small language model be useful for?",
  ],
  completion: [
    "The ocean at night was",
    "def fibonacci(n):\n    ",
    "Three things to know about tea:\n1.",
  ],
};

// Why an answer ended, where it is not that the model was done.
const ENDS = { length: "cut off at the limit of tokens", stop_sequence: "stop sequence" };

const list = document.getElementById("messages");
const scroll = document.getElementById("scroll");

export class Conversation {
  // `onRequest` is told of each request that is sent, `onBusy` whether an answer is being written.
  constructor({ onRequest, onBusy }) {
    this.onRequest = onRequest;
    this.onBusy = onBusy;
    this.mode = "chat";
    this.messages = [];
    this.stopping = null;
    tip.watch(list, (element) => this.pieceOf(element));
    this.draw();
  }

  get busy() {
    return this.stopping !== null;
  }

  setMode(mode) {
    this.stop();
    this.mode = mode;
    this.messages = [];
    this.draw();
  }

  clear() {
    this.stop();
    this.messages = [];
    this.draw();
  }

  stop() {
    this.stopping?.abort();
  }

  send(text) {
    if (this.mode === "chat") this.messages.push({ role: "user", text });
    else this.messages = [];
    return this.answerTo({ role: "assistant", given: this.mode === "completion" ? text : "", pieces: [] });
  }

  // Asks again for the last answer.
  again() {
    const last = this.messages.pop();
    return this.answerTo({ role: "assistant", given: last.given, pieces: [] });
  }

  async answerTo(message) {
    const request =
      this.mode === "chat"
        ? settings.chatRequest(this.history())
        : settings.completionRequest(message.given);
    this.messages.push(message);
    const stopping = (this.stopping = new AbortController());
    message.writing = true;
    this.draw();
    this.onRequest(request);
    this.onBusy(true);
    const begin = performance.now();
    let first = null;
    try {
      for await (const piece of answer(request, settings.key(), stopping.signal)) {
        if (piece.text) {
          first ??= performance.now();
          message.pieces.push(piece);
          this.redrawSoon();
        }
        message.end = piece.finish ?? message.end;
        message.tokens = piece.tokens ?? message.tokens;
      }
    } catch (error) {
      if (error.name === "AbortError") message.end = "stopped";
      else if (error instanceof ServiceError) {
        message.error = error.message;
        if (error.status === 401) settings.askForKey();
      } else throw error;
    } finally {
      const last = performance.now();
      const number = message.tokens?.answer ?? message.pieces.length;
      message.writing = false;
      message.seconds = first === null ? null : (first - begin) / 1000;
      message.speed = first !== null && number > 1 && last > first ? ((number - 1) * 1000) / (last - first) : null;
      if (this.stopping === stopping) {
        this.stopping = null;
        this.onBusy(false);
      }
      this.draw();
    }
  }

  // What was said so far, without the questions that got no answer: what was refused once would be refused again.
  history() {
    const unanswered = (index) => this.messages[index]?.error && this.messages[index].pieces.length === 0;
    return this.messages.filter((_, index) => !unanswered(index) && !unanswered(index + 1)).map(asSent);
  }

  pieceOf(element) {
    const message = this.messages[element.closest("[data-message]").dataset.message];
    return message?.pieces[element.dataset.token];
  }

  redrawSoon() {
    this.drawing ??= requestAnimationFrame(() => {
      this.drawing = null;
      const message = this.messages.at(-1);
      if (message) this.fill(list.lastElementChild, message);
    });
  }

  draw() {
    const empty = this.messages.length === 0;
    document.getElementById("welcome").hidden = !empty;
    document.getElementById("clear").hidden = empty;
    list.replaceChildren(
      ...this.messages.map((message, index) => {
        const item = document.createElement("li");
        item.className = `message-${message.role}`;
        item.dataset.message = index;
        this.fill(item, message);
        return item;
      }),
    );
    scroll.scrollTop = scroll.scrollHeight;
  }

  fill(item, message) {
    const follows = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
    const text = make("div", "text");
    if (message.role === "user") text.textContent = message.text;
    else {
      text.classList.toggle("writing", message.writing);
      if (message.given) text.append(make("span", "given", message.given));
      text.append(render(message.pieces, { markdown: this.mode === "chat" }));
    }
    item.replaceChildren(text);
    if (message.error) item.append(make("div", "error", message.error));
    if (message.role === "assistant" && !message.writing) item.append(this.foot(message));
    if (follows) scroll.scrollTop = scroll.scrollHeight;
  }

  foot(message) {
    const foot = make("div", "foot");
    const facts = [
      message.pieces.length && `${message.tokens?.answer ?? message.pieces.length} tokens`,
      message.speed && `${message.speed.toFixed(message.speed < 10 ? 1 : 0)} per second`,
      message.seconds !== null && `first after ${duration(message.seconds)}`,
      message.end === "stopped" ? "stopped" : ENDS[message.end],
    ];
    for (const fact of facts) if (fact) foot.append(make("span", "", fact));
    const actions = foot.appendChild(make("nav"));
    if (message.pieces.length) actions.append(button("Copy", (event) => copy(event.target, plain(message))));
    if (message === this.messages.at(-1)) {
      if (this.mode === "completion" && message.pieces.length) {
        actions.append(button("Go on", () => this.send(message.given + plain(message))));
      }
      actions.append(button("Again", () => this.again()));
    }
    return foot;
  }
}

export function examples(mode, use) {
  document.getElementById("examples").replaceChildren(
    ...EXAMPLES[mode].map((text) => {
      const element = button(text, () => use(text));
      element.className = "example";
      return element;
    }),
  );
}

export async function copy(element, text) {
  const label = element.textContent;
  await navigator.clipboard.writeText(text).then(
    () => (element.textContent = "Copied"),
    () => (element.textContent = "Not allowed"),
  );
  setTimeout(() => (element.textContent = label), 1500);
}

function asSent(message) {
  return { role: message.role, content: message.role === "user" ? message.text : plain(message) };
}

function plain(message) {
  return message.pieces.map((piece) => piece.text).join("");
}

function make(kind, className = "", text = "") {
  const element = document.createElement(kind);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}

function button(label, onClick) {
  const element = make("button", "quiet", label);
  element.type = "button";
  element.addEventListener("click", onClick);
  return element;
}
