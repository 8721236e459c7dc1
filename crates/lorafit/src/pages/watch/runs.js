"use strict";
// Runs as they go: a card for each, and their curves. `extend` adds to a new card what its page has beside, and gives what shows a
// later state there.
const liveRuns = (runs, curves, extend) => {
  const cards = new Map();
  let [pressed, later, drawn] = [false, null, []];

  const part = (name, parent, text = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    return parent.appendChild(made);
  };

  const card = (run) => {
    const made = document.createElement("article");
    const heading = part("h2", made, `${run.name} `);
    const parts = { made, state: part("small", heading), progress: part("progress", made), lines: part("div", made) };
    parts.show = extend(run, made);
    return parts;
  };

  const showStates = (states) => {
    const names = new Set(states.map((run) => run.name));
    for (const [name, { made }] of cards) {
      if (!names.has(name)) made.remove(), cards.delete(name);
    }
    states.forEach((run, place) => {
      if (!cards.has(run.name)) cards.set(run.name, card(run));
      const parts = cards.get(run.name);
      // What stands where it should is not moved: it would lose the focus.
      if (runs.children[place] !== parts.made) runs.insertBefore(parts.made, runs.children[place] ?? null);
      parts.state.textContent = run.state;
      parts.made.classList.toggle("failed", Boolean(run.failure));
      parts.progress.setAttribute("aria-label", `steps of ${run.name}${run.failure ? `, ${run.failure}` : ""}`);
      parts.progress.hidden = !run.steps;
      parts.progress.max = run.steps || 1;
      parts.progress.value = run.step;
      parts.lines.replaceChildren();
      for (const line of run.lines) part("p", parts.lines, line);
      for (const damage of run.warnings) part("p", parts.lines, `Warning: in its folder, ${damage}.`).className = "warning";
      parts.show(run);
    });
  };

  // Part of a curve that is shown stays shown, and the figure with the focus keeps it.
  const draw = (html) => {
    const svgs = () => [...curves.querySelectorAll("figure > svg")];
    const [views, focus] = [drawn.map((figure) => figure?.view()), svgs().indexOf(document.activeElement)];
    curves.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
    drawn = svgs().map(figures.attach);
    views.forEach((view, i) => view && drawn[i]?.zoom(...view));
    svgs()[focus]?.focus({ preventScroll: true });
  };

  // Curves stay while somebody draws a part of them out.
  const showCurves = (html) => {
    if (pressed) later = html;
    else draw(html);
  };
  addEventListener("pointerdown", () => (pressed = true));
  for (const name of ["pointerup", "pointercancel"]) {
    addEventListener(name, () => {
      pressed = false;
      if (later !== null) draw(later);
      later = null;
    });
  }
  return { showStates, showCurves };
};
