"""What a run has left so far, read from its directory alone: rows, rounds, reports.

For whoever looks at results: no Ray, no engine, nothing written, also while the run goes on. See
docs/method.md, "What a run leaves".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from corp_ray.errors import ConfigError
from corp_ray.population import in_order
from corp_ray.records import OUTCOMES, VERIFIER_ERROR, WRONG_FORMAT, Evaluation
from corp_ray.reward_parts import RewardParts
from corp_ray.reward_rows import FirstOnly, Rows
from corp_ray.storage import Storage

log = logging.getLogger(__name__)


class ScoredRun:
    """One run directory as it is when asked; `address` is a path or URL.

    Errors: ConfigError when there is no such place, or no run in it.
    """

    def __init__(self, address: str):
        self.root = Storage.open(address, "run directory")
        self.address = address
        # Parts of the table whose rows are whole; none ever changes.
        self._checked: set[str] = set()
        if not self.root.exists("config.yaml"):
            raise ConfigError(f"{address}: no run there (a run directory has a config.yaml)")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain data, in the sections of `settings.Config`."""
        try:
            content = OmegaConf.to_container(
                OmegaConf.create(self.root.read_text("config.yaml")), resolve=True
            )
        except (OmegaConfBaseException, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.address}/config.yaml: cannot be read ({error})") from error
        assert isinstance(content, dict)
        return content  # type: ignore[return-value]

    def document(self, name: str) -> dict[str, Any] | None:
        """A JSON document such as "report/test.json"; None when it is not there (yet).

        Errors: CheckpointError when it cannot be read.
        """
        try:
            return self.root.read_json(name) if self.root.exists(name) else None
        except FileNotFoundError:  # a larger population has just set it aside
            return None

    def rounds(self) -> list[dict[str, Any]]:
        """The records of decided rounds (`round_record.round_record`), in order."""
        names = (self.root / "rounds").names("*.json")
        found = [self.document(f"rounds/{name}") for name in names]
        return sorted((one for one in found if one), key=lambda one: one["round"])

    def questions(self, split: str) -> list[dict[str, str]]:
        """Id, question and answer of a held-out split's examples, in its order; [] before it was
        judged."""
        return (self.document(f"questions/{split}.json") or {}).get("examples", [])

    def evaluations(self, split: str) -> list[Evaluation]:
        """Every row on a split, each direction around a center once, in no particular order."""
        found: list[Evaluation] = []
        first = FirstOnly()
        for table in self._parts():
            chosen = first(table.filter(pa.compute.equal(table["split"], split))).combine_chunks()
            if chosen.num_rows:
                rows = Rows(chosen)
                found += [rows.evaluation(at) for at in range(len(rows))]
        return found

    def _parts(self) -> Iterator[pa.Table]:
        """The reward table's parts, without those whose rows are not whole or contradict themselves."""
        for part, table in RewardParts(self.root / "rewards").new(self._left_out):
            try:
                if part.name not in self._checked and table.num_rows:
                    Rows(table)
            except ValueError as error:
                self._left_out(part.name, str(error))
                continue
            self._checked.add(part.name)
            yield table

    def population(self, round_number: int = 0, size: int | None = None) -> list[Evaluation]:
        """The support rows of a round's population so far, in its order.

        `size`: without those of a larger population that the table may hold beside the run's own.
        """
        return population_of(self.evaluations("support"), round_number, size)

    def scores(self) -> list[dict[str, Any]]:
        """Every row without its rewards and texts, as a mapping: round, id, kind, sigma, step,
        center, split, mean, tokens, seconds; and how many examples, answers of a wrong format and
        verifier errors it counts. Each direction around a center once, in no particular order."""
        found: list[dict[str, Any]] = []
        first = FirstOnly()
        for table in self._parts():
            found += _scores(first(table).combine_chunks())
        return found

    def _left_out(self, name: str, reason: str) -> None:
        log.warning("%s/rewards/%s cannot be used (%s): left out", self.address, name, reason)


_COLUMNS = {
    "round": "round",
    "id": "candidate_id",
    "kind": "kind",
    "sigma": "sigma",
    "step": "step",
    "center": "center_digest",
    "split": "split",
    "mean": "mean_reward",
    "tokens": "generated_tokens",
    "seconds": "seconds",
}


def _scores(table: pa.Table) -> list[dict[str, Any]]:
    if not table.num_rows:
        return []
    columns = {name: table[column].to_pylist() for name, column in _COLUMNS.items()}
    outcomes = table["outcomes"]
    row_of = pa.compute.list_parent_indices(outcomes).to_numpy()
    codes = pa.compute.list_flatten(outcomes).to_numpy()
    columns["examples"] = pa.compute.list_value_length(outcomes).to_pylist()
    for name, outcome in (("wrong_format", WRONG_FORMAT), ("verifier_errors", VERIFIER_ERROR)):
        of_them = row_of[codes == OUTCOMES.index(outcome)]
        columns[name] = np.bincount(of_them, minlength=table.num_rows).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def population_of(
    support: Sequence[Evaluation], round_number: int, size: int | None = None
) -> list[Evaluation]:
    """Those of a round's population among rows on support, in its order; see `ScoredRun.population`."""
    found = (
        (e.candidate.id, e)
        for e in support
        if e.candidate.kind == "candidate" and e.candidate.round == round_number
    )
    return in_order(found, size)


def rewards_of(evaluations: Sequence[Evaluation]) -> np.ndarray:
    """Rewards (N, E) per example of evaluations on one split. Errors: ValueError for none."""
    if not evaluations:
        raise ValueError("no evaluations")
    return np.array([e.rewards for e in evaluations], np.float64)
