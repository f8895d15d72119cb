"""The page of a report: what it holds, and its HTML with everything inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources

from ..errors import require


@dataclass(frozen=True)
class Chart:
    """A heading and the JSON of a plotly figure (`polydit.platform.evaluation.figures.encode_figure`)."""

    title: str
    figure: str


@dataclass(frozen=True)
class Flag:
    """A property that a sample has or lacks."""

    name: str
    value: bool


@dataclass(frozen=True)
class Card:
    """One sample of a gallery.

    Args:
        title, caption: plain text, escaped on the page.
        index: position in the run.
        seed: of its request.
        flags: yes-or-no columns of its row.
        figure: JSON of a figure to turn; empty: none.
        poster: trusted SVG markup of its still view; empty: none.
        image: data address of a still picture; empty: none.
    """

    title: str
    caption: str
    index: int
    seed: int
    flags: list[Flag] = field(default_factory=list)
    figure: str = ""
    poster: str = ""
    image: str = ""


@dataclass(frozen=True)
class GallerySection:
    """The cards of one gallery.

    Args:
        title, note: plain text.
        cards: samples one by one.
        overview: data address of a still picture of all of them; empty: none.
        caption: of that picture, plain text.
    """

    title: str
    note: str
    cards: list[Card]
    overview: str = ""
    caption: str = ""


@dataclass(frozen=True)
class MetricLine:
    """One number as text; `bar` is trusted SVG markup."""

    name: str
    value: str
    interval: str
    count: str
    bar: str
    meaning: str


@dataclass(frozen=True)
class MetricGroup:
    """The numbers that share a prefix."""

    name: str
    metrics: list[MetricLine]


@dataclass(frozen=True)
class Page:
    """Everything a report shows; text is plain and escaped when rendered.

    Args:
        title: heading.
        stage: ``test`` or ``predict``.
        summary: one sentence.
        version: of polydit.
        date: when it was written.
        facts: (name, value) of what was run.
        configurations: (file name, text) of the saved configurations.
        metrics, galleries, histograms, losses: the sections; each says so itself where it is empty.
        gallery_note: what to say where there is no gallery.
    """

    title: str
    stage: str
    summary: str
    version: str
    date: str
    facts: list[tuple[str, str]]
    configurations: list[tuple[str, str]]
    metrics: list[MetricGroup]
    galleries: list[GallerySection]
    histograms: list[Chart]
    losses: list[Chart]
    gallery_note: str

    @property
    def explained(self) -> bool:
        """Whether any metric says what it means."""
        return any(metric.meaning for group in self.metrics for metric in group.metrics)


def render_page(page: Page) -> str:
    """HTML of a page in one file: style, script, plotly's own script and all data are inside, nothing is loaded."""
    jinja = require("jinja2", "report")
    offline = require("plotly.offline", "report")
    environment = jinja.Environment(
        autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(read_template("report.html.j2"))
    html: str = template.render(
        page=page, style=read_template("report.css"), script=read_template("report.js"), plotly=offline.get_plotlyjs(),
    )
    return html


def read_template(name: str) -> str:
    """Text of a file of the templates folder."""
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")
