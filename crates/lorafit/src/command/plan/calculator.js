"use strict";
// The plan of what the form says, asked for again with every change.
{
  const [form, result, note, wrong] = ["plan-form", "plan-result", "plan-note", "plan-error"].map(by);
  const fields = [...form.elements].filter((field) => field.name);
  let [asked, isAnswered, changed] = [0, false, null];

  const settings = () =>
    Object.fromEntries(fields.map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]));

  // Marks the fields whose flags an error names, and shows it below that which was changed.
  const mark = (error) => {
    const [what] = error.split("\nhint: ");
    const isNamed = (field) => new RegExp(`--${field.name}(?![\\w-])`).test(what);
    const named = fields.filter(isNamed);
    for (const field of fields) {
      if (named.includes(field)) field.setAttribute("aria-invalid", "true");
      else field.removeAttribute("aria-invalid");
    }
    const place = (named.includes(changed) ? changed : named[0])?.closest("label") ?? form;
    if (error) place.after(wrong);
    [wrong.textContent, wrong.hidden] = [error, !error];
  };

  async function count() {
    const number = ++asked;
    result.setAttribute("aria-busy", "true");
    try {
      const { html } = await ask("plan", settings());
      if (number !== asked) return;
      put(result, html);
      result.querySelectorAll("figure > svg").forEach(figures.attach);
      isAnswered = true;
      note.textContent = "Calculated for the settings above.";
      mark("");
    } catch (cause) {
      if (number !== asked) return;
      result.replaceChildren();
      note.textContent = "";
      mark(cause.message);
    }
    result.setAttribute("aria-busy", "false");
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    count();
  });
  form.addEventListener("change", (event) => {
    changed = event.target;
    count();
  });
  // The fields have their values after this.
  form.addEventListener("reset", () => setTimeout(count));
  view("plan", () => isAnswered || count());
}
