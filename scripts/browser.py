"""What the checks of pages share: headless Chromium by chromedriver, and what they print.

Needs chromium and chromedriver, and of Python the standard library only.
"""

import contextlib
import json
import subprocess
import sys
import time
import urllib.request

PORT = 9517
ARGUMENTS = (
    "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"
)

# JavaScript: `rgba(colour)`, `luminance(rgba)` (WCAG 2.1) and `behind(element)`, the nearest background behind an element.
COLOURS = """
const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
};
const luminance = ([r, g, b]) => [r, g, b]
  .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
  .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = rgba(getComputedStyle(at).backgroundColor);
    if (colour[3] > 0.99) return colour;
  }
  return [1, 1, 1, 1];
};
"""

# JavaScript: what is wrong with the headings that are seen: the first is no h1, another is one, or one skips a level (WCAG 2.1,
# technique G141).
HEADINGS = """
const all = [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].filter((heading) => heading.checkVisibility());
const level = (heading) => Number(heading.tagName[1]);
return all.flatMap((heading, at) => {
  const most = at === 0 ? 1 : level(all[at - 1]) + 1;
  const fine = at === 0 ? level(heading) === 1 : level(heading) > 1 && level(heading) <= most;
  return fine ? [] : [`${heading.tagName} ${heading.textContent.trim().slice(0, 40)}`];
});
"""

failures = []


def call(path, body=None, method="POST"):
    """Asks the driver."""
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


def end():
    """Ends the program, with an error if a check failed."""
    sys.exit(f"{len(failures)} failed" if failures else 0)


@contextlib.contextmanager
def driver():
    """Chromedriver, ready, until the end of the block."""
    process = subprocess.Popen(["chromedriver", f"--port={PORT}"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                call("/status", method="GET")
                break
            except OSError:
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def open_session(profile):
    """Opens a browser with an empty profile; gives the address of its session."""
    arguments = [f"--{argument}" for argument in ARGUMENTS.split()] + [f"--user-data-dir={profile}"]
    options = {
        "browserName": "chrome",
        "goog:chromeOptions": {"args": arguments},
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    return "/session/" + call("/session", {"capabilities": {"alwaysMatch": options}})["sessionId"]


def console(session):
    """Warnings and errors in the console."""
    return [e for e in call(f"{session}/se/log", {"type": "browser"}) if e["level"] in ("SEVERE", "WARNING")]
