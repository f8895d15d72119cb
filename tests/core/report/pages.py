"""What a browser would make of a page, for tests: its parts, its text and everything it would load."""

from __future__ import annotations

import re
from html.parser import HTMLParser

LOADING = {"src", "href", "srcset", "data", "poster", "action", "formaction", "background", "xlink:href", "ping"}
VOID = {"meta", "link", "br", "img", "input", "hr"}


class PageReader(HTMLParser):
    """Collects elements, addresses and visible text; style and script are kept apart."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in LOADING]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag, tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        kind = self._open[-1] if self._open else ""
        {"script": self.scripts, "style": self.styles}.get(kind, self.words).append(data)


def assert_loads_nothing(text: str) -> None:
    """The page refers to itself and to data inside it alone, and forbids its scripts the network."""
    page = PageReader(text)
    outside = [address for address in page.addresses if not address.startswith(("#", "data:"))]
    assert not outside
    assert not re.search(r"@import|url\(\s*['\"]?\s*(?!data:|#)", "".join(page.styles))
    assert not {"iframe", "object", "embed", "base", "video", "audio"} & set(page.tags)
    assert "default-src 'none'" in text and "connect-src" not in text
