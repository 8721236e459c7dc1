#!/usr/bin/env python3
"""Whether every link of a built site that stays within it leads to a file, and to a place that is there.

    scripts/check_site.py target/site
"""

import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The links of a page and the names of its places."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list) -> None:
        named = dict(attributes)
        self.places.update(filter(None, (named.get("id"), named.get("name"))))
        link = named.get("href") if tag in ("a", "link") else named.get("src")
        if link:
            self.links.append(link)


def main() -> int:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        print("usage: check_site.py FOLDER, where scripts/site.sh built it", file=sys.stderr)
        return 2
    site = Path(sys.argv[1]).resolve()
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    wrong, seen = [], 0
    for path, page in pages.items():
        # That one has links for every depth at once: the server puts it anywhere.
        if path.name == "404.html":
            continue
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            seen += 1
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            place = urllib.parse.unquote(parts.fragment)
            if not target.is_file():
                wrong.append(f"{path.relative_to(site)}: {link}: there is no such file")
            elif place and target in pages and place not in pages[target].places:
                wrong.append(f"{path.relative_to(site)}: {link}: there is no such place")
    print("\n".join(wrong) or f"{len(pages)} pages, {seen} links within them, all lead somewhere")
    return 1 if wrong or seen == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
