"""The loop: sample, score, consolidate, validate, gate, commit, recenter.

A straight line with one loop edge. Every step asks the reward table what is missing, so resume,
retry and growth are the same line run again. The driver never touches weights. See
docs/method.md, "One round".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from corp_ray import cluster, population
from corp_ray.actors import ReducerActor
from corp_ray.cluster import EnginePlan
from corp_ray.consolidate import Consolidation
from corp_ray.direction import Direction
from corp_ray.errors import ConfigError
from corp_ray.gate import judge
from corp_ray.measure import Measured, test_table
from corp_ray.observers import Observer
from corp_ray.preparation import Prepared, with_prompt_tokens
from corp_ray.proposals import Decision, GridPoint, best_proposal, make_proposals
from corp_ray.recenter import SearchState, advance, constructive_scores, stop_reason
from corp_ray.recipe import Recipe
from corp_ray.records import Candidate, Center, Commit, Proposal, Verdict
from corp_ray.round_record import describe_verdict, round_record
from corp_ray.run_directory import RunDirectory
from corp_ray.scoring import Scoring
from corp_ray.set_aside import noted
from corp_ray.stopping import StopRequest
from corp_ray.storage import Storage
from corp_ray.supervised import Supervised
from corp_ray.table_summary import stored


@dataclass(frozen=True)
class Scored:
    """What a shard of round 0's population came to: its candidates, and the whole table's."""

    directory: str
    shard: int
    shards: int
    candidates: int
    in_table: int
    population: int


@dataclass(frozen=True)
class RunResult:
    """How a run ended: its commits (none when the gate never accepted), and the test table."""

    directory: str
    commits: tuple[Commit, ...]
    stop_reason: str
    test: tuple[Measured, ...]


def center_candidate(round_number: int) -> Candidate:
    """The center itself: the empty direction."""
    return Candidate(f"r{round_number}center", "center", round_number)


class Run:
    """One run on a connected Ray cluster; `execute` is the whole line."""

    def __init__(
        self,
        prepared: Prepared,
        directory: RunDirectory,
        display: Observer,
        engines: EnginePlan,
        stop: StopRequest,
    ):
        self.config, self.directory, self.display = prepared.config, directory, display
        self.reducer = Supervised(
            lambda: ReducerActor.options(num_cpus=0, scheduling_strategy=cluster.here()).remote(
                prepared.engine.threads
            ),
            stop,
            self.config.ray.attempts,
        )
        folder = str(prepared.folder.resolve())
        if prepared.has_tokenizer:
            template = prepared.engine.chat_template
            longest = self.reducer.call("longest_prompt", folder, template, prepared.task)
            prepared = with_prompt_tokens(prepared, longest)
        self.prepared = prepared
        self.base: Center = self.reducer.call("center", folder, prepared.engine.dtype)
        if self.config.run.from_rewards:
            self._check_scored(self.config.run.from_rewards)
        self.scoring = Scoring(prepared, directory, display, self.base, engines, stop)
        if not directory.shard:  # what is staged is this driver's to remove: it has the lease now
            self._discard_staged()

    def _check_scored(self, source: str) -> None:
        """ConfigError unless round 0's population has its rewards, here or in the run named.

        What was set aside has none: known here it is left out, known there it is tried here.
        """
        places = (
            [self.directory.root] if source == "." else [self.directory.root, Storage.open(source)]
        )
        found = set().union(*(stored(one / "rewards") | noted(one) for one in places))
        missing = [
            candidate.id
            for candidate in self.sample(SearchState())
            if (self.base.digest, "support", candidate.digest) not in found
        ]
        if missing:
            raise ConfigError(
                f"run.from_rewards={source!r}: {len(missing)} of {self.config.population.size} "
                f"candidates have no reward yet ({missing[0]}, ...): let jobs.score fill them in, "
                "or leave run.from_rewards out to score them here"
            )

    def close(self) -> None:
        self.scoring.close()
        self.reducer.close()

    def _discard_staged(self) -> None:
        self.reducer.call("discard", [str(path) for path in self.directory.staged()])

    def execute(self) -> RunResult:
        """Rounds until one of the stop conditions, then the test table."""
        settings = self.config.recentering
        state, center, recipe = SearchState(), self.base, self._base_recipe()
        commits: list[Commit] = []
        reason = None
        while reason is None:
            state, center, recipe, commit = self._round(state, center, recipe)
            commits += [commit] if commit else []
            reason = stop_reason(
                state,
                rounds=settings.rounds,
                max_commits=settings.max_commits,
                patience=settings.patience,
            )
        return RunResult(
            str(self.directory.root), tuple(commits), reason, self._measure(center, commits)
        )

    def score_shard(self, shard: int, shards: int) -> Scored:
        """Score every `shards`-th candidate of round 0 on support; shard 0 the center too."""
        population = self.sample(SearchState())
        mine = population[shard::shards]
        wanted = [center_candidate(0), *mine] if shard == 0 else mine
        phase = f"round 0: population, shard {shard} of {shards}"
        scored = self.scoring.score(self.base, "support", wanted, phase)
        return Scored(
            str(self.directory.root),
            shard,
            shards,
            sum(1 for candidate in scored if candidate.kind == "candidate"),
            self.scoring.count(self.base, "support", population),
            len(population),
        )

    def _round(
        self, state: SearchState, center: Center, recipe: Recipe
    ) -> tuple[SearchState, Center, Recipe, Commit | None]:
        config, number = self.config, state.round
        sampled = self.sample(state)
        wanted = [center_candidate(number), *sampled]
        origin, *scored = self.scoring.score(
            center, "support", wanted, f"round {number}: population"
        )
        means_N = self.scoring.means(center, "support", scored)
        consolidations = self.consolidate(scored, means_N)
        proposals = make_proposals(consolidations, config.consolidation.steps, number)
        decision, swept = self._decide(center, recipe, proposals, number)
        before = self.scoring.evaluation(center, "support", origin)
        weight = config.recentering.regression_weight
        rewards_NE = self.scoring.rewards(center, "support", scored)
        scores = constructive_scores(np.array(before.rewards), rewards_NE, weight).tolist()
        following = advance(
            state,
            directions=[Direction(candidate.terms) for candidate in scored],
            rewards=[float(mean) for mean in means_N],
            scores=scores,
            drawn_sigmas=[candidate.sigma for candidate in scored],
            listed_sigmas=config.population.sigmas,
            accepted=decision.accepted,
            rounds=config.recentering.rounds,
            rank=config.consolidation.rank,
        )
        record = round_record(
            center,
            state,
            len(sampled),
            before.mean,
            dict(zip((c.id for c in scored), map(float, means_N), strict=True)),
            scores,
            consolidations,
            swept,
            decision,
            following,
        )
        self.directory.write_round(number, record)
        self.display.decided(record)
        commit = None
        if decision.accepted:
            commit, recipe, center = self._commit(center, recipe, decision, number)
            self.display.note(f"committed {commit.path}")
        else:
            self.display.note(f"round {number}: nothing committed ({decision.reason})")
        self._discard_staged()
        return following, center, recipe, commit

    def sample(self, state: SearchState, size: int = 0) -> list[Candidate]:
        """A round's candidates; `size`: another number of round 0's than the configuration's."""
        config = self.config
        if state.sigma is None:
            size = size or config.population.size
            return population.isotropic(config.run.seed, 0, size, config.population.sigmas)
        return population.low_rank(
            config.run.seed,
            state.round,
            0,
            config.recentering.population,
            sigma=state.sigma,
            isotropic_share=state.isotropic_share,
            subspace=state.subspace if config.recentering.low_rank else None,
            rank=config.consolidation.rank,
        )

    def consolidate(
        self,
        candidates: Sequence[Candidate],
        means_N: np.ndarray,
        compatibility: float | None = None,
    ) -> dict[GridPoint, Consolidation]:
        """One consolidation per grid point; `compatibility`: another one than the configuration's."""
        settings = self.config.consolidation
        grid = [(q, b) for q in settings.quantiles for b in settings.inverse_temperatures]
        results = self.reducer.call(
            "consolidate",
            [Direction(candidate.terms) for candidate in candidates],
            means_N,
            grid,
            settings.rank,
            settings.compatibility if compatibility is None else compatibility,
        )
        return dict(zip(grid, results, strict=True))

    def _decide(
        self, center: Center, recipe: Recipe, proposals: Sequence[Proposal], number: int
    ) -> tuple[Decision, list[Proposal]]:
        """Score proposals on validation and take the best, if it gains there, to the gate."""
        wanted = [center_candidate(number), *(p.candidate for p in proposals)]
        origin, *scored = self.scoring.score(
            center, "validation", wanted, f"round {number}: validation sweep"
        )
        before = self.scoring.evaluation(center, "validation", origin)
        kept = {candidate.id for candidate in scored}
        proposals = [p for p in proposals if p.candidate.id in kept]
        means = self.scoring.means(center, "validation", [p.candidate for p in proposals])
        swept = [
            replace(p, validation_mean=float(mean))
            for p, mean in zip(proposals, means, strict=True)
        ]
        best = best_proposal(swept)
        if best is None or best.validation_mean <= before.mean:
            return Decision(best, "no_gain_on_validation"), swept
        verdict = self._gate(center, recipe, best, number)
        self.display.note(describe_verdict(verdict))
        return Decision(best, verdict.reason, verdict), swept

    def _gate(self, center: Center, recipe: Recipe, best: Proposal, number: int) -> Verdict:
        """Stage the best proposal, check that engines hold the same bytes, judge it."""
        work = [(center, center_candidate(number)), (center, best.exact)]
        if self.scoring.unjudged("gate", work):
            digest = self._stage(center, recipe, best, number)
            self.scoring.check_weights(center, best.exact, digest)
        look = self.directory.look(number, center.digest, best.exact.digest)
        before, after = self.scoring.judged("gate", work, f"round {number}: gate")
        return judge(
            before.rewards,
            after.rewards,
            alpha=self.config.gate.alpha,
            min_gain=self.config.gate.min_gain,
            look=look,
        )

    def _stage(self, center: Center, recipe: Recipe, best: Proposal, number: int) -> str:
        direction = Direction(best.exact.terms)
        target = str(self.directory.staging(number))
        return self.reducer.call("stage", center, target, recipe, direction)

    def _commit(
        self, center: Center, recipe: Recipe, decision: Decision, number: int
    ) -> tuple[Commit, Recipe, Center]:
        assert decision.best is not None
        assert decision.verdict is not None
        direction = Direction(decision.best.exact.terms)
        extended = recipe.extended(direction, number, decision.verdict)
        final = self.directory.commits / str(len(extended.steps))
        staged = str(self.directory.staging(number))
        if not self.directory.has_commit(len(extended.steps)) and not self.reducer.call(
            "is_there", staged
        ):
            digest = self._stage(center, recipe, decision.best, number)
            self.scoring.check_weights(center, decision.best.exact, digest)
        self.directory.lease.check()
        self.reducer.call("commit", staged, str(final), extended)
        new: Center = self.reducer.call("center", str(final), self.prepared.engine.dtype)
        commit = Commit(len(extended.steps), number, str(final), new.digest, direction.terms)
        return commit, extended, new

    def _base_recipe(self) -> Recipe:
        return Recipe(
            base=self.config.model.path,
            base_digest=self.base.digest,
            dtype=self.config.model.dtype,
            perturbed=self.prepared.perturbed,
            task=self.prepared.task_name,
            steps=(),
        )

    def _measure(self, center: Center, commits: Sequence[Commit]) -> tuple[Measured, ...]:
        """The test table: base, best single candidate of round 0, committed model."""
        singles = self.sample(SearchState())
        scored = self.scoring.score(self.base, "support", singles, "best single candidate")
        best = scored[int(np.argmax(self.scoring.means(self.base, "support", scored)))]
        work = [(self.base, center_candidate(0)), (self.base, best)]
        work += [(center, center_candidate(0))] if commits else []
        return self._test(work, ("base", "best single", "committed"))

    def compare(self, path: str, name: str) -> tuple[Measured, ...]:
        """The test table of the base and the model folder at `path`."""
        other: Center = self.reducer.call("center", path, self.prepared.engine.dtype)
        work = [(self.base, center_candidate(0)), (other, center_candidate(0))]
        return self._test(work, ("base", name))

    def _test(
        self, work: Sequence[tuple[Center, Candidate]], names: Sequence[str]
    ) -> tuple[Measured, ...]:
        rows = test_table(self.scoring, work, names)
        self.display.measured([asdict(row) for row in rows])
        return rows
