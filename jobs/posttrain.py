"""Post-train a model without gradients: `python -m jobs.posttrain --config conf/demo.yaml`.

The same command with the same run id resumes; a larger population.size extends. With
--from-rewards the first round rests on what jobs.score has filled the run's reward table with.
"""

from corp_ray.cli import parse_config, run_job
from corp_ray.display import TerminalDisplay, show_result
from corp_ray.posttrain import posttrain


def main() -> None:
    config = parse_config(__doc__ or "", from_rewards=True)
    show_result(posttrain(config, TerminalDisplay()))


if __name__ == "__main__":
    run_job(main)
