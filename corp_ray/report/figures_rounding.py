"""What rounding leaves of a step, tensor by tensor, as one plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from corp_ray.report.drawing import Colours, Plot

Content = Mapping[str, Any]


def rounding_plot(rounding: Content) -> Plot:
    """Per tensor, in the model's order, how much of the change meant was made, and where it points."""
    rows, total = rounding["rows"], rounding["total"]

    def draw(axes: Axes, colours: Colours) -> None:
        places = range(1, len(rows) + 1)
        for key, colour, marker in (("ratio", "blue", "o"), ("cosine", "orange", "D")):
            axes.scatter(
                places,
                [row[key] for row in rows],
                s=13,
                marker=marker,
                alpha=0.8,
                linewidths=0,
                color=colours(colour),
                zorder=2,
                label="made / meant" if key == "ratio" else "cosine",
            )
        axes.axhline(1, color=colours("line"), linewidth=0.8, zorder=0)
        axes.set_ylim(bottom=min(0.0, *(row["cosine"] for row in rows)) - 0.05)
        axes.set_xlabel("tensor, in the model’s order")
        axes.legend(loc="lower left", frameon=False, labelcolor=colours("muted"), handletextpad=0.2)

    lowest = min(rows, key=lambda row: row["cosine"])
    text = (
        f"Circles: size of the change that was made over the one meant; diamonds: cosine of both. In "
        f"all {total['changed']:.1%} of the weights change, with ratio {total['ratio']:.3f} and "
        f"cosine {total['cosine']:.4f}; the lowest cosine of {len(rows):,} tensors is "
        f"{lowest['cosine']:.4f}."
    )
    return Plot("rounding", "What rounding leaves of the step", text, draw)
