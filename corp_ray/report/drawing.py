"""One plot as inline SVG that follows the page's colours and font, and as PNG; the same bytes always.

A plot is drawn with the colour of a role. For SVG each role is a placeholder that becomes the
page's custom property, so that light and dark are the page's business; a PNG is light.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Roles and their light colours; style.css has both schemes. d0..d8 is the diverging scale.
LIGHT = {
    "ink": "#1f1e1b",
    "muted": "#5f5b53",
    "line": "#d9d5cb",
    "paper": "#ffffff",
    "blue": "#0f5fa6",
    "orange": "#b04a00",
    "blue-soft": "#b9d3ea",
    "d0": "#eba673",
    "d1": "#f1bf9a",
    "d2": "#f6d6be",
    "d3": "#faeadf",
    "d4": "#f4f2ed",
    "d5": "#e1ebf4",
    "d6": "#c5daec",
    "d7": "#a6c7e3",
    "d8": "#86b3da",
}
PLACEHOLDERS = {role: f"#0a0b{number:02x}" for number, role in enumerate(LIGHT, 1)}
SCALE = [f"d{step}" for step in range(9)]

_SVG = "http://www.w3.org/2000/svg"
_PNG_SCALE = 2
_LINK = "{http://www.w3.org/1999/xlink}href"
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
}
Colours = Callable[[str], str]
Draw = Callable[[Axes, Colours], None]


@dataclass(frozen=True)
class Plot:
    """What to draw, and in words: `name` is its file's, `title` and `text` the page's; `text` says
    what is to be seen for those who cannot see it. Width and height in pixels."""

    name: str
    title: str
    text: str
    draw: Draw
    width: int = 400
    height: int = 280


def _drawn(plot: Plot, colours: Colours, *, scale: int = 1) -> Figure:
    size = plot.width / 72, plot.height / 72  # a point is a pixel at scale 1
    figure = Figure(figsize=size, dpi=72 * scale, layout="constrained")
    figure.patch.set_facecolor(colours("paper"))
    axes = figure.add_subplot()
    axes.set_facecolor(colours("paper"))
    axes.tick_params(color=colours("line"), labelcolor=colours("muted"))
    for spine in axes.spines.values():
        spine.set_color(colours("line"))
    axes.xaxis.label.set_color(colours("muted"))
    axes.yaxis.label.set_color(colours("muted"))
    plot.draw(axes, colours)
    return figure


def _with_settings(make: Callable[[], bytes], name: str) -> bytes:
    """`make` under the same settings whatever the user's own matplotlib settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        matplotlib.rcParams["svg.hashsalt"] = name
        return make()


def to_png(plot: Plot) -> bytes:
    """A PNG file in the light colours, two pixels for one."""

    def make() -> bytes:
        target = io.BytesIO()
        canvas = FigureCanvasAgg(_drawn(plot, LIGHT.__getitem__, scale=_PNG_SCALE))
        canvas.print_png(target, metadata={"Software": None})
        return target.getvalue()

    return _with_settings(make, plot.name)


def to_svg(plot: Plot) -> str:
    """An <svg> element for an HTML page, its ids begun with the plot's name."""

    def make() -> bytes:
        target = io.BytesIO()
        canvas = FigureCanvasSVG(_drawn(plot, PLACEHOLDERS.__getitem__))
        canvas.print_svg(target, metadata={"Date": None, "Creator": None})
        return target.getvalue()

    return _for_page(_with_settings(make, plot.name).decode(), plot.name)


def _for_page(text: str, name: str) -> str:
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):  # a style would be one for the whole page
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # HTML knows svg without its namespace
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            key = "href" if key == _LINK else key
            element.set(key, _attribute(key, value, name))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("aria-hidden", "true")  # the figure around it says what it shows
    root.set("focusable", "false")
    root.tail = None
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(key: str, value: str, name: str) -> str:
    """An attribute with the page's colours and font, and ids that no other plot has."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    value = value.replace("url(#", f"url(#{name}-")
    if key == "style":
        # matplotlib 3.11 writes weight, size and family apart, older ones as one.
        value = re.sub(r"font: ([\d.]+)px [^;]*", r"font-size: \1px", value)
        value = re.sub(r"font: (\w+) ([\d.]+)px [^;]*", r"font-weight: \1; font-size: \2px", value)
        value = re.sub(r"font-family: [^;]*; ?", "", value)
        for role, placeholder in PLACEHOLDERS.items():
            value = value.replace(placeholder, f"var(--{role})")
    return value
