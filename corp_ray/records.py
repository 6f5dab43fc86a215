"""Frozen records that cross a process boundary. Standard library only.

Directions travel as `Terms`: ((seed, amplitude), ...) ascending by seed. A record holds seeds,
amplitudes, texts and rewards, never weights.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, field
from typing import Any

from corp_ray.errors import CorpError

Terms = tuple[tuple[int, float], ...]

GRADED = "graded"
WRONG_FORMAT = "wrong_format"
VERIFIER_ERROR = "verifier_error"
OUTCOMES = (GRADED, WRONG_FORMAT, VERIFIER_ERROR)


def direction_digest(terms: Terms) -> str:
    """SHA-256 (hex, 32 characters) of the exact seeds and float64 amplitudes of a direction."""
    packed = b"".join(struct.pack("<Qd", seed, amplitude) for seed, amplitude in terms)
    return hashlib.sha256(packed).hexdigest()[:32]


@dataclass(frozen=True)
class Example:
    """One question with the answer its task grades against; `data` is the task's own."""

    id: str
    question: str
    answer: str
    data: Any = None


@dataclass(frozen=True)
class Grade:
    """What a verifier says of one text: a reward in [0, 1] and how it came about.

    `format`: the share in [0, 1] of the asked answer format that the text keeps to, where a task
    judges that; it never counts as correctness. `reason`: why a verifier failed.
    """

    reward: float
    outcome: str = GRADED
    format: float | None = None
    reason: str = field(default="", compare=False)

    @classmethod
    def failed(cls, error: BaseException) -> Grade:
        """The grade of an answer whose verifier raised."""
        return cls(0.0, VERIFIER_ERROR, reason=f"{type(error).__name__}: {error}"[:500])


@dataclass(frozen=True)
class Generation:
    """What an engine wrote for one prompt, and how many tokens that took (end token included)."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Center:
    """The weights a round perturbs: a Hugging Face folder and the digest of its tensors."""

    path: str
    digest: str


@dataclass(frozen=True)
class Candidate:
    """One point to score: the direction `step * terms` added to the center.

    `kind` is "center" (no terms), "candidate" (a member of the population) or "proposal" (a
    consolidated direction at one step size).
    """

    id: str
    kind: str
    round: int
    terms: Terms = ()
    step: float = 1.0
    sigma: float = 0.0

    @property
    def scaled(self) -> Terms:
        """The terms with the step multiplied in (float64)."""
        if self.step == 1.0:
            return self.terms
        return tuple((seed, amplitude * self.step) for seed, amplitude in self.terms)

    @property
    def digest(self) -> str:
        return direction_digest(self.scaled)


@dataclass(frozen=True)
class Work:
    """Candidates for one actor call: same center, same split, and (for a sweep) same terms."""

    center: Center
    split: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Evaluation:
    """Rewards of one candidate on one split, in the split's order.

    `formats` are the grades' format shares (NaN where the task did not judge one), empty for a
    task that judges none; `texts` are the answers themselves, kept on the held-out splits, else
    empty; `error` is why the verifier failed first, if it did. `seconds` are those of the engine.
    """

    candidate: Candidate
    center_digest: str
    split: str
    rewards: tuple[float, ...]
    outcomes: tuple[str, ...]
    generated_tokens: int
    seconds: float
    engine: str
    formats: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()
    error: str = field(default="", compare=False)

    @property
    def mean(self) -> float:
        """Equal for equal rewards in any order: ties stay ties."""
        return math.fsum(self.rewards) / len(self.rewards)


@dataclass(frozen=True)
class Failure:
    """A piece of work that no engine could finish: its place in the batch, why, and how many
    times it was tried."""

    index: int
    reason: str
    attempts: int


@dataclass(frozen=True)
class Ready:
    """What an engine says when it has loaded a center and proved itself, or why it cannot work.

    `node` is Ray's id of its node; `description` as from `Engine.describe`.
    """

    node: str
    description: str = ""
    warnings: tuple[str, ...] = ()
    error: CorpError | None = None


@dataclass(frozen=True)
class Proposal:
    """One (quantile, inverse temperature, step) and what it scored on validation."""

    quantile: float
    inverse_temperature: float
    step: float
    candidate: Candidate
    validation_mean: float = float("nan")

    @property
    def exact(self) -> Candidate:
        """The direction with its step multiplied in: what gate and commit apply."""
        return Candidate(
            self.candidate.id, "candidate", self.candidate.round, self.candidate.scaled
        )


@dataclass(frozen=True)
class Verdict:
    """The gate's decision on one proposal, with the numbers it rests on."""

    accepted: bool
    reason: str
    mean: float
    standard_error: float
    lower: float
    p_value: float
    test: str
    fixes: int
    regressions: int
    examples: int
    alpha: float
    look: int = 0


@dataclass(frozen=True)
class Commit:
    """An update that passed the gate: where its folder is and what it holds."""

    number: int
    round: int
    path: str
    digest: str
    terms: Terms = field(default=(), repr=False)


@dataclass(frozen=True)
class EngineCounts:
    """What the pool says of its engines.

    `ready_s` are engine-seconds since each one was ready, `busy_s` those of them with a call
    running; `restarts` and `set_aside` (candidates given up for a round) are totals of the driver.
    """

    ready: int
    starting: int
    restarts: int
    busy_s: float
    ready_s: float
    set_aside: int

    @property
    def idle_share(self) -> float:
        """The share of ready engine time without a call, in [0, 1]; 0 before any was measured."""
        if self.ready_s <= 0:
            return 0.0
        return min(max(1.0 - self.busy_s / self.ready_s, 0.0), 1.0)
