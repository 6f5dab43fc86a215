"""Measure a model folder or a recipe on the test split, beside the base, on the same items.

`python -m jobs.evaluate --config conf/demo.yaml evaluate.model=runs/demo/commits/1`.
"""

from corp_ray.cli import parse_config, run_job
from corp_ray.display import TerminalDisplay, show_evaluation
from corp_ray.posttrain import evaluate


def main() -> None:
    config = parse_config(__doc__ or "")
    show_evaluation(evaluate(config, TerminalDisplay()))


if __name__ == "__main__":
    run_job(main)
