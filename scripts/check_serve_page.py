"""Opens the page of `lorafit serve` in headless Chromium, with a small server that answers as its API does: models come,
messages go to both, answers stream, stop and fail, keys are asked for, tokens say how likely they were; texts of models
stay text, fields have names, the keyboard reaches all, letters have a contrast of 4.5, nothing is wider than the window,
nothing is in the console, nothing is loaded from elsewhere. Takes screenshots, light and dark, 1280 and 400 pixels wide.

    python3 scripts/check_serve_page.py SCREENSHOT_FOLDER
    python3 scripts/check_serve_page.py SCREENSHOT_FOLDER http://127.0.0.1:8080/

With the address of a server that runs, its page is opened, and its models are asked and stopped.

Needs chromium and chromedriver, and of Python the standard library only.
"""

import base64
import json
import math
import re
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from browser import COLOURS, call, check, console, driver, end, open_session

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
KEY = "of-the-check"
SOURCE = Path(__file__).parent.parent / "crates/serve/src/page"

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
asked = []
stopped = threading.Event()


def page():
    """The page and its policy as the server sends them."""
    shell, style, script = ((SOURCE / f"page.{kind}").read_text() for kind in ("html", "css", "js"))
    policy = re.search(r'let policy = format!\(\s*"(.*?)"\s*\)', (SOURCE / "mod.rs").read_text(), re.DOTALL)[1]
    policy = re.sub(r"\\\n\s*", "", policy).replace("{nonce}", "check")
    return shell.replace("{style}", style).replace("{nonce}", "check").replace("{script}", script, 1), policy


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    needs_key = False

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
            self.reply(200, {"object": "list", "data": models + [{"id": "broken", "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.is_refused():
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
    browser.captures("empty")
    hidden = "const hidden = [...document.querySelectorAll('[hidden]')]; hidden.forEach((part) => (part.hidden = false));"
    browser.script(hidden + "document.getElementById('parameters').open = true; window.shownForNow = hidden")
    unnamed = [field for field, name in browser.fields() if not name.strip()]
    browser.script("window.shownForNow.forEach((part) => (part.hidden = true)); document.getElementById('parameters').open = false")
    check(not unnamed, f"every field has a name {unnamed or ''}")
    browser.script("document.activeElement.blur(); window.scrollTo(0, 0)")
    order = []
    for _ in range(8):
        browser.press(TAB)
        order.append(browser.script("return document.activeElement.id || document.activeElement.tagName"))
    expected = ["A", "model-0", "model-1", "strength-1", "SUMMARY", "message", "send"]
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
    browser.set("max_tokens", 2000)
    browser.ask("Write a long story about the sea.", waits=False)
    browser.wait("document.querySelector('#turns > li:last-child .text').textContent.length > 20", 60)
    browser.script("document.getElementById('stop').click()")
    browser.wait("!document.getElementById('send').disabled")
    check(all(answer[2].endswith("stopped") for answer in browser.answers()), "answers can be stopped")
    check_quiet(browser, address)


def check_quiet(browser, address):
    loaded = browser.script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    foreign = [name for name in loaded if not name.startswith((address, "data:"))]
    check(not foreign, f"nothing is loaded from elsewhere {foreign or ''}")
    log = console(browser.session)
    # Chromium itself writes of every answer that is an error, which this check asks for.
    meant = re.compile(r"status of (401|429)|ERR_INCOMPLETE_CHUNKED_ENCODING")
    log = [entry for entry in log if not meant.search(entry["message"])]
    check(not log, f"nothing in the console {log or ''}")


server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
with driver(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    browser = Browser(profile)
    try:
        if len(sys.argv) > 2:
            check_real(browser, sys.argv[2])
        else:
            check_page(browser, f"http://127.0.0.1:{server.server_port}/")
    finally:
        call(browser.session, method="DELETE")
end()
