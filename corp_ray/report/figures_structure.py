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

    said = "; ".join(f"{name} {one['value']:.2f}{_chance(one)}" for name, one in shown)
    text = (
        "Dots: how far two halves of the support examples agree. Bars: the same under chance, from "
        f"its mean to its 95th percentile. {said[:1].upper()}{said[1:]}."
    )
    return Plot(
        "split-half",
        "Would other questions agree?",
        text,
        draw,
        height=76 + 26 * max(len(shown), 1),
    )


def _chance(one: Content) -> str:
    bound = one.get("null_p95")
    return "" if bound is None else f" (chance below {bound:.2f})"
