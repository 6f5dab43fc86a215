"""A population's rewards: against sigma, and how often which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from corp_ray.report.drawing import Colours, Plot

Content = Mapping[str, Any]
_GOLDEN = 0.618_033_988_749_895  # its multiples spread points evenly, without a random number


def _base_line(axes: Axes, colours: Colours, value: float | None, *, upright: bool = False) -> None:
    if value is not None:
        line = axes.axvline if upright else axes.axhline
        line(value, color=colours("orange"), linewidth=1.4, linestyle=(0, (5, 3)), zorder=1)


def _box(axes: Axes, colours: Colours, place: float, one: Content) -> None:
    """Quartiles and median as a box, the extremes as a line."""
    low, high = one["lower_quartile"], one["upper_quartile"]
    ends = [one["minimum"], one["maximum"]]
    axes.plot([place, place], ends, linewidth=1, color=colours("muted"), zorder=2)
    axes.bar(
        place,
        high - low,
        bottom=low,
        width=0.24,
        linewidth=1,
        zorder=2,
        color=colours("blue-soft"),
        edgecolor=colours("muted"),
    )
    middle = [one["median"]] * 2
    axes.plot([place - 0.12, place + 0.12], middle, linewidth=2, color=colours("ink"), zorder=3)


def sigma_plot(population: Content) -> Plot:
    """Every candidate's mean reward by its sigma, with quartiles; the base as a line."""
    by_sigma, base = population["sigmas"], population["base"]
    candidates = population["candidates"]

    def draw(axes: Axes, colours: Colours) -> None:
        for place, one in enumerate(by_sigma):
            means = [c["mean"] for c in candidates if c["sigma"] == one["sigma"]]
            offsets = (np.arange(len(means)) * _GOLDEN) % 1.0
            axes.scatter(
                place - 0.36 + 0.28 * offsets,
                means,
                s=15,
                alpha=0.75,
                linewidths=0,
                color=colours("blue"),
                zorder=3,
            )
            _box(axes, colours, place + 0.16, one)
        _base_line(axes, colours, base)
        axes.set_xlim(-0.6, len(by_sigma) - 0.4 + (0.25 if base is not None else 0))
        if base is not None:
            axes.annotate(
                "base",
                (1, base),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                color=colours("orange"),
            )
        axes.set_xticks(range(len(by_sigma)), [f"{one['sigma']:g}" for one in by_sigma])
        axes.set_xlabel("sigma")
        axes.set_ylabel("mean reward on support")

    said = ". ".join(
        f"At sigma {one['sigma']:g} the median is {one['median']:.3f}, the best {one['maximum']:.3f}"
        for one in by_sigma
    )
    text = f"Mean reward of each candidate by its noise scale. {said}." + _base_text(base)
    return Plot("sigma", "Reward against sigma", text, draw)


def _marks(axes: Axes, colours: Colours, base: float | None, best: float) -> None:
    """Base and best as upright lines with their values."""
    _base_line(axes, colours, base, upright=True)
    axes.axvline(best, color=colours("blue"), linewidth=1.4)
    left, right = axes.get_xlim()
    for name, value, colour in (("base", base, "orange"), ("best", best, "blue")):
        if value is None:
            continue
        on_right = value > (left + right) / 2
        axes.annotate(
            f"{name} {value:.3f}",
            (value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if on_right else 4, -4 if name == "base" else -18),
            textcoords="offset points",
            va="top",
            ha="right" if on_right else "left",
            color=colours(colour),
        )


def _base_text(base: float | None) -> str:
    return "" if base is None else f" The base has {base:.3f}."


def histogram(population: Content) -> Plot:
    """How many candidates have which mean reward; base and best marked."""
    base, best = population["base"], population["best"]
    means = [c["mean"] for c in population["candidates"]]

    def draw(axes: Axes, colours: Colours) -> None:
        low, high = min(means), max(means)
        # Rewards of E examples often are multiples of 1/E: bins of whole multiples have no gaps.
        grain = 1 / population["examples"]
        width = max(1, round((high - low) / grain / min(24, max(6, len(means) ** 0.5 * 1.6))))
        bins = np.arange(low - grain / 2, high + grain * (width + 0.5), grain * width)
        axes.hist(
            means,
            bins=bins.tolist(),
            color=colours("blue-soft"),
            edgecolor=colours("blue"),
            linewidth=0.8,
        )
        axes.margins(y=0.16)
        _marks(axes, colours, base, best["mean"])
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("mean reward on support")
        axes.set_ylabel("candidates")

    middle = population["spread"]
    text = (
        f"Histogram of {len(means):,} mean rewards from {middle['minimum']:.3f} to "
        f"{middle['maximum']:.3f}, median {middle['median']:.3f}.{_base_text(base)} "
        f"The best, {best['id']}, has {best['mean']:.3f}."
    )
    return Plot("population", "The population", text, draw)
