"use strict";
// Keeps the page as the server says, and asks it to stop a run or to save a checkpoint.
const [runs, curves, note] = ["runs", "curves", "state"].map((id) => document.getElementById(id));
const articles = new Map();
let pressed = false;
let later = null;

function element(name, parent, text = "") {
  const made = document.createElement(name);
  made.textContent = text;
  return parent.appendChild(made);
}

function article(run) {
  const made = element("article", runs);
  const heading = element("h3", made, `${run.name} `);
  const parts = { state: element("small", heading), progress: element("progress", made), lines: element("div", made) };
  const buttons = element("div", made);
  buttons.className = "buttons";
  parts.stop = element("button", buttons, run.is_trial ? "Stop the sweep" : "Stop");
  parts.checkpoint = element("button", buttons, "Save a checkpoint");
  for (const action of ["stop", "checkpoint"]) {
    parts[action].addEventListener("click", () => ask(action, run.name, parts[action]));
  }
  parts.progress.setAttribute("aria-label", `steps of ${run.name}`);
  return parts;
}

async function ask(action, name, button) {
  button.disabled = true;
  const headers = { "X-Lorafit-Token": runs.dataset.token };
  try {
    const answer = await fetch(`/${action}`, { method: "POST", headers, body: name });
    note.textContent = await answer.text();
  } catch {
    note.textContent = `${name}: lorafit watch does not answer`;
  }
}

function showStates(states) {
  for (const run of states) {
    if (!articles.has(run.name)) articles.set(run.name, article(run));
    const parts = articles.get(run.name);
    parts.state.textContent = run.state;
    parts.progress.max = run.steps || 1;
    parts.progress.value = run.step;
    parts.lines.replaceChildren();
    for (const line of run.lines) element("p", parts.lines, line);
    // What was asked of a run is not asked again while the page shows the same step.
    if (parts.step !== run.step) parts.stop.disabled = parts.checkpoint.disabled = false;
    parts.step = run.step;
    parts.stop.hidden = !run.can_stop;
    parts.checkpoint.hidden = !run.can_save;
  }
}

// Part of a curve that is shown stays shown.
function showCurves(html) {
  const views = attached.map((figure) => figure?.view());
  curves.innerHTML = html;
  attached = [...curves.querySelectorAll("figure > svg")].map(figures.attach);
  views.forEach((view, i) => view && attached[i]?.zoom(...view));
}

addEventListener("pointerdown", () => (pressed = true));
for (const name of ["pointerup", "pointercancel"]) {
  addEventListener(name, () => {
    pressed = false;
    if (later !== null) showCurves(later);
    later = null;
  });
}

const events = new EventSource("/events");
events.addEventListener("states", (event) => showStates(JSON.parse(event.data)));
events.addEventListener("curves", (event) => {
  const html = JSON.parse(event.data);
  if (pressed) later = html;
  else showCurves(html);
});
events.addEventListener("open", () => (note.textContent = "live"));
events.addEventListener("error", () => (note.textContent = "lorafit watch has ended or cannot be reached; this is the last that it said"));
