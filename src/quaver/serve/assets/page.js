// What htmx does not do on Quaver's page: keys, copied links, and answers as they arrive. Text becomes text nodes, never HTML.

const narrow = window.matchMedia("(max-width: 56rem)");

function prepare() {
  const facets = document.querySelector("details.facets");
  if (facets && narrow.matches && !facets.querySelector(":checked")) facets.open = false;
  const answer = document.getElementById("answer");
  if (answer && answer.dataset.url) ask(answer);
}

// --- Keys ---
function links() {
  return [...document.querySelectorAll("ol.hits h2 a")];
}

function move(step) {
  const all = links();
  const at = all.indexOf(document.activeElement);
  const next = at + step;
  if (next < 0) document.getElementById("q")?.focus();
  else all[Math.min(next, all.length - 1)]?.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  const box = document.getElementById("q");
  const inList = typing ? event.target === box : true;
  if (event.key === "/" && !typing && box) box.select();
  else if (event.key === "ArrowDown" && inList && links().length) move(1);
  else if (event.key === "ArrowUp" && !typing && links().includes(event.target)) move(-1);
  else if (event.key === "j" && !typing && links().length) move(1);
  else if (event.key === "k" && !typing && links().includes(event.target)) move(-1);
  else if (event.key === "Escape" && !typing) (document.querySelector("a.back") ?? box)?.[box ? "focus" : "click"]();
  else return;
  event.preventDefault();
});

// --- Links to copy ---
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const url = new URL(button.dataset.copy, window.location.href).href;
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(url);
  } catch {
    said = url; // without HTTPS a browser may have no clipboard
  }
  button.textContent = said;
});

// --- Search as one types ---
document.addEventListener("htmx:beforeRequest", () => document.getElementById("results")?.classList.add("busy"));
document.addEventListener("htmx:afterRequest", () => document.getElementById("results")?.classList.remove("busy"));
document.addEventListener("htmx:sendError", () => {
  const results = document.getElementById("results");
  if (!results) return;
  const message = document.createElement("p");
  message.className = "error";
  message.setAttribute("role", "alert");
  message.textContent = "The server does not answer. Type again to try again.";
  results.replaceChildren(message);
});

// --- Answers ---
async function ask(box) {
  const state = document.getElementById("answer-state");
  const fail = (message) => {
    state.className = "error";
    state.textContent = message;
  };
  let text = "";
  try {
    const response = await fetch(box.dataset.url, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: box.dataset.body,
    });
    if (!response.ok) return fail((await response.json()).error.message);
    for await (const [name, data] of events(response.body)) {
      if (name === "passages") {
        const shown = [...document.querySelectorAll("ol.hits > li")].map((item) => item.dataset.id);
        const sent = data.passages.map((passage) => passage.id);
        if (shown.join() !== sent.join()) return fail("The store has changed in between: ask again.");
      } else if (name === "text") {
        text += data.text;
        show(box, text);
      } else if (name === "answer") {
        const wrong = data.unknown_citations;
        state.textContent = wrong.length
          ? `The answer cites ${wrong.join(", ")}, but no passage has that number: do not rely on it.`
          : data.answer && !data.citations.length
            ? "The answer cites no passage."
            : data.answer ? "" : "Nothing was found, so no model was asked.";
        if (wrong.length) state.className = "error";
        return;
      } else if (name === "error") return fail(data.error.message);
    }
    fail("The answer broke off: ask again.");
  } catch {
    fail("The server does not answer: ask again.");
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const found = /^event: (\w+)\ndata: (.*)$/.exec(block);
      if (found) yield [found[1], JSON.parse(found[2])];
    }
  }
}

// Citations such as [2] become links to the passages on the page.
function show(box, text) {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(/\[(\d{1,3})\]/g)) {
    if (!document.getElementById(`p${found[1]}`)) continue;
    const link = document.createElement("a");
    link.href = `#p${found[1]}`;
    link.textContent = found[0];
    parts.push(text.slice(at, found.index), link);
    at = found.index + found[0].length;
  }
  box.replaceChildren(...parts, text.slice(at));
}

prepare();
