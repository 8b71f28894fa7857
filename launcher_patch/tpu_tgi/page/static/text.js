// An answer as elements: a little Markdown, in which every word still knows the token that it came from.
//
// Nothing of an answer is ever read as HTML: only text nodes and the elements below are made.

// `pieces` are the tokens in their order; their texts joined are the text.
export function render(pieces, { markdown }) {
  const writer = new Writer(pieces);
  const fragment = document.createDocumentFragment();
  if (!markdown) {
    writer.write(fragment, 0, writer.text.length);
    return fragment;
  }
  for (const block of blocks(writer.text)) fragment.append(element(block, writer));
  return fragment;
}

class Writer {
  constructor(pieces) {
    this.pieces = pieces;
    this.text = pieces.map((piece) => piece.text).join("");
    this.starts = [];
    let start = 0;
    for (const piece of pieces) {
      this.starts.push(start);
      start += piece.text.length;
    }
  }

  // Appends the characters from `from` to `to`, cut where tokens meet.
  write(parent, from, to) {
    let index = this.indexAt(from);
    while (from < to) {
      const end = Math.min(to, this.starts[index] + this.pieces[index].text.length);
      if (end > from) parent.append(token(this.pieces[index], index, this.text.slice(from, end)));
      from = Math.max(from, end);
      index += 1;
    }
  }

  // The last token that begins at this character or before it.
  indexAt(position) {
    let [low, high] = [0, this.starts.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.starts[middle] <= position) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

function token(piece, index, text) {
  if (piece.logprob === null) return document.createTextNode(text);
  const span = document.createElement("span");
  span.className = "token";
  span.dataset.token = index;
  span.textContent = text;
  const doubt = Math.round((1 - Math.exp(piece.logprob)) * 55);
  if (doubt > 3) span.style.setProperty("--doubt", `${doubt}%`);
  return span;
}

// Code between fences, headings, lists and paragraphs: {kind, from, to} in characters of the text.
function* blocks(text) {
  let at = 0;
  while (at < text.length) {
    const rest = text.slice(at);
    const blank = /^\s*\n/.exec(rest);
    const fence = /^ {0,3}```([^\n`]*)\n/.exec(rest);
    const heading = /^#{1,6} +([^\n]*)(?:\n|$)/.exec(rest);
    if (fence) {
      const from = at + fence[0].length;
      const close = /^ {0,3}```[^\n]*(?:\n|$)/m.exec(text.slice(from));
      yield { kind: "code", from, to: close ? from + close.index : text.length };
      at = close ? from + close.index + close[0].length : text.length;
    } else if (heading) {
      const end = at + heading[0].length;
      yield { kind: "heading", from: at + heading[0].indexOf(heading[1]), to: at + heading[0].trimEnd().length };
      at = end;
    } else if (ITEM.test(rest)) {
      const items = [];
      const ordered = /^\s*\d/.test(rest);
      let found;
      while ((found = ITEM.exec(text.slice(at))) && /^\s*\d/.test(found[0]) === ordered) {
        items.push({ from: at + found[1].length, to: at + found[0].trimEnd().length });
        at += found[0].length;
      }
      yield { kind: ordered ? "ol" : "ul", start: Number(/\d+/.exec(rest)?.[0] ?? 1), items };
    } else if (blank) {
      at += blank[0].length;
    } else {
      const end = /\n(?=\s*\n|[ ]{0,3}```|#{1,6} |\s*(?:[-*+]|\d{1,3}[.)]) )|$/.exec(rest).index || rest.length;
      yield { kind: "p", from: at + /^ */.exec(rest)[0].length, to: at + end };
      at += end + 1;
    }
  }
}

const ITEM = /^(\s*(?:[-*+]|\d{1,3}[.)]) +)[^\n]*(?:\n(?!\s*(?:[-*+]|\d{1,3}[.)]) |\s*\n|[ ]{0,3}```)[^\n]*)*(?:\n+(?=\s*(?:[-*+]|\d{1,3}[.)]) )|\n|$)/;

function element(block, writer) {
  if (block.kind === "code") {
    const pre = document.createElement("pre");
    const code = pre.appendChild(document.createElement("code"));
    writer.write(code, block.from, block.to);
    return pre;
  }
  if (block.items) {
    const list = document.createElement(block.kind);
    if (block.kind === "ol") list.start = block.start;
    for (const item of block.items) inline(list.appendChild(document.createElement("li")), item, writer);
    return list;
  }
  const line = document.createElement(block.kind === "heading" ? "h4" : "p");
  inline(line, block, writer);
  return line;
}

const MARKS = /(`+)([^`]+)\1|\*\*([^*\n]+)\*\*|(?<![*\w])\*([^*\s][^*\n]*)\*(?!\w)/g;

function inline(parent, { from, to }, writer) {
  let at = from;
  for (const found of writer.text.slice(from, to).matchAll(MARKS)) {
    const start = from + found.index;
    const [whole, , code, bold, slanted] = found;
    const inner = code ?? bold ?? slanted;
    writer.write(parent, at, start);
    const mark = document.createElement(code !== undefined ? "code" : bold !== undefined ? "strong" : "em");
    const begin = start + whole.indexOf(inner);
    writer.write(mark, begin, begin + inner.length);
    parent.append(mark);
    at = start + whole.length;
  }
  writer.write(parent, at, to);
}
