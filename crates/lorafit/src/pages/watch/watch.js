"use strict";
// Keeps the page as the server says, and asks it to stop a run or to save a checkpoint.
{
  const [runs, curves, note] = ["runs", "curves", "state"].map((id) => document.getElementById(id));

  const ask = async (action, name, button) => {
    button.disabled = true;
    const headers = { "X-Lorafit-Token": runs.dataset.token };
    try {
      const answer = await fetch(`/${action}`, { method: "POST", headers, body: name });
      note.textContent = await answer.text();
    } catch {
      note.textContent = `${name}: lorafit watch does not answer`;
    }
  };

  const buttons = (run, card) => {
    const place = document.createElement("div");
    place.className = "buttons";
    card.append(place);
    const button = (action, text) => {
      const made = document.createElement("button");
      made.textContent = text;
      made.addEventListener("click", () => ask(action, run.name, made));
      place.append(made);
      return made;
    };
    const stop = button("stop", run.is_trial ? "Stop the sweep" : "Stop");
    const checkpoint = button("checkpoint", "Save a checkpoint");
    let step = null;
    return (state) => {
      // What was asked of a run is not asked again while the page shows the same step.
      if (step !== state.step) stop.disabled = checkpoint.disabled = false;
      step = state.step;
      stop.hidden = !state.can_stop;
      checkpoint.hidden = !state.can_save;
    };
  };

  const live = liveRuns(runs, curves, buttons);
  const events = new EventSource("/events");
  events.addEventListener("states", (event) => live.showStates(JSON.parse(event.data)));
  events.addEventListener("curves", (event) => live.showCurves(JSON.parse(event.data)));
  events.addEventListener("open", () => (note.textContent = "connected"));
  events.addEventListener("error", () => (note.textContent = "lorafit watch has ended or cannot be reached; this is the last that it said"));
}
