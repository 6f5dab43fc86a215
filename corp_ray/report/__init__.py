"""A run's report: report.html, report.json and its plots as PNG, from the run's directory alone.

    make_report("runs/demo")

Made at the end of every run, and any time by `python -m jobs.report runs/ID`. No Ray, no engine.
What draws is imported when a report is made. See docs/method.md, "The report".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from corp_ray.diagnosis import diagnose
from corp_ray.errors import ConfigError
from corp_ray.report.content import content
from corp_ray.scored_run import ScoredRun
from corp_ray.status import read_status
from corp_ray.storage import Storage

PAGE, NUMBERS = "report.html", "report.json"
# What a report takes for a diagnosis of its own: seconds. `jobs/diagnose` makes a thorough one.
HALVINGS, PERMUTATIONS, MOST = 20, 99, 2000


def make_report(run: str | Storage, output: str | Path | None = None) -> str:
    """Write the report of the run at an address into its report/, or into `output`; where it is.

    The same directory gives the same bytes. Errors: ConfigError when there is no run; as Storage
    when nothing can be written.
    """
    from corp_ray.report import drawing, figures, page

    address = run.url if isinstance(run, Storage) else str(run)
    scored = ScoredRun(address)
    found = content(scored, read_status(address), cheap_diagnosis)
    plots = figures.plots(found)
    target = scored.root / "report" if output is None else Storage.open(output, "--output")
    target.make()
    for plot in [plot for part in plots.values() for plot in part]:
        target.write_bytes(f"{plot.name}.png", drawing.to_png(plot))
    numbers = json.dumps(found, indent=1, allow_nan=False)
    target.write_text(NUMBERS, numbers + "\n")
    target.write_bytes(PAGE, page.page(found, plots).encode("utf-8", "replace"))
    return (target / PAGE).url


def cheap_diagnosis(run: ScoredRun) -> dict[str, Any] | None:
    """The diagnosis of a decided round 0 from few halvings and permutations.

    None for a round that is not decided, is large, or has too little to look at.
    """
    first = next((one for one in run.rounds() if one["round"] == 0), None)
    if first is None or first["population"] > MOST:
        return None
    try:
        return diagnose(run, halvings=HALVINGS, permutations=PERMUTATIONS)
    except ConfigError:  # fewer candidates or examples than a diagnosis needs
        return None
