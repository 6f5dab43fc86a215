"""What every job shares: arguments, logging, and errors as one line with an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from corp_ray import config as configuration
from corp_ray.display import log_handler
from corp_ray.errors import ConfigError, CorpError
from corp_ray.settings import Config


def parse_config(
    description: str, arguments: Sequence[str] | None = None, *, from_rewards: bool = False
) -> Config:
    """The configuration of each --config, in order, with key=value overrides; --print-config shows
    it.

    `from_rewards`: whether the job takes --from-rewards, short for run.from_rewards=".".
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        help="YAML file, one experiment (see conf/); given again, a file that changes it",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )
    if from_rewards:
        parser.add_argument(
            "--from-rewards",
            action="store_true",
            help="round 0 rests on the rewards in the run directory, as jobs.score has left them",
        )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    given = parser.parse_intermixed_args(arguments)
    config = configuration.load(given.config, given.overrides)
    if from_rewards and given.from_rewards and not config.run.from_rewards:
        config.run.from_rewards = "."
    if given.print_config:
        sys.stdout.write(configuration.to_yaml(config))
        sys.stdout.flush()
        raise SystemExit(0)
    return config


def parse_values(
    description: str, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, str]:
    """key=value arguments of a job without a configuration. Errors: ConfigError."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("values", nargs="*", metavar="key=value")
    pairs = parser.parse_args().values
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"argument {pair!r}: expected key=value")
    values = {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
    for key in values:
        if key not in (*required, *optional):
            raise ConfigError(f"unknown key {key}: expected {', '.join((*required, *optional))}")
    for key in required:
        if not values.get(key):
            raise ConfigError(f"{key}=: needed (keys: {', '.join((*required, *optional))})")
    return values


def run_job(job: Callable[[], None]) -> NoReturn:
    """Run a job; an error made on purpose becomes one line on standard error and its exit code."""
    logging.basicConfig(level=logging.INFO, handlers=[log_handler()])
    try:
        job()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        raise SystemExit(128 + signal.SIGPIPE) from None
    except CorpError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from what is on disk\n")
        raise SystemExit(130) from None
    raise SystemExit(0)


def _nobody_reads() -> bool:
    """Whether standard output ends in a closed pipe (a job into `head`, say); if so it is let go."""
    waiting = select.poll()
    waiting.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in waiting.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
