"use strict";
// The runs below a folder, asked for again and again while they are in sight.
{
  const [runs, curves, note, drawn] = ["runs", "curves", "runs-state", "runs-drawn"].map(by);
  const [EVERY, LATER] = [2000, 6000]; // Milliseconds to the next question, and after one without an answer.
  let chosen = null; // The runs whose curves somebody asked for; before, the server chooses.
  let [shown, most, known] = [[], 8, ""]; // The runs whose curves are drawn, how many may be, what the curves are of.
  let [asked, timer] = [0, 0];

  const pick = (run, card) => {
    const label = element("label", card, "", "pick");
    const box = element("input", label);
    box.type = "checkbox";
    box.setAttribute("aria-label", `Curves of ${run.name}`);
    label.append("Curves");
    box.addEventListener("change", () => {
      chosen = shown.filter((name) => name !== run.name).concat(box.checked ? [run.name] : []);
      look();
    });
    return ({ name }) => {
      box.checked = shown.includes(name);
      box.disabled = !box.checked && shown.length >= most;
    };
  };
  const live = liveRuns(runs, curves, pick);

  const say = (text) => {
    if (note.textContent !== text) note.textContent = text;
  };

  const show = (answer) => {
    [shown, most, known] = [answer.shown, answer.most, answer.version];
    live.showStates(answer.runs);
    say(answer.note);
    drawn.hidden = shown.length === 0;
    if (answer.curves !== null) live.showCurves(answer.curves);
  };

  async function look() {
    clearTimeout(timer);
    const number = ++asked;
    let wait = EVERY;
    try {
      const answer = await ask("runs", { shown: chosen, known });
      // Somebody may have chosen others meanwhile.
      if (number !== asked) return;
      show(answer);
    } catch (cause) {
      if (number !== asked) return;
      say(cause.message);
      wait = LATER;
    }
    // A key is waited for; with it the view is opened again.
    if (isShown("runs") && by("access").hidden) timer = setTimeout(() => isShown("runs") && look(), wait);
  }

  view("runs", look);
  document.addEventListener("visibilitychange", () => isShown("runs") && look());
}
