"""Rebuild a committed model from its base and recipe, byte for byte, on any machine.

`python -m jobs.export recipe=runs/ID/commits/1/recipe.json output=DIR [base=FOLDER] [threads=2]`.
base defaults to the one the recipe names. Needs no GPU and no Ray.
"""

import logging
from pathlib import Path

from corp_ray.cli import parse_values, run_job
from corp_ray.errors import ConfigError
from corp_ray.model_folder import export


def main() -> None:
    values = parse_values(__doc__ or "", ("recipe", "output"), ("base", "threads"))
    threads = values.get("threads", "1")
    if not threads.isdigit() or threads == "0":
        raise ConfigError(f"threads={threads!r}: expected a whole number above 0")
    digest = export(values["recipe"], values["output"], values.get("base"), int(threads))
    logging.getLogger("corp_ray").info("%s: weights %s", Path(values["output"]), digest)


if __name__ == "__main__":
    run_job(main)
