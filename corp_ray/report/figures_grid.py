"""The proposals of a round on validation as heat maps, one for each quantile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from corp_ray.report.drawing import SCALE, Colours, Plot

Content = Mapping[str, Any]


def shade(value: float, base: float, reach: float) -> str:
    """The role of a mean on the diverging scale: d4 is the base's, d0 and d8 are `reach` away."""
    middle = len(SCALE) // 2
    if reach <= 0:
        return SCALE[middle]
    step = round(middle * (value - base) / reach)
    return SCALE[min(max(middle + step, 0), len(SCALE) - 1)]


def grid_plots(grid: Content, named: bool) -> list[Plot]:
    """Step by inverse temperature, a plot for each quantile; all on one scale around the base.

    `named`: whether the round must be said, as there are several.
    """
    proposals = grid["proposals"]
    means = [p["validation"] for p in proposals]
    base = grid["base"] if grid["base"] is not None else min(means)
    reach = max(abs(mean - base) for mean in means)
    return [
        _quantile_plot(grid, quantile, base, reach, named and f"Round {grid['round']}, ")
        for quantile in grid["quantiles"]
    ]


def _quantile_plot(
    grid: Content, quantile: float, base: float, reach: float, prefix: str | bool
) -> Plot:
    cells = [p for p in grid["proposals"] if p["quantile"] == quantile]
    steps, betas = grid["steps"], grid["inverse_temperatures"]

    def draw(axes: Axes, colours: Colours) -> None:
        for p in cells:
            x, y = steps.index(p["step"]), betas.index(p["inverse_temperature"])
            axes.add_patch(
                Rectangle(
                    (x - 0.5, y - 0.5),
                    1,
                    1,
                    linewidth=1.5,
                    facecolor=colours(shade(p["validation"], base, reach)),
                    edgecolor=colours("paper"),
                )
            )
            chosen = p["id"] == grid["chosen"]
            axes.text(
                x,
                y,
                f"{100 * p['validation']:.1f}",
                ha="center",
                va="center",
                color=colours("ink"),
                fontsize=11,
                weight="bold" if chosen else "normal",
            )
            if chosen:
                axes.add_patch(
                    Rectangle(
                        (x - 0.44, y - 0.44),
                        0.88,
                        0.88,
                        fill=False,
                        zorder=3,
                        linewidth=2.2,
                        edgecolor=colours("ink"),
                    )
                )
        axes.set_xlim(-0.5, len(steps) - 0.5)
        axes.set_ylim(-0.5, len(betas) - 0.5)
        axes.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
        axes.set_yticks(range(len(betas)), [f"{beta:g}" for beta in betas])
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("step")
        axes.set_ylabel("inverse temperature")

    best = max(cells, key=lambda p: p["validation"], default=None)
    said = (
        "No proposal."
        if best is None
        else (
            f"Mean reward on validation, percent, by step and inverse temperature; highest "
            f"{100 * best['validation']:.1f} at step {best['step']:g}, inverse temperature "
            f"{best['inverse_temperature']:g}."
        )
    )
    if any(p["id"] == grid["chosen"] for p in cells):
        said += " The framed one was chosen."
    said += f" The base has {100 * grid['base']:.1f}." if grid["base"] is not None else ""
    name = f"grid-round{grid['round']}-q{grid['quantiles'].index(quantile)}"
    title = f"{prefix or ''}{'quantile' if prefix else 'Quantile'} {quantile:g}"
    return Plot(name, title, said, draw, height=max(190, 80 + 34 * len(betas)))
