"""Score one shard of round 0's population into a run's reward table; several jobs fill one table.

`python -m jobs.score --config conf/X.yaml score.shard=2 score.shards=8`, then
`python -m jobs.posttrain --config conf/X.yaml --from-rewards`. The same command resumes its shard.
"""

from corp_ray.cli import parse_config, run_job
from corp_ray.display import TerminalDisplay, show_scored
from corp_ray.posttrain import score


def main() -> None:
    config = parse_config(__doc__ or "")
    show_scored(score(config, TerminalDisplay()))


if __name__ == "__main__":
    run_job(main)
