"use strict";
// What the chat and the views share: elements, requests with the key, and which of them is in sight.
const by = (id) => document.getElementById(id);
const told = by("told");

function element(name, parent, text = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return parent.appendChild(made);
}

// HTML that the server wrote for a view. It is parsed apart, where nothing of it runs or loads.
function put(parent, html) {
  parent.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
}

function headers() {
  const key = by("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

// What a refused request says.
async function refusal(response) {
  if (response.status === 401 || response.status === 403) by("access").hidden = false;
  // What the server says of keys is for programs.
  if (response.status === 401) return by("key").value ? "The key is not known to the server." : "The server asks for an API key.";
  try {
    const { error } = await response.json();
    return error.message ?? String(error);
  } catch {
    return `the server answered ${response.status} ${response.statusText}`;
  }
}

const sendJson = (path, body, signal) =>
  fetch(path, { method: "POST", headers: { "Content-Type": "application/json", ...headers() }, body: JSON.stringify(body), signal });

// The answer to a request in JSON.
async function post(path, body) {
  let response;
  try {
    response = await sendJson(path, body);
  } catch {
    throw new Error("The server does not answer.");
  }
  if (!response.ok) throw new Error(await refusal(response));
  return response.json();
}

// What the server answers to a question of a view.
const ask = (name, question) => post(`views/${name}`, question);

const opened = new Map(); // what each view does when it comes into sight
const scrolled = new Map(); // where each was left
const headingOfChat = by("heading").textContent;
let sight = "chat";

function view(name, whenOpened) {
  opened.set(name, whenOpened);
}

const isShown = (name) => sight === name && !document.hidden;

function showView() {
  const name = location.hash.slice(1) || "chat";
  // Another address is a place within what is shown.
  if (!opened.has(name)) return;
  scrolled.set(sight, window.scrollY);
  sight = name;
  const isChat = name === "chat";
  by("chat").hidden = by("composer").hidden = !isChat;
  for (const section of document.querySelectorAll(".view")) section.hidden = section.id !== `view-${name}`;
  for (const link of document.querySelectorAll("#links a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = isChat ? headingOfChat : by(`view-${name}`).dataset.heading;
  by("heading").textContent = heading;
  document.title = `${heading} · lorafit serve`;
  by("skip").textContent = isChat ? "Skip to the message" : "Skip to what is shown";
  told.hidden = true;
  window.scrollTo(0, scrolled.get(name) ?? 0);
  opened.get(name)();
}

by("skip").addEventListener("click", (event) => {
  event.preventDefault();
  const place = sight === "chat" ? by("message") : by(`view-${sight}`);
  if (sight !== "chat") place.tabIndex = -1;
  place.focus();
});
by("access").addEventListener("submit", (event) => {
  event.preventDefault();
  loadModels();
  if (sight !== "chat") opened.get(sight)();
});
view("chat", () => {});
window.addEventListener("hashchange", showView);
// Once all scripts have run.
document.addEventListener("DOMContentLoaded", showView);
