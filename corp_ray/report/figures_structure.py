"""The split-half analysis as one plot: every statistic beside what chance gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from corp_ray.report.drawing import Colours, Plot

Content = Mapping[str, Any]


def statistics(diagnosis: Content) -> list[tuple[str, Content]]:
    """The statistics that could be computed, each with its name."""
    named = [
        ("reliability", diagnosis.get("reliability")),
        ("direction cosine", diagnosis.get("direction_cosine")),
        *(
            (f"subspace, rank {one['rank']}", one)
            for one in diagnosis.get("subspace_overlap") or ()
        ),
    ]
    return [(name, one) for name, one in named if one and one.get("value") is not None]


def structure_plot(diagnosis: Content) -> Plot:
    """Values as dots, the null from its mean to its 95th percentile as bars."""
    shown = statistics(diagnosis)

    def draw(axes: Axes, colours: Colours) -> None:
        for place, (_, one) in enumerate(shown):
            null, bound = one.get("null_mean"), one.get("null_p95")
            if null is not None and bound is not None:
                axes.plot(
                    [null, bound],
                    [place, place],
                    color=colours("line"),
                    linewidth=9,
                    solid_capstyle="butt",
                    zorder=1,
                )
                axes.plot(
                    [bound],
                    [place],
                    marker="|",
                    markersize=12,
                    markeredgewidth=1.6,
                    color=colours("muted"),
                    zorder=2,
                )
            beyond = bound is not None and one["value"] > bound
            colour = colours("blue" if beyond else "muted")
            axes.plot(
                [one["value"]],
                [place],
                marker="o",
                markersize=8,
                markeredgewidth=2,
                color=colour if beyond else colours("paper"),
                markeredgecolor=colour,
                zorder=3,
            )
        axes.axvline(0, color=colours("line"), linewidth=0.8, zorder=0)
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.margins(x=0.08)
        axes.set_xlabel("agreement of two halves of the examples")

    text = (
        "Dots: how far two halves of the support examples agree, filled beyond chance. Bars: chance, "
        f"from its mean to its 95th percentile. {_said(diagnosis)}"
    )
    return Plot(
        "split-half",
        "Would other questions agree?",
        text,
        draw,
        height=76 + 26 * max(len(shown), 1),
    )


def _said(diagnosis: Content) -> str:
    """The plot's main numbers as sentences."""
    found = []
    for name, key in (("Reliability", "reliability"), ("Direction cosine", "direction_cosine")):
        one = diagnosis.get(key)
        if one and one.get("value") is not None:
            bound = one.get("null_p95")
            chance = "" if bound is None else f" (95 % of chance below {bound:.2f})"
            found.append(f"{name} {one['value']:.2f}{chance}.")
    ranks = diagnosis.get("subspace_overlap") or []
    known = [one for one in ranks if None not in (one.get("value"), one.get("null_p95"))]
    beyond = [str(one["rank"]) for one in known if one["value"] > one["null_p95"]]
    if known:
        found.append(f"Ranks of subspaces beyond chance: {', '.join(beyond) or 'none'}.")
    return " ".join(found)
