"""The report's plots, made from report.json's content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corp_ray.report.drawing import Plot
from corp_ray.report.figures_gate import gate_plot, rounds_plot
from corp_ray.report.figures_grid import grid_plots
from corp_ray.report.figures_population import histogram, sigma_plot
from corp_ray.report.figures_rounding import rounding_plot
from corp_ray.report.figures_structure import statistics, structure_plot

Content = Mapping[str, Any]


def plots(content: Content) -> dict[str, list[Plot]]:
    """The plots that a run has something for, by the report's part they stand in."""
    population, rounds, looks = content["population"], content["rounds"], content["gate"]
    several, diagnosis = len(rounds) > 1, content["diagnosis"] or {}
    rounding = diagnosis.get("rounding")
    return {
        "population": [sigma_plot(population), histogram(population)] if population else [],
        "grids": [plot for grid in content["grids"] for plot in grid_plots(grid, several)],
        "gate": [gate_plot(looks)] if looks else [],
        "rounds": [rounds_plot(rounds)] if several else [],
        "diagnosis": [structure_plot(diagnosis)] if statistics(diagnosis) else [],
        "rounding": [rounding_plot(rounding)] if rounding and rounding["rows"] else [],
    }
