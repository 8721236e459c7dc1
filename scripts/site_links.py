#!/usr/bin/env python3
"""A preprocessor of mdBook: links from a page to a file outside of docs/ become links to the repository.

mdBook gives the book as JSON and takes it back. That each link leads to something is checked by a test
(crates/lorafit/tests/integration/links.rs).
"""

import json
import posixpath
import re
import sys

LINK = re.compile(r"\]\((\.\.?/[^)#]*)(#[^)]*)?\)")


def outward(text: str, page: str, repository: str) -> str:
    """The text of the page docs/`page`, with links that lead out of docs/ absolute."""

    def target(match: re.Match) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), match[1]))
        if path.startswith("docs/"):
            return match[0]
        return f"]({repository}/blob/main/{path}{match[2] or ''})"

    return LINK.sub(target, text)


def visit(item: dict, repository: str) -> None:
    chapter = item.get("Chapter") if isinstance(item, dict) else None
    if not chapter:
        return
    if chapter["path"]:
        chapter["content"] = outward(chapter["content"], chapter["path"], repository)
    for below in chapter["sub_items"]:
        visit(below, repository)


def main() -> int:
    if sys.argv[1:2] == ["supports"]:
        return 0
    context, book = json.load(sys.stdin)
    repository = context["config"]["output"]["html"]["git-repository-url"]
    # Named `sections` before mdBook 0.5.
    for item in book.get("items") or book["sections"]:
        visit(item, repository)
    json.dump(book, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
