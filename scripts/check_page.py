"""Opens a page that lorafit wrote in headless Chromium: no errors, nothing loaded, every figure is drawn, nothing is wider
than the window. Takes screenshots, light and dark, 1280 and 400 pixels wide, the whole page too, and prints it to PDF.
Of a page of `lorafit data --html` also: search, order and ids work, no row is broken out of.

    python3 scripts/check_page.py PAGE.html SCREENSHOT_FOLDER

Needs chromium and chromedriver, and of Python the standard library only.
"""

import base64
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

page, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
PORT = 9517
ARGUMENTS = (
    "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"
)


def call(path, body=None, method="POST"):
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)["value"]


def check(holds, what):
    print(("ok      " if holds else "FAILED  ") + what)
    failures.append(what) if not holds else None


failures = []


def check_rows(script, capture):
    """What a page of rows does with them."""

    def type_query(text):
        return script(
            "const q = document.getElementById('query'); q.value = " + json.dumps(text) + ";"
            "q.dispatchEvent(new Event('input'));"
            "return [...document.querySelectorAll('article')].filter((a) => !a.hidden).length"
        )

    def choose(name, value):
        script(
            f"const s = document.getElementById('{name}'); s.value = '{value}';"
            "s.dispatchEvent(new Event('change'))"
        )

    rows = script("return document.querySelectorAll('article').length")
    check(rows > 0, f"{rows} rows are shown")
    check(script("return document.scripts.length") == 1, "one script")
    foreign = (
        "return [...document.querySelectorAll('pre *')].filter((e) => !['I', 'MARK', 'SPAN'].includes(e.tagName)).length"
    )
    check(script(foreign) == 0, "rows have no markup of their own")
    check(script("return window.hacked === undefined"), "no script of a row ran")

    check(type_query("") == rows, "an empty search shows all rows")
    check(type_query("no such words anywhere") == 0, "a search for what is not there shows none")
    first = "document.querySelector('article mark')"
    words = script(f"return {first}.textContent.replace(/\\s+/g, ' ').trim().split(' ').slice(0, 2).join(' ')")
    found = type_query(words)
    check(0 < found <= rows, f"{found} rows have {words!r}")
    check(script("return CSS.highlights.get('found').size") >= found, "what is found is marked")
    prompt = script("return document.querySelector('article h3').textContent.split(' ').slice(0, 2).join(' ')")
    everywhere = type_query(prompt)
    choose("where", "trained")
    check(everywhere > type_query(prompt), "a search in trained text finds nothing else")
    choose("where", "all")
    type_query("")

    tokens = "return [...document.querySelectorAll('article')].map((a) => Number(a.dataset.tokens))"
    in_file = script(tokens)
    choose("order", "longest")
    check(script(tokens) == sorted(in_file, reverse=True), "longest first")
    choose("order", "file")
    check(script(tokens) == in_file, "file order again")

    capture("dark-400-rows", 400, dark=True, top="#controls")
    capture("rows-1280", 1280, top="#controls")
    type_query(words)
    capture("found-1280", 1280, top="#controls")
    type_query("")
    script("document.getElementById('ids').click()")
    capture("ids-1280", 1280, top="#controls")
    capture("ids-400", 400, top="#controls")
    script("document.getElementById('ids').click()")


driver = subprocess.Popen(["chromedriver", f"--port={PORT}"], stdout=subprocess.DEVNULL)
try:
    for _ in range(100):
        try:
            call("/status", method="GET")
            break
        except OSError:
            time.sleep(0.1)
    with tempfile.TemporaryDirectory() as profile:
        arguments = [f"--{argument}" for argument in ARGUMENTS.split()] + [f"--user-data-dir={profile}"]
        options = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = "/session/" + call("/session", {"capabilities": {"alwaysMatch": options}})["sessionId"]

        def script(text):
            return call(f"{session}/execute/sync", {"script": text, "args": []})

        def cdp(command, **params):
            return call(f"{session}/goog/cdp/execute", {"cmd": command, "params": params})

        call(f"{session}/url", {"url": page.as_uri()})
        check(script("return performance.getEntriesByType('resource').length") == 0, "nothing is loaded")
        figures = script(
            "return [...document.querySelectorAll('svg')].map((svg) => [svg.querySelector('title')?.textContent ?? '',"
            " svg.getBoundingClientRect().height, svg.querySelectorAll('path, rect, circle').length])"
        )
        for title, height, shapes in figures:
            check(height > 50 and shapes > 2, f"figure {title!r} is drawn: {height:.0f} pixels high, {shapes} shapes")

        def capture(name, width, dark=False, top=None, whole=False):
            features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            cdp("Emulation.setEmulatedMedia", features=features)
            cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
            script(f"document.querySelector('{top}').scrollIntoView()" if top else "window.scrollTo(0, 0)")
            wide = script("return document.documentElement.scrollWidth")
            check(wide <= width, f"{name}: {wide} of {width} pixels wide")
            shot = cdp("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
            (folder / f"{name}.png").write_bytes(base64.b64decode(shot))

        for dark in (False, True):
            for width in (1280, 400):
                capture(f"{'dark' if dark else 'light'}-{width}", width, dark=dark)
        capture("whole-1280", 1280, whole=True)
        capture("whole-400", 400, whole=True)
        if script("return document.getElementById('query') !== null"):
            check_rows(script, capture)
        pdf = cdp("Page.printToPDF", printBackground=True)["data"]
        (folder / "print.pdf").write_bytes(base64.b64decode(pdf))
        log = [e for e in call(f"{session}/se/log", {"type": "browser"}) if e["level"] in ("SEVERE", "WARNING")]
        check(not log, f"nothing in the console {log or ''}")
        call(session, method="DELETE")
finally:
    driver.terminate()
    driver.wait()
sys.exit(f"{len(failures)} failed" if failures else 0)
