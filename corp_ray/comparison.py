"""What else a run's rewards could have been used for, beside the run, on the same test items.

One pass over the run's own reward table: what a baseline lacks is scored into it, so that a
comparison resumes like a run. Choices are made on support and validation as the run makes its
own; the test split decides nothing. See docs/method.md, "Comparison".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from corp_ray.baselines import elite_average, evolution_direction, majority_vote, ranking
from corp_ray.compared import Chosen, Comparison, Cost, Method, chosen_of, compared, vote_of
from corp_ray.direction import Direction
from corp_ray.errors import RewardTableError
from corp_ray.population import number_of
from corp_ray.preparation import Prepared
from corp_ray.proposals import along, best_proposal, make_proposals
from corp_ray.recenter import SearchState
from corp_ray.records import GRADED, WRONG_FORMAT, Candidate, Center, Proposal
from corp_ray.run_directory import RunDirectory
from corp_ray.scoring import Asked, Scoring
from corp_ray.search import Run, RunResult, center_candidate
from corp_ray.search_costs import SearchCosts
from corp_ray.settings import METHODS, Config

_LABELS = {
    "elite_average": "plain mean of the elite",
    "reward_softmax": "reward softmax alone (compatibility 0)",
    "ungated": "update of round 0, without the gate",
    "gated": "update of round 0, behind the gate",
    "evolution_strategies": "one step of evolution strategies",
    "committed": "committed model, the whole run",
}


def compare_run(
    prepared: Prepared, directory: RunDirectory, run: Run, result: RunResult | None
) -> Comparison:
    """Score what the methods that are asked for lack, and compare them.

    `result`: of the finished run; None where no method needs one (`needs_run`). Errors:
    RewardTableError for a voter whose stored row has no texts; as `Scoring.score`.
    """
    config = prepared.config
    work = _Baselines(run, directory, result)
    rows = compared(work.methods())
    return Comparison(
        run=config.run.id,
        task=prepared.task_name,
        model=config.model.path,
        seed=config.run.seed,
        split_digest=prepared.task.digests["test"],
        examples=config.splits.test,
        population=config.population.size,
        ensemble_population=work.ensemble_size,
        votes=config.compare.votes,
        rows=rows,
    )


def check_texts(scoring: Scoring, center: Center, voters: Sequence[Candidate]) -> None:
    """RewardTableError for the first voter with a test row that has no texts."""
    work = [(center, voter) for voter in voters]
    missing = {voter.digest for _, voter in scoring.unjudged("test", work)}
    for voter in voters:
        if voter.digest not in missing and not scoring.evaluation(center, "test", voter).texts:
            raise RewardTableError(
                f"{voter.id} has a row on test without its answers, from before rows kept them, "
                "and cannot vote: use another run.id"
            )


def methods_of(config: Config) -> tuple[str, ...]:
    """The methods that `compare.methods` asks for, beside base and best_single."""
    return tuple(name for name in METHODS if name in (config.compare.methods or METHODS))


def needs_run(config: Config) -> bool:
    """Whether a method is what the run itself decided."""
    return not {"gated", "committed"}.isdisjoint(methods_of(config))


class _Baselines:
    """The methods of one run; made once, used once."""

    def __init__(self, run: Run, directory: RunDirectory, result: RunResult | None):
        self._run, self._scoring, self._base = run, run.scoring, run.base
        self._wanted = methods_of(run.config)
        self._record = directory.rounds.read_json("0.json") if result else {}
        self._commits = result.commits if result else ()
        self._costs = SearchCosts(run.scoring)
        # All that the run itself was decided by; the test split is no part of that.
        self._run_asked = [a for a in run.scoring.asked.values() if a[1] != "test"]
        config = run.config
        self.ensemble_size = max(config.population.size, config.compare.population)
        sampled = run.sample(SearchState(), self.ensemble_size)
        ensemble = self._scoring.score(self._base, "support", sampled, "compare: candidates")
        self._own = [c for c in ensemble if number_of(c.id) < config.population.size]
        self._own_means = self._scoring.means(self._base, "support", self._own)
        means = self._scoring.means(self._base, "support", ensemble)
        self._ranked = [ensemble[i] for i in ranking(means)]
        self._best_own = self._own[ranking(self._own_means)[0]]

    def methods(self) -> list[Method]:
        """Every method with its rewards on the test split."""
        proposals = self._sweep(self._proposals())
        best = {name: best_proposal(own) for name, own in proposals.items()}
        votes = self._run.config.compare.votes
        voters = self._ranked[:votes] if "majority_vote" in self._wanted else []
        check_texts(self._scoring, self._base, voters)
        committed = self._committed()
        picked = [p.exact for p in best.values() if p is not None]
        singles = [center_candidate(0), self._ranked[0], self._best_own, *voters, *picked]
        work = [*((self._base, candidate) for candidate in singles), committed]
        self._scoring.judged("test", work, "compare: test")

        def made(name: str) -> Method:
            if name == "majority_vote":
                return self._vote(voters, votes)
            if name == "gated":
                return self._gated(best["ungated"], proposals["ungated"])
            if name == "committed":
                return self._of_the_run(committed)
            return self._chosen(name, best, proposals)

        base = self._single("base", "base model", center_candidate(0), Cost())
        return [base, *self._best_singles(), *map(made, self._wanted)]

    def _proposals(self) -> dict[str, list[Proposal]]:
        """The grids of the methods that choose by validation, by the method's name."""
        grid = self._run.config.consolidation
        own = [Direction(candidate.terms) for candidate in self._own]
        means_N = self._own_means
        found: dict[str, list[Proposal]] = {}
        if "elite_average" in self._wanted:
            found["elite_average"] = [
                p
                for q in grid.quantiles
                for p in along(
                    elite_average(own, means_N, q), grid.steps, f"r0q{q:g}s{{:g}}-average", 0, q
                )
            ]
        if "reward_softmax" in self._wanted:
            softmax = self._run.consolidate(self._own, means_N, compatibility=0.0)
            found["reward_softmax"] = [
                p
                for (q, b), one in softmax.items()
                for p in along(one.mean, grid.steps, f"r0q{q:g}b{b:g}s{{:g}}-softmax", 0, q, b)
            ]
        if not {"ungated", "gated", "evolution_strategies"}.isdisjoint(self._wanted):
            full = self._run.consolidate(self._own, means_N)
            if not {"ungated", "gated"}.isdisjoint(self._wanted):
                found["ungated"] = make_proposals(full, grid.steps, 0)
            if "evolution_strategies" in self._wanted:
                norm = float(np.mean([one.norm for one in full.values()]))
                evolution = evolution_direction(own, means_N, norm)
                found["evolution_strategies"] = along(evolution, grid.steps, "r0s{:g}-evolution", 0)
        return found

    def _sweep(self, proposals: dict[str, list[Proposal]]) -> dict[str, list[Proposal]]:
        """The same with their validation means, without those that could not be scored."""
        wanted = [p.candidate for own in proposals.values() for p in own]
        scored = self._scoring.score(self._base, "validation", wanted, "compare: proposals")
        means = self._scoring.means(self._base, "validation", scored)
        mean_of = dict(zip((c.digest for c in scored), map(float, means), strict=True))
        return {
            name: [
                replace(p, validation_mean=mean_of[p.candidate.digest])
                for p in own
                if p.candidate.digest in mean_of
            ]
            for name, own in proposals.items()
        }

    def _support(self, candidates: Iterable[Candidate]) -> list[Asked]:
        return [(self._base, "support", candidate) for candidate in candidates]

    def _validated(self, proposals: Iterable[Proposal]) -> list[Asked]:
        return [(self._base, "validation", proposal.candidate) for proposal in proposals]

    def _committed(self) -> tuple[Center, Candidate]:
        if not self._commits:
            return self._base, center_candidate(0)
        last = self._commits[-1]
        return Center(last.path, last.digest), center_candidate(0)

    # --- methods ---

    def _single(
        self,
        name: str,
        label: str,
        candidate: Candidate,
        search: Cost,
        *,
        center: Center | None = None,
        chosen: Chosen | None = None,
        reason: str = "",
    ) -> Method:
        """A method of one model; a `reason` for which that is the base."""
        row = self._scoring.evaluation(center or self._base, "test", candidate)
        return Method(
            name,
            label,
            row.rewards,
            row.generated_tokens,
            search,
            chosen=chosen,
            abstained=bool(reason),
            note=reason,
        )

    def _best_singles(self) -> list[Method]:
        size, more = self._run.config.population.size, self.ensemble_size
        label = f"best single candidate of {more}"
        cost = self._costs.of(self._support(self._ranked))
        found = [self._single("best_single", label, self._ranked[0], cost)]
        if more > size:
            label = f"best single candidate of the run's own {size}"
            cost = self._costs.of(self._support(self._own))
            found.append(self._single("best_single_own", label, self._best_own, cost))
        return found

    def _vote(self, voters: Sequence[Candidate], votes: int) -> Method:
        rows = [self._scoring.evaluation(self._base, "test", voter) for voter in voters]
        answers = [
            [
                None if outcome == WRONG_FORMAT else answer
                for answer, outcome in zip(own, row.outcomes, strict=True)
            ]
            for own, row in zip(self._scoring.answers("test", rows), rows, strict=True)
        ]
        graded = [[outcome == GRADED for outcome in row.outcomes] for row in rows]
        vote = majority_vote(answers, [row.rewards for row in rows], graded)
        label = f"majority vote of the best {len(voters)} of {self.ensemble_size}"
        note = "" if len(voters) == votes else f"{votes} votes, of which {len(voters)} scored"
        return vote_of(
            "majority_vote", label, vote, rows, self._costs.of(self._support(self._ranked)), note
        )

    def _chosen(
        self,
        name: str,
        chosen: Mapping[str, Proposal | None],
        scored: Mapping[str, Sequence[Proposal]],
    ) -> Method:
        """A method that takes its best proposal on validation, whether or not that gains there."""
        search = self._costs.of([*self._support(self._own), *self._validated(scored[name])])
        best = chosen[name]
        if best is None:
            reason = "its directions are empty: the base"
            if name == "evolution_strategies":
                reason = "all rewards of the population are equal: no direction, so the base"
            return self._single(name, _LABELS[name], center_candidate(0), search, reason=reason)
        return self._single(name, _LABELS[name], best.exact, search, chosen=chosen_of(best))

    def _gated(self, best: Proposal | None, scored: Sequence[Proposal]) -> Method:
        center = center_candidate(0)
        asked = [*self._support(self._own), *self._validated(scored)]
        asked.append((self._base, "validation", center))
        if best is not None and self._record["verdict"]:
            asked += [(self._base, "gate", center), (self._base, "gate", best.exact)]
        search, label = self._costs.of(asked), _LABELS["gated"]
        if best is None or not any(commit.round == 0 for commit in self._commits):
            reason = f"round 0 committed nothing ({self._record['reason']}): the base"
            return self._single("gated", label, center, search, reason=reason)
        return self._single("gated", label, best.exact, search, chosen=chosen_of(best))

    def _of_the_run(self, committed: tuple[Center, Candidate]) -> Method:
        center, candidate = committed
        return self._single(
            "committed",
            _LABELS["committed"],
            candidate,
            self._costs.of(self._run_asked),
            center=center,
            reason="" if self._commits else "the gate accepted nothing: the base",
        )
