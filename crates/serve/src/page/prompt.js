"use strict";
// What an answer was asked with: the text that the conversation is written as, cut where its tokens end.
const MOST_TOKENS = 4000; // Of a longer prompt the beginning and the end are shown.

// The letters of a token; its bytes, where they are no whole letters.
function letters({ id, text, bytes }) {
  if (!bytes.length) return `⟨${id}⟩`;
  const own = [...new TextEncoder().encode(text)];
  const isText = own.length === bytes.length && own.every((byte, at) => byte === bytes[at]);
  if (!isText) return `⟨${bytes.map((byte) => byte.toString(16).padStart(2, "0").toUpperCase()).join(" ")}⟩`;
  return text.replaceAll("\n", "↵\n").replaceAll("\t", "→\t");
}

function addToken(parent, token, place, count) {
  const span = element("span", parent, letters(token), token.special ? "special" : "");
  const kind = token.special ? "\nspecial token" : "";
  span.description = `${JSON.stringify(token.text)}\nid ${token.id}, token ${place + 1} of ${count}${kind}`;
}

function showTokens(parent, name, { tokens, count }) {
  const special = tokens.filter((token) => token.special).length;
  const counted = count === 1 ? "1 token" : `${count} tokens`;
  const marked = special ? `, ${special} of them special (outlined)` : "";
  element("p", parent, `${counted}${marked}. Point at a token to see its id, or focus the text and press the arrow keys.`, "note");
  const text = element("p", parent, "", "tokens");
  text.tabIndex = 0;
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", `Prompt of ${name}, ${counted}: the arrow keys show the id of each`);
  const half = MOST_TOKENS / 2;
  tokens.forEach((token, place) => {
    if (count > MOST_TOKENS && place === half) element("em", text, `\n… ${count - MOST_TOKENS} tokens are left out here …\n`);
    if (count <= MOST_TOKENS || place < half || place >= count - half) addToken(text, token, place, count);
  });
}

// A part of an answer's card that asks the server for the tokens when it is opened.
function addPrompt(card, name, asked) {
  const details = element("details", card, "", "prompt");
  details.setAttribute("aria-live", "off");
  element("summary", details, "Prompt and its tokens").setAttribute("aria-label", `Prompt and its tokens of ${name}`);
  const content = element("div", details);
  let isAsked = false;
  details.addEventListener("toggle", async () => {
    if (!details.open || isAsked) return;
    isAsked = true;
    content.replaceChildren();
    const note = element("p", content, "Asking the server for the tokens…", "note");
    note.setAttribute("role", "status");
    try {
      const found = await post("v1/tokenize", asked);
      content.replaceChildren();
      showTokens(content, name, found);
    } catch (cause) {
      // Another try is to open it again.
      isAsked = false;
      note.className = "error";
      note.textContent = cause.message;
    }
  });
}
