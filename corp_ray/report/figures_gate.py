"""The gate's looks, and how rewards went from round to round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from corp_ray.report.drawing import Colours, Plot
from corp_ray.report.verdict import points

Content = Mapping[str, Any]


def gate_plot(looks: Sequence[Content]) -> Plot:
    """Each look's gain with its lower bound against the threshold."""

    def draw(axes: Axes, colours: Colours) -> None:
        gains = [100 * value for look in looks for value in (look["mean"], look["lower"])]
        threshold = 100 * looks[-1]["threshold"]
        axes.axvline(threshold, color=colours("orange"), linewidth=1.4, linestyle=(0, (5, 3)))
        for place, look in enumerate(looks):
            mean, lower = 100 * look["mean"], 100 * look["lower"]
            colour = colours("blue" if look["accepted"] else "muted")
            face = colour if look["accepted"] else colours("paper")
            axes.plot([lower, mean], [place, place], color=colour, linewidth=2.2)
            axes.plot([lower], [place], marker="|", markersize=11, markeredgewidth=2, color=colour)
            axes.plot(
                [mean],
                [place],
                marker="o",
                markersize=8,
                color=face,
                markeredgewidth=2,
                markeredgecolor=colour,
            )
            said = f"{'accepted' if look['accepted'] else 'rejected'} {points(look['mean'])}"
            axes.annotate(
                said,
                (mean, place),
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                color=colours("ink"),
                bbox={"facecolor": colours("paper"), "edgecolor": "none", "pad": 1},
            )
        span = max(*gains, threshold) - min(*gains, threshold) or 1.0
        axes.set_xlim(min(*gains, threshold) - 0.18 * span, max(*gains, threshold) + 0.22 * span)
        axes.set_ylim(len(looks) - 0.4, -0.8)
        axes.set_yticks(range(len(looks)), [_look_name(look) for look in looks])
        axes.set_xlabel("gain on held-out items, points")

    said = "; ".join(
        f"{_look_name(look).replace(chr(10), ', ')}: {points(look['mean'])} points, lower bound "
        f"{points(look['lower'])}, {'accepted' if look['accepted'] else 'rejected'}"
        for look in looks
    )
    text = (
        "The dot is the mean gain, the bar ends at its one-sided lower bound. "
        f"{said[:1].upper()}{said[1:]}. "
        f"The dashed line is the threshold, {100 * looks[-1]['threshold']:g} points."
    )
    return Plot("gate", "Looks at the gate", text, draw, height=86 + 54 * len(looks))


def _look_name(look: Content) -> str:
    where = "superseded" if look["superseded"] else f"round {look['round']}"
    return f"look {look['look']}\n{where}"


def rounds_plot(rounds: Sequence[Content]) -> Plot:
    """Center, median and best candidate of every round on support."""

    def draw(axes: Axes, colours: Colours) -> None:
        numbers = [one["round"] for one in rounds]
        drawn = (
            ("best", "best candidate", "blue", "o", "-"),
            ("median", "median candidate", "muted", "s", "-"),
            ("center", "center", "orange", "D", (0, (5, 3))),
        )
        for name, label, colour, marker, style in drawn:
            values = [np.nan if one[name] is None else one[name] for one in rounds]
            axes.plot(
                numbers,
                values,
                color=colours(colour),
                marker=marker,
                markersize=5,
                linewidth=1.6,
                label=label,
                linestyle=style,
            )
        for one in rounds:
            if one["accepted"]:
                axes.axvline(one["round"] + 0.5, color=colours("line"), linewidth=1, zorder=0)
        ends = ["accepted" if one["accepted"] else "rejected" for one in rounds]
        ticks = [f"{n}\n{end}" for n, end in zip(numbers, ends, strict=True)]
        axes.set_xticks(numbers, ticks)
        axes.set_xlim(numbers[0] - 0.3, numbers[-1] + 0.5)
        axes.margins(y=0.12)
        axes.set_xlabel("round")
        axes.set_ylabel("mean reward on support")
        axes.legend(frameon=False, labelcolor=colours("ink"), fontsize=11, loc="best")

    said = "; ".join(
        f"round {one['round']}: center {one['center']:.3f}, best {one['best']:.3f}"
        for one in rounds
    )
    return Plot("rounds", "Round by round", f"Rewards on support. R{said[1:]}.", draw)
