"""Compare a run with what else its rewards could have been used for, on the same test items.

`python -m jobs.compare --config conf/demo.yaml`, with the run's own settings: the base, the best
single candidate, a majority vote, plainer averages, one step of evolution strategies, the update
with and without the gate, the committed model. A run that is not at its end is run to it first.
"""

from corp_ray.cli import parse_config, run_job
from corp_ray.display import TerminalDisplay, show_comparison
from corp_ray.posttrain import compare


def main() -> None:
    config = parse_config(__doc__ or "", from_rewards=True)
    show_comparison(compare(config, TerminalDisplay()))


if __name__ == "__main__":
    run_job(main)
