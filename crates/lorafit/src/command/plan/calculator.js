"use strict";
// The plan of what the form says, asked for again with every change.
{
  const [form, result, note, wrong] = ["plan-form", "plan-result", "plan-note", "plan-error"].map(by);
  const fields = [...form.elements].filter((field) => field.name);
  let [asked, isAnswered] = [0, false];

  const settings = () =>
    Object.fromEntries(fields.map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]));

  // Fields whose flags an error names.
  const mark = (error) => {
    for (const field of fields) {
      if (new RegExp(`--${field.name}(?![\\w-])`).test(error.split("\nhint: ")[0])) field.setAttribute("aria-invalid", "true");
      else field.removeAttribute("aria-invalid");
    }
  };

  async function count() {
    const number = ++asked;
    result.setAttribute("aria-busy", "true");
    try {
      const { html } = await ask("plan", settings());
      if (number !== asked) return;
      put(result, html);
      result.querySelectorAll("figure > svg").forEach(figures.attach);
      [isAnswered, wrong.hidden] = [true, true];
      note.textContent = "Calculated for the settings above.";
      mark("");
    } catch (cause) {
      if (number !== asked) return;
      result.replaceChildren();
      [wrong.textContent, wrong.hidden, note.textContent] = [cause.message, false, ""];
      mark(cause.message);
    }
    result.setAttribute("aria-busy", "false");
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    count();
  });
  form.addEventListener("change", count);
  // The fields have their values after this.
  form.addEventListener("reset", () => setTimeout(count));
  view("plan", () => isAnswered || count());
}
