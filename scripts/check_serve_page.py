"""Opens the page of `lorafit serve` in headless Chromium, with a small server that answers as its API does: models come,
messages go to both, answers stream, stop and fail, keys are asked for, tokens say how likely they were, the prompt of an answer
is shown with its tokens; texts of models stay text, fields have names, the keyboard reaches all, letters have a contrast of 4.5,
no heading of a view skips a level, nothing is wider than the window, nothing is in the console, nothing is loaded from elsewhere.
Takes screenshots, light and dark, 1280 and 400 pixels wide.

    python3 scripts/check_serve_page.py SCREENSHOT_FOLDER
    python3 scripts/check_serve_page.py SCREENSHOT_FOLDER target/debug/lorafit
    python3 scripts/check_serve_page.py SCREENSHOT_FOLDER http://127.0.0.1:8080/

With the program, it serves a small model and a folder of runs that grow while the page shows them: curves and cards follow without
a reload, the plan counts what its form says, bad values give its errors. With the address of a server that runs, its page is
opened, and its models are asked and stopped.

Needs chromium and chromedriver, and of Python the standard library only.
"""

import base64
import contextlib
import json
import math
import re
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from browser import COLOURS, HEADINGS, call, check, console, driver, end, open_session

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
KEY = "of-the-check"
ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "crates/serve/src/page"
MODEL = ROOT / "fixtures/models/chat_bpe"

# What the models answer, by name; `chat-adapter` and its strengths as `chat-adapter`.
ANSWERS = {
    "SmolLM2-135M-Instruct": "The sky looks blue because air scatters short waves of light more than long ones. "
    "At noon the light comes a short way through the air; in the evening it comes a long way, and red is left.\n\n"
    "1. Blue is scattered most.\n2. Red is scattered least.",
    "pirate": "Arr! The sky be blue, matey, for the wee waves o' light be tossed about the most. 🏴‍☠️ Überall!",
    "hostile": "<img src=x onerror='window.hacked = 1'></script><script>window.hacked = 1</script> &amp; "
    + "averyverylongwordwithoutablank" * 8,
    "slow": "word " * 400,
    "cut": "This answer breaks",
}
PARENT = "SmolLM2-135M-Instruct"
# Of the last model.
WARNING = "<b>cut</b> was trained over another base"
asked = []
stopped = threading.Event()


def page():
    """The page and its policy as the server sends them."""
    shell, style = ((SOURCE / f"page.{kind}").read_text() for kind in ("html", "css"))
    scripts = re.findall(r'include_str!\("(\w+\.js)"\)', (SOURCE / "mod.rs").read_text())
    scripts = "".join(f'<script nonce="check">\n{(SOURCE / name).read_text()}</script>\n' for name in scripts)
    policy = re.search(r'let policy = format!\(\s*"(.*?)"\s*\)', (SOURCE / "mod.rs").read_text(), re.DOTALL)[1]
    policy = re.sub(r"\\\n\s*", "", policy).replace("{nonce}", "check")
    for place, text in (("style", style), ("nonce", "check"), ("links", ""), ("views", ""), ("scripts", scripts)):
        shell = shell.replace(f"{{{place}}}", text)
    return shell, policy


def tokens_of(messages):
    """A conversation as tokens: marks of its template, words, and bytes of letters that are no word."""
    tokens = []
    for message in [*messages, {"role": "assistant", "content": None}]:
        for text in ("<|im_start|>", message["role"], "\n"):
            tokens.append((text.encode(), text.startswith("<|")))
        for word in re.findall(r"\s?[^\W_]+|\s|.", message["content"] or ""):
            pieces = [word.encode()] if word.isascii() else [word.encode()[:2], word.encode()[2:]]
            tokens.extend((piece, False) for piece in pieces if piece)
        if message["content"] is not None:
            tokens.extend([(b"<|im_end|>", True), (b"\n", False)])
    found = [
        {"id": 100 + at, "text": piece.decode(errors="replace"), "bytes": list(piece), "special": special}
        for at, (piece, special) in enumerate(tokens)
    ]
    return {"text": b"".join(piece for piece, _ in tokens).decode(), "tokens": found, "count": len(found)}


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    needs_key = False
    tells_tokens = True

    def log_message(self, *_):
        pass

    def reply(self, status, body, kind="application/json", headers=()):
        body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", len(body)), *headers):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def is_refused(self):
        if Api.needs_key and self.headers.get("Authorization") != f"Bearer {KEY}":
            self.reply(401, {"error": {"message": "the API key is missing or not known", "type": "authentication"}})
            return True
        return False

    def do_GET(self):
        if self.path == "/":
            html, policy = page()
            self.reply(200, html, "text/html; charset=utf-8", [("Content-Security-Policy", policy)])
        elif self.path == "/v1/models" and not self.is_refused():
            models = [{"id": name, "object": "model", "parent": None if name == PARENT else PARENT} for name in ANSWERS]
            models[-1]["warnings"] = [WARNING]
            self.reply(200, {"object": "list", "data": models + [{"id": "broken", "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.is_refused():
            return
        if self.path == "/v1/tokenize":
            error = {"error": {"message": "`messages` has more than the 8 tokens that this model can read; shorten it"}}
            self.reply(200, tokens_of(body["messages"])) if Api.tells_tokens else self.reply(400, error)
            return
        asked.append(body)
        name = body["model"].split(":")[0]
        if name == "broken":
            self.reply(429, {"error": {"message": "64 requests wait already; try again in 2 s", "type": "overloaded"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.stream(name, body)
        except (BrokenPipeError, ConnectionResetError):
            stopped.set()
            self.close_connection = True

    def chunk(self, data):
        data = f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def stream(self, name, body):
        tokens = re.findall(r"\s?\S+|\s", ANSWERS[name])
        for number, token in enumerate(tokens):
            choice = {"index": 0, "delta": {"content": token}, "finish_reason": None}
            if body.get("logprobs"):
                # In turn certain, likely, doubtful, rare.
                sure = math.log([0.97, 0.8, 0.3, 0.04][number % 4])
                others = [{"token": token, "logprob": sure}, {"token": " other\n", "logprob": -1.5}]
                choice["logprobs"] = {"content": [{"token": token, "logprob": sure, "top_logprobs": others}]}
            self.chunk({"object": "chat.completion.chunk", "model": name, "choices": [choice]})
            time.sleep(0.05 if name == "slow" else 0.01)
        if name == "cut":
            # What came before has to be read before the connection breaks.
            time.sleep(0.5)
            self.close_connection = True
            return
        self.chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "length" if name == "pirate" else "stop"}]})
        self.chunk({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": len(tokens)}})
        self.chunk("[DONE]")
        self.wfile.write(b"0\r\n\r\n")


# Letters that are seen, each with the contrast to the nearest background behind it (WCAG 2.1, 1.4.3).
CONTRAST = COLOURS + """
const found = [];
const look = (element, text, pseudo) => {
  const [a, b] = [rgba(getComputedStyle(element, pseudo).color), behind(element)].map((c) => luminance(c) + 0.05).sort((x, y) => y - x);
  if (a / b < 4.5) found.push(`${text.trim().slice(0, 40)}: ${(a / b).toFixed(2)}`);
};
const seen = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (seen.nextNode()) {
  const element = seen.currentNode.parentElement;
  if (!seen.currentNode.data.trim() || element.closest('script, style') || !element.checkVisibility?.()) continue;
  look(element, seen.currentNode.data);
}
for (const field of document.querySelectorAll('input, textarea, select')) {
  if (field.checkVisibility()) look(field, field.value || field.placeholder, field.value ? undefined : '::placeholder');
}
return [...new Set(found)];
"""

ENTER, TAB, RIGHT, ESCAPE = "\ue007", "\ue004", "\ue014", "\ue00c"


class Browser:
    """A session of the driver."""

    def __init__(self, profile):
        self.session = open_session(profile)

    def script(self, text, *args):
        return call(f"{self.session}/execute/sync", {"script": text, "args": list(args)})

    def cdp(self, command, **params):
        return call(f"{self.session}/goog/cdp/execute", {"cmd": command, "params": params})

    def open(self, address):
        call(f"{self.session}/url", {"url": address})
        self.wait("document.getElementById('state').textContent.startsWith('Asking') === false")

    def wait(self, condition, seconds=20):
        for _ in range(seconds * 20):
            if self.script(f"return {condition}"):
                return True
            time.sleep(0.05)
        check(False, f"waited for {condition}")
        return False

    def press(self, *keys):
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        call(f"{self.session}/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def point(self, x, y):
        move = {"type": "pointerMove", "duration": 50, "x": round(x), "y": round(y)}
        call(f"{self.session}/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [move]}]})

    def fields(self):
        """Everything that takes the focus, as (id, name that is read out)."""
        found = call(
            f"{self.session}/elements",
            {"using": "css selector", "value": "a[href], input, select, textarea, button, summary"},
        )
        for reference in found:
            (element,) = reference.values()
            name = call(f"{self.session}/element/{element}/computedlabel", method="GET")
            yield self.script("return arguments[0].id || arguments[0].tagName", reference), name

    def choose(self, side, model):
        self.script(
            "const field = document.getElementById(`model-${arguments[0]}`); field.value = arguments[1];"
            "field.dispatchEvent(new Event('change'))",
            side,
            model,
        )

    def set(self, name, value):
        self.script(
            "const field = document.getElementById(arguments[0]);"
            "if (field.type === 'checkbox') { if (field.checked !== arguments[1]) field.click(); } else field.value = arguments[1]",
            name,
            value,
        )

    def ask(self, text, waits=True):
        self.script("document.getElementById('message').focus()")
        self.press(*text, ENTER)
        if waits:
            self.wait("!document.getElementById('send').disabled")

    def answers(self):
        """Of the last turn: model, text, speed, error."""
        return self.script(
            "return [...document.querySelectorAll('#turns > li:last-child .answer')].map((answer) =>"
            " ['h3', '.text', '.speed', '.error'].map((part) => answer.querySelector(part)?.textContent ?? ''))"
        )

    def capture(self, name, width, dark=False, whole=False):
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.cdp("Emulation.setEmulatedMedia", features=features)
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        name = f"{name}-{'dark' if dark else 'light'}-{width}"
        time.sleep(0.1)
        wide = self.script("return document.documentElement.scrollWidth")
        check(wide <= width, f"{name}: {wide} of {width} pixels wide")
        faint = self.script(CONTRAST)
        check(not faint, f"{name}: letters stand out {faint or ''}")
        skipped = self.script(HEADINGS)
        check(not skipped, f"{name}: headings follow each other without a gap {skipped or ''}")
        shot = self.cdp("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        (folder / f"{name}.png").write_bytes(base64.b64decode(shot))

    def captures(self, name, whole=False):
        for dark in (False, True):
            for width in (400, 1280):
                self.capture(name, width, dark, whole)


def check_first_sight(browser):
    chosen = browser.script("return ['model-0', 'model-1'].map((id) => document.getElementById(id).value)")
    check(chosen == list(ANSWERS)[:2], f"the first two models are chosen: {chosen}")
    hidden = "return ['strength-0', 'strength-1'].map((id) => document.getElementById(id).checkVisibility())"
    check(browser.script(hidden) == [False, True], "an adapter has a strength, the base has none")
    told = "const told = document.getElementById('warnings'); return told.checkVisibility() ? told.textContent : ''"
    for model, expected in (("cut", f"cut: {WARNING}."), ("pirate", "")):
        browser.choose(1, model)
        check(browser.script(told) == expected, f"what is to be known of {model} is told: {expected!r}")
    browser.captures("empty")
    hidden = "const hidden = [...document.querySelectorAll('[hidden]')]; hidden.forEach((part) => (part.hidden = false));"
    browser.script(hidden + "document.getElementById('parameters').open = true; window.shownForNow = hidden")
    unnamed = [field for field, name in browser.fields() if not name.strip()]
    browser.script("window.shownForNow.forEach((part) => (part.hidden = true)); document.getElementById('parameters').open = false")
    check(not unnamed, f"every field has a name {unnamed or ''}")
    browser.script("document.activeElement.blur(); window.scrollTo(0, 0)")
    check(not browser.script("return document.querySelector('nav')"), "without views there are no links")
    order = []
    for _ in range(8):
        browser.press(TAB)
        order.append(browser.script("return document.activeElement.id || document.activeElement.tagName"))
    expected = ["skip", "model-0", "model-1", "strength-1", "SUMMARY", "message", "send"]
    check(order[: len(expected)] == expected, f"the keyboard goes through {order}")


def check_conversation(browser):
    browser.script("document.getElementById('parameters').open = true")
    browser.captures("parameters")
    for name, value in (("temperature", "0"), ("max_tokens", "64"), ("seed", "3"), ("system", "Be brief.")):
        browser.set(name, value)
    browser.script("document.getElementById('parameters').open = false")
    browser.set("strength-1", "0.7")
    browser.ask("Why is the sky blue?")
    bodies = sorted(asked[-2:], key=lambda body: body["model"])
    check([body["model"] for body in bodies] == [PARENT, "pirate:0.7"], "both models are asked, one at its strength")
    same = {"temperature": 0, "top_p": 1, "max_tokens": 64, "seed": 3, "stream": True}
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}
    check(all(body | same == body and body["messages"] == [system, user] for body in bodies), "with the same message")
    check(all("logprobs" not in body for body in bodies), "and no probabilities")
    texts = [answer[1] for answer in browser.answers()]
    check(texts == [ANSWERS[PARENT], ANSWERS["pirate"]], "the answers stand side by side")
    speeds = [answer[2] for answer in browser.answers()]
    check(all(re.fullmatch(r"\d+ tokens · [\d.]+ tokens/s · first token after [\d.]+ s.*", speed) for speed in speeds), str(speeds))
    check("cut at the token limit" in speeds[1], "an answer that was cut says so")
    check(browser.script("return document.activeElement.id") == "message", "the next message can be typed")
    browser.ask("And red?")
    for body in asked[-2:]:
        own = ANSWERS[body["model"].split(":")[0]]
        earlier = [system, user, {"role": "assistant", "content": own}, {"role": "user", "content": "And red?"}]
        check(body["messages"] == earlier, f"{body['model']} goes on from its own answer")
    browser.captures("conversation")
    browser.capture("whole", 400, whole=True)
    before = len(asked)
    browser.script("document.getElementById('again').click()")
    browser.wait("!document.getElementById('send').disabled")
    again = [body["messages"] for body in asked[before:]]
    check(len(again) == 2 and all(len(messages) == 4 for messages in again), "the last message is answered again")
    check(browser.script("return document.querySelectorAll('#turns > li').length") == 2, "in its place")
    browser.script("document.getElementById('clear').click()")
    check(browser.script("return document.querySelectorAll('#turns > li').length") == 0, "a new conversation is empty")


def check_tokens(browser):
    browser.set("probabilities", True)
    browser.ask("Why?")
    check(all(body["top_logprobs"] == 5 for body in asked[-2:]), "probabilities are asked for")
    kinds = browser.script("return [...document.querySelectorAll('.text span')].map((span) => span.className)")
    check(kinds[:4] == ["", "likely", "doubtful", "rare"], f"tokens are marked by how likely they were: {kinds[:4]}")
    texts = [answer[1] for answer in browser.answers()]
    check(texts == [ANSWERS[PARENT], ANSWERS["pirate"]], "the text is the same")
    for width in (400, 1280):
        browser.capture("tokens", width)
        place = browser.script(
            "const span = document.querySelectorAll('.text span')[3]; span.scrollIntoView({block: 'center'});"
            "const box = span.getBoundingClientRect(); return [(box.left + box.right) / 2, (box.top + box.bottom) / 2]"
        )
        # What is shown goes away when the page is scrolled.
        time.sleep(0.2)
        browser.point(*place)
        shown = browser.script("const told = document.getElementById('told'); return told.hidden ? '' : told.textContent")
        check(re.match(r'  4.0 % " ?\w+"\n   22.3 % " other\\n"', shown), f"the pointer shows {shown!r}")
        box = browser.script("const b = document.getElementById('told').getBoundingClientRect(); return [b.left, b.right, b.top, b.bottom]")
        check(box[0] >= 0 and box[1] <= width and box[2] >= 0 and box[3] <= 800, f"in the window: {box}")
        browser.capture("told", width, dark=width == 400)
        browser.point(1, 1)
    browser.script("document.querySelector('.text').focus()")
    browser.press(RIGHT, RIGHT)
    at = browser.script("return [...document.querySelectorAll('.text span')].findIndex((span) => span.matches('.at'))")
    check(at == 1 and browser.script("return !document.getElementById('told').hidden"), "arrow keys go through tokens")
    browser.press(ESCAPE)
    check(browser.script("return document.getElementById('told').hidden"), "Escape ends that")
    browser.set("probabilities", False)


SPANS = "[...document.querySelectorAll('#turns > li:last-child .tokens')]"


def open_prompts(browser, waits_for):
    """Opens the prompts of the last answers by the keyboard."""
    browser.script("window.scrollTo(0, document.documentElement.scrollHeight)")
    for side in (0, 1):
        browser.script(f"document.querySelectorAll('#turns > li:last-child .prompt summary')[{side}]?.focus()")
        browser.press(ENTER)
    browser.wait(waits_for)


def check_prompt(browser):
    browser.script("document.getElementById('clear').click()")
    browser.set("system", "Be brief.")
    browser.ask("Why is the <b>sky</b> 🏴?")
    browser.ask("And red?")
    open_prompts(browser, f"{SPANS}.length === 2")
    messages = asked[-1]["messages"]
    names = {body["model"]: body["messages"] for body in asked[-2:]}
    expected = [tokens_of(names[name]) for name in browser.script("return [...document.querySelectorAll('#turns > li:last-child h3')].map((h) => h.textContent)")]
    check(len(messages) == 4, f"the prompt is of {len(messages)} messages")
    shown = browser.script(f"return {SPANS}.map((text) => [...text.querySelectorAll('span')].map((span) => [span.textContent, span.description, span.className]))")
    for found, tokens in zip(shown, expected):
        wanted = tokens["tokens"]
        check(len(found) == len(wanted), f"{len(found)} of {len(wanted)} tokens are shown")
        ids = all(f"\nid {token['id']}, token {at + 1} of {len(wanted)}" in span[1] for at, (span, token) in enumerate(zip(found, wanted)))
        check(ids, f"each with its id: {found[0][1]!r}")
        check([span[2] for span in found] == ["special" if token["special"] else "" for token in wanted], "special tokens are marked")
        check("special token" in found[0][1] and "special" not in found[1][1], "and said to be")
        hexed = [span[0] for span in found if span[0].startswith("⟨")]
        check(hexed[:2] == ["⟨F0 9F⟩", "⟨8F B4⟩"], f"bytes that are no letters are shown as such: {hexed[:2]}")
        letters = [span[0].replace("↵\n", "\n") for span in found]
        data = [bytes.fromhex(text[1:-1]) if text.startswith("⟨") else text.encode() for text in letters]
        check(b"".join(data).decode() == tokens["text"], "together they are the text")
    note = browser.script("return document.querySelector('#turns > li:last-child .prompt .note').textContent")
    count = expected[0]["count"]
    check(note.startswith(f"{count} tokens, ") and "special" in note, f"how many there are: {note!r}")
    check(not browser.script("return document.querySelector('.tokens b')"), "markup is text")
    browser.script("document.querySelector('#turns > li:last-child .tokens').focus()")
    browser.press(RIGHT)
    told = "const told = document.getElementById('told'); return told.hidden ? '' : told.textContent"
    check(browser.script(told).startswith('"<|im_start|>"\nid 100, token 1 of '), f"arrow keys say {browser.script(told)!r}")
    role = browser.script("const text = document.querySelector('.tokens'); return [text.getAttribute('role'), text.getAttribute('aria-label')]")
    check(role[0] == "group" and f"{count} tokens" in browser.script(f"return {SPANS}[0].getAttribute('aria-label')"), f"and have a name: {role}")
    live = browser.script("return document.getElementById('told').getAttribute('role')")
    check(live == "status", "what is said of a token is read out")
    browser.captures("prompt")
    browser.press(ESCAPE)
    unnamed = [field for field, name in browser.fields() if not name.strip() and field == "SUMMARY"]
    check(not unnamed, "what opens it has a name")
    Api.tells_tokens = False
    browser.ask("Once more")
    open_prompts(browser, "document.querySelectorAll('#turns > li:last-child .prompt .error').length === 2")
    error = browser.script("return document.querySelector('#turns > li:last-child .prompt .error').textContent")
    check("shorten it" in error, f"what the server refuses is shown: {error!r}")
    Api.tells_tokens = True
    for _ in (0, 1):
        browser.script("document.querySelector('#turns > li:last-child .prompt summary').click()")
    browser.wait(f"{SPANS}.length === 1")
    check(True, "and asked for again when it is opened again")
    browser.script("document.getElementById('clear').click()")


def check_faults(browser):
    browser.choose(0, "hostile")
    browser.choose(1, "broken")
    browser.ask("<b>bold</b>")
    hostile, broken = browser.answers()
    check(hostile[1] == ANSWERS["hostile"], "markup of a model is text")
    check(browser.script("return window.hacked === undefined && !document.querySelector('#turns img, #turns b')"), "and does nothing")
    check(broken[3] == "64 requests wait already; try again in 2 s", f"a refusal is shown: {broken[3]!r}")
    browser.captures("faults")
    browser.choose(0, "cut")
    browser.choose(1, "pirate")
    browser.ask("Go on")
    cut = browser.answers()[0]
    check(cut[1] == ANSWERS["cut"] and cut[3] == "The connection broke.", f"an answer that breaks says so: {cut[3]!r}")
    lengths = {body["model"]: len(body["messages"]) for body in asked[-2:]}
    check(lengths == {"cut": 6, "pirate:0.7": 4}, "a message that was not answered is not in the history")
    browser.choose(0, "slow")
    browser.choose(1, "")
    browser.ask("Stop!", waits=False)
    browser.wait("document.querySelector('#turns > li:last-child .text').textContent.length > 20")
    busy = browser.script("return document.querySelector('#turns > li:last-child .answer').getAttribute('aria-busy')")
    check(busy == "true", "an answer that comes is marked as busy")
    browser.capture("running", 1280)
    browser.script("document.getElementById('stop').focus()")
    browser.press(ENTER)
    browser.wait("!document.getElementById('send').disabled")
    (slow,) = browser.answers()
    check(slow[2].endswith("stopped") and not slow[3] and len(slow[1]) > 20, f"it can be stopped: {slow[2]}")
    check(stopped.wait(5), "and the server notices")
    check(browser.script("return document.activeElement.id") == "message", "the focus goes to the message")


def check_key(browser, address):
    Api.needs_key = True
    browser.open(address)
    check(browser.script("return document.getElementById('access').checkVisibility()"), "a key is asked for")
    check(browser.script("return document.activeElement.id") == "key", "with the focus")
    browser.captures("key")
    browser.press(*"wrong", ENTER)
    browser.wait("document.getElementById('state').textContent.includes('not known')")
    browser.script("document.getElementById('key').value = ''; document.getElementById('key').focus()")
    browser.press(*KEY, ENTER)
    check(browser.wait("document.getElementById('model-0').value !== ''"), "with the key the models come")
    browser.ask("Hello")
    check(browser.answers()[0][1] == ANSWERS[PARENT], "and answers")


def check_page(browser, address):
    browser.open(address)
    check_first_sight(browser)
    check_conversation(browser)
    check_prompt(browser)
    check_tokens(browser)
    check_faults(browser)
    check_key(browser, address)
    check_quiet(browser, address)


def check_real(browser, address):
    """The page of a server that runs, whatever its models say."""
    browser.open(address)
    first = browser.script("return document.getElementById('model-0').value")
    check(first, f"the models come, the first is {first!r}")
    browser.choose(1, first)
    for name, value in (("temperature", 0), ("max_tokens", 24), ("seed", 1), ("probabilities", True)):
        browser.set(name, value)
    browser.ask("Name three colours.")
    answers = browser.answers()
    one, other = answers
    check(one[1] and one[1] == other[1], f"one model answers the same twice: {one[1]!r}")
    check(not one[3] and not other[3], f"without an error {one[3]}")
    check(re.match(r"\d+ tokens? · [\d.]+ tokens/s · first token after [\d.]+ s", one[2]), one[2])
    marked = "return [...document.querySelectorAll('.text span')].filter((s) => /^ *[\\d.]+ % \"/.test(s.description)).length"
    check(browser.script(marked) > 2, "tokens say how likely they were")
    browser.captures("real")
    check_real_prompt(browser)
    browser.set("max_tokens", 2000)
    browser.ask("Write a long story about the sea.", waits=False)
    browser.wait("document.querySelector('#turns > li:last-child .text').textContent.length > 20", 60)
    browser.script("document.getElementById('stop').click()")
    browser.wait("!document.getElementById('send').disabled")
    check(all(answer[2].endswith("stopped") for answer in browser.answers()), "answers can be stopped")
    check_quiet(browser, address)


def check_real_prompt(browser):
    """The prompt of the last answers, of a server that runs."""
    open_prompts(browser, f"{SPANS}.length === 2")
    texts = browser.script(f"return {SPANS}.map((text) => text.textContent)")
    check("Name three colours." in texts[0] and texts[0] == texts[1], f"the prompt is shown: {texts[0]!r}")
    special = browser.script("return document.querySelectorAll('#turns > li:last-child .tokens .special').length")
    check(special > 0, f"{special} special tokens")
    browser.captures("real-prompt")


def write_run(folder, steps, total):
    """A run that has taken so many steps."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"tokens": 900, "computed_tokens": 880, "supervised_tokens": 300, "seconds": 0.5, "tokens_per_s": 1800.0}
    record |= {"learning_rate": 1e-3, "peak_rss_bytes": 300 << 20}
    lines = (
        json.dumps({"step": step, "loss": 2.5 / (1 + step / 20) + 0.1 * math.sin(step), "grad_norm": 1 + 1 / step} | record)
        for step in range(1, steps + 1)
    )
    text = "".join(line + "\n" for line in lines)
    # As a run does: what was there stays.
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(text[file.tell() :])


# The first curves that are seen: a figure has another drawing for other widths.
PLOT = "[...document.querySelectorAll('#curves svg.plot')].find((plot) => plot.checkVisibility())"
CARDS = "[...document.querySelectorAll('#runs article')]"


def check_runs(browser, runs):
    browser.script("window.unloaded = 'not'; document.querySelector('#links a[href=\"#runs\"]').focus()")
    browser.press(ENTER)
    browser.wait(f"{CARDS}.length === 2")
    check(browser.script("return document.title") == "Runs · lorafit serve", "the window is called after the view")
    current = browser.script("return [...document.querySelectorAll('#links a')].map((link) => link.ariaCurrent ?? link.getAttribute('aria-current'))")
    check(current == [None, "page", None], f"the links say what is shown: {current}")
    check(not browser.script("return document.getElementById('composer').checkVisibility()"), "the chat is away")
    names = browser.script(f"return {CARDS}.map((card) => card.querySelector('h2').firstChild.data.trim())")
    check(sorted(names) == ["first", "group/<b>second"], f"runs are listed by their names: {names}")
    browser.wait("document.querySelectorAll('#curves figure > svg').length >= 5")
    titles = browser.script("return [...document.querySelectorAll('#curves h3')].map((h) => h.textContent)")
    check(titles[0] == "Loss" and "Throughput" in titles, f"curves of the newest run: {titles}")
    browser.script("document.querySelector('#runs input:not(:checked)').focus()")
    browser.press(" ")
    browser.wait("document.querySelector('#curves figure').textContent.includes('second')")
    wanted = browser.script("return [...document.querySelectorAll('#runs input')].map((box) => box.checked)")
    check(wanted == [True, True], "with the keyboard another run is drawn beside it")
    browser.captures("runs")
    browser.capture("runs-whole", 400, whole=True)
    browser.capture("runs-whole", 1280, dark=True, whole=True)
    labels = browser.script("return [...document.querySelectorAll('#runs input')].map((box) => box.getAttribute('aria-label'))")
    check(all(label.startswith("Curves of ") for label in labels), f"boxes have names: {labels}")
    # What the pointer says of a curve.
    place = browser.script(
        f"const plot = {PLOT}; plot.scrollIntoView({{block: 'center'}});"
        "const path = plot.querySelector('.series path');"
        "const at = path.getPointAtLength(path.getTotalLength() / 2).matrixTransform(path.getScreenCTM()); return [at.x, at.y]"
    )
    browser.point(*place)
    said = "return [...document.querySelectorAll('output.told')].map((told) => (told.hidden ? '' : told.textContent)).join('')"
    check(len(browser.script(said).split("\n")) == 3, f"the pointer on a curve says {browser.script(said)!r}")
    browser.point(1, 1)
    browser.script(f"{PLOT}.parentNode.focus()")
    before = browser.script(f"return {PLOT}.dataset.x")
    write_run(runs / "first", 90, 200)
    browser.wait(f"{CARDS}.some((card) => card.textContent.includes('step 90'))")
    browser.wait(f"{PLOT}.dataset.x !== '{before}'")
    check(browser.script("return window.unloaded") == "not", "a run that goes on is shown without a reload")
    check(browser.script("return document.activeElement.matches('#curves figure > svg')"), "and the focus stays")
    write_run(runs / "third", 3, 10)
    browser.wait(f"{CARDS}.length === 3")
    check(True, "a run that begins comes by itself")
    # While another view is shown, nothing is asked.
    browser.script("location.hash = '#chat'")
    count = "return performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/views/runs')).length"
    time.sleep(0.5)
    earlier = browser.script(count)
    time.sleep(3)
    check(browser.script(count) == earlier, "and nothing is asked while it is out of sight")


def check_plan(browser):
    browser.script("location.hash = '#plan'")
    browser.wait("document.querySelectorAll('#plan-result table').length === 4")
    text = "return document.getElementById('plan-result').textContent"
    first = browser.script(text)
    for part in ("chat_bpe, rank 8:", "logits chunk", "QLoRA, nf4", "Recommended", "lorafit train --model M "):
        check(part in first, f"the plan has {part!r}")
    check(str(MODEL) not in first, "and no path of the server")
    unnamed = [field for field, name in browser.fields() if field.startswith("plan-") and not name.strip()]
    check(not unnamed, f"every field has a name {unnamed or ''}")
    browser.captures("plan")
    browser.capture("plan-whole", 400, dark=True, whole=True)
    browser.capture("plan-whole", 1280, whole=True)
    browser.script("const rank = document.getElementById('plan-rank'); rank.focus(); rank.select()")
    browser.press(*"32", ENTER)
    browser.wait("document.getElementById('plan-result').textContent.includes('rank 32:')")
    check("--rank=32" in browser.script(text), "the command says what was set")
    browser.script("const rank = document.getElementById('plan-rank'); rank.focus(); rank.select()")
    browser.press("0", TAB)
    browser.wait("!document.getElementById('plan-error').hidden")
    error = browser.script("return document.getElementById('plan-error').textContent")
    check(error == "--rank 0: must be 1 or more", f"a bad value gives the plan's error: {error!r}")
    marked = browser.script("return [...document.querySelectorAll('[aria-invalid=true]')].map((field) => field.id)")
    check(marked == ["plan-rank"], f"and marks its field: {marked}")
    below = browser.script("return document.getElementById('plan-error').previousElementSibling.querySelector('input').id")
    check(below == "plan-rank", f"below which it stands: {below}")
    browser.script("const field = document.getElementById('plan-quant'); field.value = ''; document.getElementById('plan-rank').value = '8'; document.getElementById('plan-double-quant').click()")
    browser.wait("document.getElementById('plan-error').textContent.includes('double')")
    browser.captures("plan-error")
    browser.script("document.getElementById('plan-reset').click()")
    browser.wait("document.getElementById('plan-result').textContent.includes('rank 8:')")
    check(browser.script("return document.getElementById('plan-error').hidden"), "all is as at the beginning")
    browser.script("const model = document.getElementById('plan-model'); model.value = 'llama-2-7b'; model.dispatchEvent(new Event('change', {bubbles: true}))")
    browser.wait("document.getElementById('plan-result').textContent.includes('llama-2-7b, rank 8')")
    browser.captures("plan-shape")


@contextlib.contextmanager
def serving(program, *arguments):
    """A server of the program, by its address, until the end of the block."""
    command = [program, "serve", "--model", MODEL, "--port", "0", "--threads", "1", *arguments]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    try:
        first = process.stdout.readline()
        yield re.match(r"serving at (http://\S+)", first)[1]
    finally:
        process.terminate()
        process.wait()


def check_program(browser, program):
    """The page of a program with a small model and a folder of runs, and behind a key."""
    with tempfile.TemporaryDirectory() as place:
        runs = Path(place) / "runs"
        write_run(runs / "group/<b>second", 30, 60)
        time.sleep(0.05)
        write_run(runs / "first", 40, 200)
        with serving(program, "--adapter", f"own={MODEL / 'adapter'}", "--runs", runs) as address:
            browser.open(address)
            browser.set("max_tokens", 16)
            browser.ask("Name three colours.")
            check_real_prompt(browser)
            check_runs(browser, runs)
            check_plan(browser)
            left = browser.script("location.hash = '#chat'; return document.querySelectorAll('#turns > li').length")
            check(left == 1, "the conversation is still there")
            check_quiet(browser, address)
        key = Path(place) / "key"
        key.write_text("0123456789abcdef\n")
        with serving(program, "--runs", runs, "--api-key-file", key) as address:
            browser.open(f"{address}#runs")
            browser.wait("document.getElementById('runs-state').textContent.includes('asks for an API key')")
            check(browser.script("return document.getElementById('access').checkVisibility()"), "a view asks for the key")
            browser.captures("runs-key")
            browser.script("document.getElementById('key').focus()")
            browser.press(*"0123456789abcdef", ENTER)
            browser.wait(f"{CARDS}.length === 3")
            check(True, "and with it the runs come")


def check_quiet(browser, address):
    loaded = browser.script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    foreign = [name for name in loaded if not name.startswith((address, "data:"))]
    check(not foreign, f"nothing is loaded from elsewhere {foreign or ''}")
    log = console(browser.session)
    # Chromium itself writes of every answer that is an error, which this check asks for.
    meant = re.compile(r"status of (400|401|429)|ERR_INCOMPLETE_CHUNKED_ENCODING")
    log = [entry for entry in log if not meant.search(entry["message"])]
    check(not log, f"nothing in the console {log or ''}")


server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
with driver(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    browser = Browser(profile)
    try:
        if len(sys.argv) > 2 and not sys.argv[2].startswith("http"):
            check_program(browser, Path(sys.argv[2]).resolve())
        elif len(sys.argv) > 2:
            check_real(browser, sys.argv[2])
        else:
            check_page(browser, f"http://127.0.0.1:{server.server_port}/")
    finally:
        call(browser.session, method="DELETE")
end()
