"""report.html from report.json's content and the plots: one file that needs no other and no script.

Model output and questions are untrusted: everything is escaped by the template engine, and the
page's own policy allows no script, no request and no foreign style.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from corp_ray.config import flat
from corp_ray.report.drawing import Plot, to_svg
from corp_ray.report.figures_structure import statistics
from corp_ray.report.verdict import points

LONG = 240  # characters of a text that are shown unfolded
_LONG_LINES = 6
_MISSING = "–"


def page(content: Mapping[str, Any], plots: Mapping[str, Sequence[Plot]]) -> str:
    """The whole page. `plots` as `figures.plots` gives them."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "points": points,
        "count": lambda value: _MISSING if value is None else f"{value:,}",
        "fixed": lambda value, digits=3: _MISSING if value is None else f"{value:.{digits}f}",
        "number": number,
        "span": span,
        "percent": lambda value: _MISSING if value is None else f"{100 * value:.1f} %",
        "plain": plain,
        "setting": setting,
    }
    figures = {
        part: [(plot, Markup(to_svg(plot))) for plot in some] for part, some in plots.items()
    }
    return environment.from_string(_read("template.html")).render(
        content,
        style=Markup(_read("style.css")),
        figures=figures,
        statistics=statistics(content["diagnosis"] or {}),
        bars=bars((content["summary"] or {"rows": []})["rows"]),
        entries=list(flat(content["environment"], empty=True)),
        is_long=is_long,
        preview=preview,
        notes=notes,
    )


def _read(name: str) -> str:
    return resources.files("corp_ray.report").joinpath(name).read_text("utf-8")


def number(value: Any) -> str:
    """Any number as short as it can be told from others; None as a dash."""
    if value is None:
        return _MISSING
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def span(seconds: float | None) -> str:
    """A duration in the units that people use: 8.2 s, 7 min 25 s, 3 h 20 min."""
    if seconds is None:
        return _MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def setting(value: Any) -> str:
    """A setting as a configuration file has it; None, where there is no default, as a dash."""
    if value is None:
        return _MISSING
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def plain(text: str) -> str:
    """Text as it is, its control characters (lines and tabs excepted) as visible symbols."""
    return "".join(
        c
        if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs")
        else (chr(0x2400 + ord(c)) if ord(c) < 32 else "\ufffd")
        for c in text
    )


def is_long(text: str) -> bool:
    """Whether a text is folded."""
    return len(text) > LONG or text.count("\n") >= _LONG_LINES


def preview(text: str) -> str:
    """The beginning of a text that is folded."""
    return "\n".join(text[: LONG // 2].split("\n")[: _LONG_LINES // 2])


def notes(row: Mapping[str, Any]) -> list[str]:
    """What the summary says below a model's name."""
    found, chosen, vote = [], row["chosen"], row["vote"]
    if chosen:
        known = (("quantile", "quantile"), ("inverse temperature", "inverse_temperature"))
        parts = [(name, chosen.get(key)) for name, key in (*known, ("step", "step"))]
        found.append(", ".join(f"{name} {number(one)}" for name, one in parts if one is not None))
        if chosen.get("validation") is not None:
            found.append(f"validation {chosen['validation']:.3f}")
    if vote:
        found.append(
            f"{vote['ties']:,} ties, {vote['invalid_answers']:,} invalid answers, "
            f"{vote['no_answer']:,} without an answer"
        )
    if row["note"]:
        found.append(row["note"])
    elif row["abstained"]:
        found.append("abstained")
    return found


def bars(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float] | None]:
    """Where a row's interval lies on a track from 0 to 100 that all rows share; None without one."""
    with_interval = [row for row in rows if row["low"] is not None and row["high"] is not None]
    if not with_interval:
        return [None for _ in rows]
    low = min(0.0, *(row["low"] for row in with_interval))
    high = max(0.0, *(row["high"] for row in with_interval))
    length = (high - low) or 1.0

    def at(value: float) -> float:
        return round(3 + 94 * (value - low) / length, 2)

    return [
        {
            "zero": at(0.0),
            "left": at(row["low"]),
            "width": round(at(row["high"]) - at(row["low"]), 2),
            "dot": at(row["gain"]),
        }
        if row in with_interval
        else None
        for row in rows
    ]
