"""Opens a page of `lorafit data --html` in headless Chromium: no errors, nothing loaded, search, order and ids work, no row
is broken out of, nothing is wider than the window. Takes screenshots, light and dark, and prints it to PDF.

    python3 scripts/check_data_page.py PAGE.html SCREENSHOT_FOLDER

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

        call(f"{session}/url", {"url": page.as_uri()})
        rows = script("return document.querySelectorAll('article').length")
        check(rows > 0, f"{rows} rows are shown")
        check(script("return performance.getEntriesByType('resource').length") == 0, "nothing is loaded")
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

        def capture(name, width, dark=False, ids=False, top=None):
            features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            cdp("Emulation.setEmulatedMedia", features=features)
            cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
            script(f"const i = document.getElementById('ids'); if (i.checked !== {json.dumps(ids)}) i.click()")
            script(f"document.querySelector('{top}').scrollIntoView()" if top else "window.scrollTo(0, 0)")
            wide = script("return document.documentElement.scrollWidth")
            check(wide <= width, f"{name}: {wide} of {width} pixels wide")
            shot = base64.b64decode(call(f"{session}/screenshot", method="GET"))
            (folder / f"{name}.png").write_bytes(shot)

        capture("light-1280", 1280)
        capture("dark-1280", 1280, dark=True)
        capture("light-400", 400)
        capture("dark-400-rows", 400, dark=True, top="#controls")
        capture("rows-1280", 1280, top="#controls")
        type_query(words)
        capture("found-1280", 1280, top="#controls")
        type_query("")
        capture("ids-1280", 1280, ids=True, top="#controls")
        capture("ids-400", 400, ids=True, top="#controls")
        script("document.getElementById('ids').click()")
        pdf = cdp("Page.printToPDF", printBackground=True)["data"]
        (folder / "print.pdf").write_bytes(base64.b64decode(pdf))
        log = [e for e in call(f"{session}/se/log", {"type": "browser"}) if e["level"] in ("SEVERE", "WARNING")]
        check(not log, f"nothing in the console {log or ''}")
        call(session, method="DELETE")
finally:
    driver.terminate()
    driver.wait()
sys.exit(f"{len(failures)} failed" if failures else 0)
