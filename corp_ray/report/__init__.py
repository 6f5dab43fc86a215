"""A run's report: report.html, report.json and its plots as PNG, from the run's directory alone.

    make_report("runs/demo")

Made at the end of every run, and any time by `python -m jobs.report runs/ID`. No Ray, no engine.
What draws is imported when a report is made. See docs/method.md, "The report".
"""

from __future__ import annotations

import json
from pathlib import Path

from corp_ray.report.content import content
from corp_ray.scored_run import ScoredRun
from corp_ray.status import read_status
from corp_ray.storage import Storage

PAGE, NUMBERS = "report.html", "report.json"


def make_report(run: str | Storage, output: str | Path | None = None) -> str:
    """Write the report of the run at an address into its report/, or into `output`; where it is.

    The same directory gives the same bytes. Errors: ConfigError when there is no run; as Storage
    when nothing can be written.
    """
    from corp_ray.report import drawing, figures, page

    address = run.url if isinstance(run, Storage) else str(run)
    scored = ScoredRun(address)
    found = content(scored, read_status(address))
    plots = figures.plots(found)
    target = scored.root / "report" if output is None else Storage.open(output, "--output")
    target.make()
    for plot in [plot for part in plots.values() for plot in part]:
        target.write_bytes(f"{plot.name}.png", drawing.to_png(plot))
    numbers = json.dumps(found, indent=1, allow_nan=False)
    target.write_text(NUMBERS, numbers + "\n")
    target.write_bytes(PAGE, page.page(found, plots).encode("utf-8", "replace"))
    return (target / PAGE).url
