"use strict";
// A conversation with two models of the server at once. Texts of models are put in as text, never as HTML.
const [state, turns, message, send, stop, again, clear] =
  ["state", "turns", "message", "send", "stop", "again", "clear"].map(by);
const columns = [0, 1].map((side) => ({ model: by(`model-${side}`), strength: by(`strength-${side}`) }));
let parents = new Map(); // of an adapter, the model it is put on
let warnings = new Map(); // of an adapter, what is to be known of it
let conversation = []; // {text, answers: [text or null]} for each turn, of which requests are made
let asking = null; // what stops the answers that are coming

async function loadModels() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (!response.ok) {
      state.textContent = `No models: ${await refusal(response)}`;
      if (!by("access").hidden && sight === "chat") by("key").focus();
      return;
    }
    showModels((await response.json()).data);
  } catch {
    state.textContent = "The server does not answer.";
  }
}

function showModels(models) {
  parents = new Map(models.map((model) => [model.id, model.parent ?? null]));
  warnings = new Map(models.map((model) => [model.id, model.warnings ?? []]));
  const names = models.map((model) => model.id);
  columns.forEach(({ model }, side) => {
    const chosen = model.value;
    model.replaceChildren();
    for (const name of names) element("option", model, name).value = name;
    if (side === 1) element("option", model, "none").value = "";
    const own = side === 1 && names.length < 2 ? "" : (names[side] ?? names[0]);
    model.value = names.includes(chosen) ? chosen : own;
  });
  const adapters = names.filter((name) => parents.get(name)).length;
  const counted = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;
  state.textContent = `${counted(names.length, "model")}${adapters ? `, ${counted(adapters, "adapter")} among them` : ""}.`;
  showStrengths();
  enable();
}

function showStrengths() {
  for (const { model, strength } of columns) strength.parentNode.hidden = !parents.get(model.value);
  const shown = new Set(columns.map(({ model }) => model.value));
  const told = [...shown].flatMap((name) => (warnings.get(name) ?? []).map((warning) => `${name}: ${warning}.`));
  by("warnings").textContent = told.join(" ");
  by("warnings").hidden = told.length === 0;
}

function enable() {
  const has = conversation.length > 0;
  send.disabled = asking !== null || parents.size === 0;
  stop.disabled = asking === null;
  again.disabled = clear.disabled = asking !== null || !has;
  by("empty").hidden = has || parents.size === 0;
  by("models").hidden = parents.size === 0;
}

// The name that the server knows a column by.
function chosen({ model, strength }) {
  const scale = Number(strength.value);
  const scaled = parents.get(model.value) && strength.value !== "" && scale !== 1;
  return scaled ? `${model.value}:${scale}` : model.value;
}

function request(side, model) {
  const system = by("system").value.trim();
  const messages = system ? [{ role: "system", content: system }] : [];
  conversation.forEach(({ text, answers }, turn) => {
    const isLast = turn === conversation.length - 1;
    // A message that a model did not answer is not in its history.
    if (!isLast && !answers[side]) return;
    messages.push({ role: "user", content: text });
    if (!isLast) messages.push({ role: "assistant", content: answers[side] });
  });
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (by(name).value !== "") body[name] = Number(by(name).value);
  }
  if (by("probabilities").checked) Object.assign(body, { logprobs: true, top_logprobs: 5 });
  return body;
}

// The events of a response, each the JSON behind `data:`.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

const quoted = (token) => JSON.stringify(token);
const percent = (logprob) => `${(100 * Math.exp(logprob)).toFixed(1).padStart(5)} %`;

// What is said of tokens: each with its probability and what else was likely.
function describe(tokens) {
  return tokens
    .map(({ token, logprob, top_logprobs: others = [] }) =>
      [`${percent(logprob)} ${quoted(token)}`]
        .concat(others.filter((other) => other.token !== token).map((other) => `  ${percent(other.logprob)} ${quoted(other.token)}`))
        .join("\n"))
    .join("\n");
}

function addTokens(text, content, tokens) {
  const span = element("span", text, content);
  const least = Math.exp(Math.min(...tokens.map(({ logprob }) => logprob)));
  span.className = least < 0.1 ? "rare" : least < 0.5 ? "doubtful" : least < 0.9 ? "likely" : "";
  span.description = describe(tokens);
}

function tell(span) {
  told.textContent = span.description;
  told.hidden = false;
  const [box, own] = [span.getClientRects()[0] ?? span.getBoundingClientRect(), told.getBoundingClientRect()];
  const above = box.bottom + own.height + 12 > window.innerHeight;
  told.style.left = `${Math.max(8, Math.min(box.left, window.innerWidth - own.width - 8))}px`;
  told.style.top = `${above ? Math.max(8, box.top - own.height - 6) : box.bottom + 6}px`;
}

function untell() {
  told.hidden = true;
  turns.querySelector("span.at")?.classList.remove("at");
}

// The keys by which the tokens of an answer, or of its prompt, are gone through.
function moveToken(text, key) {
  const spans = [...text.querySelectorAll("span")];
  const at = spans.findIndex((span) => span.classList.contains("at"));
  const last = spans.length - 1;
  const next = { ArrowRight: Math.min(at + 1, last), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: last }[key];
  if (next === undefined || last < 0) return false;
  untell();
  spans[next].classList.add("at");
  spans[next].scrollIntoView({ block: "nearest" });
  tell(spans[next]);
  return true;
}

const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(2)} s`;

class Answer {
  constructor(parent, name, messages) {
    this.card = element("article", parent, "", "answer");
    element("h3", this.card, name);
    this.text = element("p", this.card, "", "text");
    this.speed = element("p", this.card, "", "speed");
    addPrompt(this.card, name, { model: name, messages });
    this.name = name;
    this.card.setAttribute("aria-label", `Answer of ${name}`);
    this.card.setAttribute("aria-live", "polite");
    this.card.setAttribute("aria-busy", "true");
    this.said = "";
    this.waiting = []; // tokens whose text is not there yet
    this.chunks = 0;
    this.begun = performance.now();
  }

  add(event) {
    if (event.error) throw new Error(event.error.message ?? String(event.error));
    if (event.usage) this.usage = event.usage;
    const [choice] = event.choices ?? [];
    if (!choice) return;
    this.ended = choice.finish_reason ?? this.ended;
    const content = choice.delta?.content ?? "";
    this.waiting.push(...(choice.logprobs?.content ?? []));
    if (!content) return;
    this.last = performance.now();
    this.first ??= this.last;
    this.chunks += 1;
    this.said += content;
    if (this.waiting.length) {
      addTokens(this.text, content, this.waiting);
      this.waiting = [];
    } else this.text.append(content);
    this.showSpeed();
  }

  // Text comes a token at a time where the server does not say how many there are.
  showSpeed() {
    const tokens = this.usage?.completion_tokens ?? this.chunks;
    const rate = this.last > this.first ? ((tokens - 1) * 1000) / (this.last - this.first) : 0;
    const why = { length: "cut at the token limit", stop: "" }[this.ended] ?? this.ended ?? "";
    this.speed.textContent = [
      `${tokens} token${tokens === 1 ? "" : "s"}`,
      this.first && tokens > 1 && rate > 0 && `${rate.toFixed(1)} tokens/s`,
      this.first && `first token after ${seconds(this.first - this.begun)}`,
      this.stopped ? "stopped" : why,
    ].filter(Boolean).join(" · ");
  }

  end(error) {
    if (error) {
      const line = element("p", this.card, error, "error");
      line.setAttribute("role", "alert");
      this.speed.after(line);
    }
    if (this.text.querySelector("span")) {
      this.text.tabIndex = 0;
      this.text.setAttribute("role", "group");
      this.text.setAttribute("aria-label", `Tokens of ${this.name}: the arrow keys show how likely each was`);
    }
    if (!error || this.said) this.showSpeed();
    this.card.setAttribute("aria-busy", "false");
  }
}

// Whether the end of the page is in view, which it then stays while answers grow.
const isAtEnd = () => window.innerHeight + window.scrollY > document.documentElement.scrollHeight - 80;

async function answer(side, body, shown, turn, signal) {
  let error = "";
  try {
    const response = await sendJson("v1/chat/completions", body, signal);
    if (!response.ok) throw new Error(await refusal(response));
    for await (const event of events(response)) {
      const follow = isAtEnd();
      shown.add(event);
      if (follow) window.scrollTo(0, document.documentElement.scrollHeight);
    }
    if (!shown.ended) error = "The answer was cut off by the server.";
  } catch (cause) {
    shown.stopped = signal.aborted;
    const broken = shown.said ? "The connection broke." : "The server does not answer.";
    if (!signal.aborted) error = cause instanceof TypeError ? broken : cause.message;
  }
  turn.answers[side] = shown.said || null;
  shown.end(error);
}

// Asks the models of both columns what follows the last turn.
async function askModels() {
  const turn = conversation.at(-1);
  turn.answers = [null, null];
  turn.shown.querySelector(".answers")?.remove();
  const answers = element("div", turn.shown, "", "answers");
  asking = new AbortController();
  enable();
  const jobs = columns.map((column, side) => {
    const name = chosen(column);
    if (!name) return null;
    const body = request(side, name);
    return answer(side, body, new Answer(answers, name, body.messages), turn, asking.signal);
  });
  window.scrollTo(0, document.documentElement.scrollHeight);
  await Promise.all(jobs);
  const hadFocus = document.activeElement === stop;
  asking = null;
  enable();
  if (hadFocus) message.focus();
}

by("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = message.value.trim();
  if (!text || send.disabled) return;
  const wrong = [...document.querySelectorAll("#parameters input, #models input")].find((input) => !input.checkValidity());
  if (wrong) {
    by("parameters").open = true;
    wrong.reportValidity();
    return;
  }
  const shown = element("li", turns);
  const asked = element("div", shown, "", "asked");
  element("h2", asked, "You");
  element("p", asked, text);
  conversation.push({ text, answers: [null, null], shown });
  message.value = "";
  askModels();
});
message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  by("composer").requestSubmit();
});
stop.addEventListener("click", () => asking?.abort());
again.addEventListener("click", () => askModels());
clear.addEventListener("click", () => {
  conversation = [];
  turns.replaceChildren();
  untell();
  enable();
  message.focus();
});
by("probabilities").addEventListener("change", (event) => (by("legend").hidden = !event.target.checked));
for (const { model } of columns) model.addEventListener("change", showStrengths);
turns.addEventListener("pointerover", ({ target }) => (target.description ? tell(target) : untell()));
turns.addEventListener("pointerleave", untell);
turns.addEventListener("focusout", untell);
turns.addEventListener("keydown", (event) => {
  if (event.key === "Escape") untell();
  else if (event.target.matches(".text, .tokens") && moveToken(event.target, event.key)) event.preventDefault();
});
window.addEventListener("scroll", () => !document.activeElement.matches(".text, .tokens") && untell());
enable();
loadModels();
