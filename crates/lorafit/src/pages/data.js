"use strict";
const controls = Object.fromEntries(
  ["query", "where", "order", "ids", "found"].map((id) => [id, document.getElementById(id)]));
const words = (parts) => parts.map((part) => part.textContent).join("\n").toLowerCase();
const rows = [...document.querySelectorAll("article")].map((article) => ({
  article,
  tokens: Number(article.dataset.tokens),
  line: Number(article.dataset.line),
  text: { all: words([article]), trained: words([...article.querySelectorAll("mark")]) },
}));
const end = document.querySelector("section:last-of-type > .note");

function search() {
  const query = controls.query.value.trim().toLowerCase();
  let shown = 0;
  for (const row of rows) {
    row.article.hidden = !row.text[controls.where.value].includes(query);
    shown += row.article.hidden ? 0 : 1;
  }
  controls.found.value = query ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
  highlight(query);
}

// Marks what was found, which may lie across tokens; browsers that cannot, only filter.
function highlight(query) {
  if (!CSS.highlights) return;
  const ranges = [];
  const places = controls.where.value === "trained" ? "mark" : "pre";
  for (const row of query ? rows.filter((row) => !row.article.hidden) : []) {
    for (const place of row.article.querySelectorAll(places)) {
      const walker = document.createTreeWalker(place, NodeFilter.SHOW_TEXT);
      const nodes = [];
      let text = "";
      while (walker.nextNode()) {
        nodes.push({ node: walker.currentNode, start: text.length });
        text += walker.currentNode.data.toLowerCase();
      }
      const at = (offset) => {
        const { node, start } = nodes.findLast((n) => n.start <= offset);
        return [node, Math.min(offset - start, node.length)];
      };
      for (let found = text.indexOf(query); found >= 0; found = text.indexOf(query, found + query.length)) {
        const range = new Range();
        range.setStart(...at(found));
        range.setEnd(...at(found + query.length));
        ranges.push(range);
      }
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

function order() {
  const keys = { file: (a, b) => a.line - b.line, longest: (a, b) => b.tokens - a.tokens,
    shortest: (a, b) => a.tokens - b.tokens };
  rows.sort(keys[controls.order.value]).forEach((row) => end.before(row.article));
}

controls.query.addEventListener("input", search);
controls.where.addEventListener("change", search);
controls.order.addEventListener("change", order);
controls.ids.addEventListener("change", () => document.body.classList.toggle("ids", controls.ids.checked));
document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
search();
