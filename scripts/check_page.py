"""Opens a page that lorafit wrote, or serves, in headless Chromium: no errors, nothing loaded from elsewhere, every figure is
drawn, nothing is wider than the window, letters have a contrast of 4.5 with what is behind them, no heading skips a level, no
label of a figure is struck by a line or overlaps another, letters of figures are 12 to 18 pixels high; the pointer on a curve tells its
values and a drag shows a part of it. Takes
screenshots, light and dark, 1280 and 400 pixels wide, the whole page too, and prints it to PDF.
Of a page of `lorafit data --html` also: search, order and ids work, no row is broken out of.

    python3 scripts/check_page.py PAGE.html SCREENSHOT_FOLDER
    python3 scripts/check_page.py http://127.0.0.1:8470/ SCREENSHOT_FOLDER

Needs chromium and chromedriver, and of Python the standard library only.
"""

import base64
import json
import sys
import tempfile
import time
from pathlib import Path

from browser import COLOURS, HEADINGS, call, check, console, driver, end, open_session

address = sys.argv[1] if sys.argv[1].startswith("http://127.0.0.1:") else Path(sys.argv[1]).resolve().as_uri()
folder = Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)

# Letters that are seen, each with the contrast to the nearest background behind it (WCAG 2.1, 1.4.3).
CONTRAST = COLOURS + """
const seen = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const found = [];
while (seen.nextNode()) {
  const element = seen.currentNode.parentElement;
  if (!seen.currentNode.data.trim() || element.closest('script, style, title, desc') || !element.checkVisibility?.()) continue;
  if (element.matches(':disabled')) continue;
  const style = getComputedStyle(element);
  let back = behind(element);
  const drawn = element.closest('svg');
  // Letters inside a bar of a figure.
  if (drawn) {
    const box = element.getBoundingClientRect();
    for (const bar of drawn.querySelectorAll('rect:not(.choice)')) {
      const over = bar.getBoundingClientRect();
      const inside = over.left <= box.left + 1 && over.right >= box.right - 1 && over.top <= box.top + 6 && over.bottom >= box.bottom - 6;
      const fill = rgba(getComputedStyle(bar).fill);
      if (inside && fill[3] > 0.99 && bar.compareDocumentPosition(element) & 4) back = fill;
    }
  }
  const letters = rgba(drawn ? style.fill : style.color);
  const [a, b] = [luminance(letters) + 0.05, luminance(back) + 0.05].sort((x, y) => y - x);
  if (a / b < 4.5) found.push(`${seen.currentNode.data.trim().slice(0, 40)}: ${(a / b).toFixed(2)}`);
}
return [...new Set(found)];
"""

# Of each figure the drawing that is seen: it has another for other widths.
DRAWN = "[...document.querySelectorAll('figure > svg')].filter((svg) => svg.checkVisibility())"

# Letters of figures that are not from 12 to 18 pixels high.
LETTERS = "const seen = " + DRAWN + """;
return [...new Set(seen.flatMap((svg) => [...svg.querySelectorAll('text')]).flatMap((text) => {
  const height = parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a;
  return height >= 12 && height <= 18 ? [] : [`${text.textContent}: ${height.toFixed(1)}`];
}))];
"""

# Labels of figures that overlap each other, or that a line strikes which is drawn over no plate of theirs.
LABELS = "const seen = " + DRAWN + """;
const found = [];
for (const svg of seen) {
  const name = svg.closest('figure').querySelector('h3, h4').textContent;
  const texts = [...svg.querySelectorAll('text')].map((text) => {
    const { left, top, right, bottom } = text.getBoundingClientRect();
    const room = (bottom - top) * 0.2;
    // The bar or the plate that hides lines behind it.
    const holds = (bar) => {
      const over = bar.getBoundingClientRect();
      return over.left <= left + 2 && over.right >= right - 2 && over.top <= top + room && over.bottom >= bottom - room;
    };
    const before = [...svg.querySelectorAll('rect')].filter((bar) => bar.compareDocumentPosition(text) & 4);
    const plate = before.findLast((bar) => getComputedStyle(bar).fill !== 'rgba(0, 0, 0, 0)' && holds(bar));
    return { text, plate, left: left + 1, right: right - 1, top: top + room, bottom: bottom - room };
  });
  texts.forEach((one, i) => {
    for (const other of texts.slice(i + 1)) {
      if (one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom)
        found.push(`${name}: ${one.text.textContent} overlaps ${other.text.textContent}`);
    }
  });
  const edge = svg.getBoundingClientRect();
  for (const { text, left, right } of texts) {
    if (left < edge.left - 2 || right > edge.right + 2) found.push(`${name}: ${text.textContent} is cut off`);
  }
  const [part] = svg.querySelectorAll('.plot.zoomed');
  const shown = part?.parentNode.querySelector(':scope > rect').getBoundingClientRect();
  for (const path of svg.querySelectorAll('path')) {
    const [length, matrix] = [path.getTotalLength(), path.getScreenCTM()];
    if (!matrix || !length) continue;
    const steps = Math.min(4000, Math.ceil(length));
    for (let i = 0; i <= steps; i++) {
      const at = path.getPointAtLength((length * i) / steps).matrixTransform(matrix);
      if (part?.contains(path) && !(at.y > shown.top && at.y < shown.bottom && at.x > shown.left && at.x < shown.right)) continue;
      const struck = texts.find((one) => at.x > one.left && at.x < one.right && at.y > one.top && at.y < one.bottom
        && !(one.plate && path.compareDocumentPosition(one.plate) & 4));
      if (struck) {
        found.push(`${name}: ${struck.text.textContent} is struck by a line`);
        break;
      }
    }
  }
}
return [...new Set(found)];
"""


PLOT = f"{DRAWN}.map((svg) => svg.querySelector('svg.plot')).find((plot) => plot)"


def check_curves(script, pointer, is_live):
    """What a curve does under the pointer."""
    middle = script(
        f"const plot = {PLOT}; if (!plot) return null; plot.scrollIntoView({{block: 'center'}});"
        "const grid = plot.closest('figure > svg').querySelector(':scope > rect').getBoundingClientRect();"
        "const path = plot.querySelector('.series path'); if (!path) return null;"
        "const at = path.getPointAtLength(path.getTotalLength() / 2).matrixTransform(path.getScreenCTM());"
        "return [grid.left, grid.top, grid.right, grid.bottom, at.x, at.y]"
    )
    if middle is None:
        return
    left, top, right, bottom, x, y = middle
    pointer([("move", x, y)])
    told = script("const told = document.querySelector('.told'); return told.hidden ? '' : told.textContent")
    check(len(told.split("\n")) == 3, f"the pointer on a curve tells {told!r}")
    view = f"return {PLOT}.getAttribute('viewBox')"
    ticks = f"return [...{PLOT}.parentNode.querySelectorAll('.grid text')].map((t) => t.textContent)"
    before, marks = script(view), script(ticks)
    quarter, height = (right - left) / 4, (top + bottom) / 2
    pointer([("move", left + quarter, height), ("down", 0, 0), ("move", right - quarter, height), ("up", 0, 0)])
    check(script(view) != before and script(ticks) != marks, f"a drag shows a part: {script(ticks)}")
    check(not script(LABELS), f"labels of a part are read {script(LABELS) or ''}")
    script("document.querySelector('figure > button:not([hidden])').click()")
    # A live page may have grown meanwhile.
    same = is_live or (script(view) == before and script(ticks) == marks)
    check(same and script("return document.querySelectorAll('.plot.zoomed').length") == 0, "all is shown again")


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
    check(script("return document.scripts.length") == 2, "two scripts: that of figures and that of rows")
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


with driver(), tempfile.TemporaryDirectory() as profile:
    session = open_session(profile)

    def script(text):
        return call(f"{session}/execute/sync", {"script": text, "args": []})

    def cdp(command, **params):
        return call(f"{session}/goog/cdp/execute", {"cmd": command, "params": params})

    call(f"{session}/url", {"url": address})
    is_live = address.startswith("http")
    if is_live:
        for _ in range(100):
            if script("return document.querySelectorAll('#runs article, #curves svg').length > 1"):
                break
            time.sleep(0.1)
    loaded = script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    own = [name for name in loaded if is_live and name.startswith(address)]
    check(loaded == own, f"nothing is loaded from elsewhere {loaded or ''}")

    def pointer(moves):
        actions = {
            "move": lambda x, y: {"type": "pointerMove", "duration": 50, "x": round(x), "y": round(y)},
            "down": lambda x, y: {"type": "pointerDown", "button": 0},
            "up": lambda x, y: {"type": "pointerUp", "button": 0},
        }
        mouse = {"type": "pointer", "id": "mouse", "actions": [actions[what](x, y) for what, x, y in moves]}
        call(f"{session}/actions", {"actions": [mouse]})
        time.sleep(0.1)

    figures = script(
        f"return {DRAWN}.map((svg) => [svg.parentNode.querySelector('h3, h4').textContent,"
        " svg.getBoundingClientRect().height, svg.querySelectorAll('path, rect, circle').length])"
    )
    total = script("return document.querySelectorAll('figure').length")
    check(len(figures) == total, f"of {total} figures one drawing each is seen: {len(figures)}")
    for title, height, shapes in figures:
        check(height > 50 and shapes > 2, f"figure {title!r} is drawn: {height:.0f} pixels high, {shapes} shapes")

    def capture(name, width, dark=False, top=None, whole=False):
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        cdp("Emulation.setEmulatedMedia", features=features)
        cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        script(f"document.querySelector('{top}').scrollIntoView()" if top else "window.scrollTo(0, 0)")
        wide = script("return document.documentElement.scrollWidth")
        check(wide <= width, f"{name}: {wide} of {width} pixels wide")
        faint = script(CONTRAST)
        check(not faint, f"{name}: letters stand out {faint or ''}")
        skipped = script(HEADINGS)
        check(not skipped, f"{name}: headings follow each other without a gap {skipped or ''}")
        faults = script(LABELS)
        check(not faults, f"{name}: labels are read {faults or ''}")
        sizes = script(LETTERS)
        check(not sizes, f"{name}: letters of figures are 12 to 18 pixels high {sizes or ''}")
        shot = cdp("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        (folder / f"{name}.png").write_bytes(base64.b64decode(shot))

    for dark in (False, True):
        for width in (1280, 400):
            capture(f"{'dark' if dark else 'light'}-{width}", width, dark=dark, whole=True)
    capture("first-1280", 1280)
    check_curves(script, pointer, is_live)
    if script("return document.getElementById('query') !== null"):
        check_rows(script, capture)
    pdf = cdp("Page.printToPDF", printBackground=True)["data"]
    (folder / "print.pdf").write_bytes(base64.b64decode(pdf))
    log = console(session)
    check(not log, f"nothing in the console {log or ''}")
    call(session, method="DELETE")
end()
