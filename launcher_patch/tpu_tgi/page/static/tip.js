// What else a token could have been, beside the token that is pointed at.

const tip = document.getElementById("tip");

// `pieceOf` finds the token of an element.
export function watch(container, pieceOf) {
  container.addEventListener("pointerover", (event) => show(event.target.closest("[data-token]")));
  container.addEventListener("pointerout", () => hide());
  document.getElementById("scroll").addEventListener("scroll", () => hide(), { passive: true });

  function show(element) {
    if (!element) return;
    const piece = pieceOf(element);
    if (!piece) return;
    tip.replaceChildren(table(piece), sentence(piece));
    tip.hidden = false;
    const box = element.getClientRects()[0];
    const left = Math.min(Math.max(8, box.left), innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
  }
}

export function hide() {
  tip.hidden = true;
}

function table(piece) {
  const rows = [...piece.top];
  if (!rows.some((row) => row.text === piece.text && Math.abs(row.logprob - piece.logprob) < 1e-4)) {
    rows.push({ text: piece.text, logprob: piece.logprob });
  }
  rows.sort((one, other) => other.logprob - one.logprob);
  const element = document.createElement("table");
  for (const row of rows) {
    const line = element.insertRow();
    if (row.text === piece.text) line.className = "taken";
    line.insertCell().textContent = visible(row.text);
    line.insertCell().textContent = percent(row.logprob);
  }
  return element;
}

function sentence(piece) {
  const element = document.createElement("p");
  element.textContent = `Log probability ${piece.logprob.toFixed(3)}`;
  return element;
}

function percent(logprob) {
  const part = Math.exp(logprob) * 100;
  return part >= 0.1 || part === 0 ? `${part.toFixed(1)} %` : "< 0.1 %";
}

function visible(text) {
  return text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ | $/g, "·") || "∅";
}
