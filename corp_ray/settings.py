"""The configuration's schema: every setting with its type, its default and what it means.

Defaults are the paper's scale. Plain dataclasses; config.py loads them, config_checks.py says
which values can run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunConfig:
    id: str = ""  # name of the run directory; default: the configuration files' names
    directory: str = "runs"  # local path, or URL that pyarrow or fsspec knows: s3://bucket/prefix
    seed: int = 0  # of the population: the same seed, the same candidates
    from_rewards: str = ""  # round 0 rests on the rewards of this run ("."), or of the run there
    report: bool = True  # make report/report.html at the end; jobs/report makes it at any time


@dataclass
class ModelConfig:
    path: str = ""  # a Hugging Face folder or hub id
    dtype: str = "bfloat16"  # bfloat16, float16 or float32: what is perturbed and committed
    chat_template: str = "auto"  # auto: used when the tokenizer has one; always; never


# Kinds of task whose rows have a published format.
FAMILIES = ("gsm8k", "math500", "olympiadbench", "countdown", "mbpp", "humaneval", "rocstories")


@dataclass
class TaskConfig:
    # auto: a path means rows, a dataset reasoning_gym; or reasoning_gym, rows, one of FAMILIES. A
    # path that ends in .py is a task of one's own, whatever the kind.
    kind: str = "auto"
    # reasoning_gym: name of the dataset; a family: Hugging Face dataset id, or id@revision
    dataset: str = ""
    subset: str = ""  # a family: the dataset's configuration; empty: as published
    split: str = ""  # a family: the split of a dataset or folder; empty: as published
    # reasoning_gym: the dataset's own arguments; a .py file: those of its class or examples()
    arguments: dict[str, Any] = field(default_factory=dict)
    size: int = 4000  # reasoning_gym: items drawn before duplicates are dropped
    seed: int = 0  # reasoning_gym: seed of the items
    answer: str = "text"  # reasoning_gym: what of a text is graded, text or last_number
    partial_credit: bool = True  # reasoning_gym: false counts only a full score
    # A .py file; rows: a .jsonl, .json or .parquet file; a family: such a file, its folder, or the
    # folder above it.
    path: str = ""
    question_field: str = "question"  # rows: the column that is asked
    answer_field: str = "answer"  # rows: the column with the answer
    answer_pattern: str = ""  # rows: regular expression whose group 1 is the answer
    grader: str = "exact"  # rows: exact, numeric or module:function
    system_prompt: str = ""  # before every question; empty: none
    sandbox: str = "auto"  # mbpp, humaneval: strict refuses machines that leave something open
    grading_processes: int = 0  # beside each engine; 0: a quarter of the node's CPUs, from 1 to 8
    grading_limit_s: float = 60.0  # what grading one answer may take before it counts as failed
    max_error_share: float = 0.1  # a run stops when more of a candidate's gradings fail than this


@dataclass
class SplitsConfig:
    seed: int = 0  # which items go where; the four never share one
    support: int = 500  # scores the population
    validation: int = 100  # chooses quantile, inverse temperature, step
    gate: int = 256  # only the gate sees it
    test: int = 256  # read once, after the run is decided


@dataclass
class DecodingConfig:
    max_new_tokens: int = 64  # an answer is cut there
    batch_size: int = 64  # prompts at once (vllm: sequences at once)


@dataclass
class PerturbConfig:
    include: list[str] = field(default_factory=lambda: [".*"])  # regular expressions on names
    exclude: list[str] = field(default_factory=list)  # likewise; what matches is left alone


@dataclass
class PopulationConfig:
    size: int = 500  # candidates of round 0; more extend a run
    # standard deviations of the noise; each candidate draws one
    sigmas: list[float] = field(default_factory=lambda: [5e-4, 1e-3, 2e-3])


@dataclass
class ConsolidationConfig:
    # rewards above which quantile make a candidate elite
    quantiles: list[float] = field(default_factory=lambda: [0.5, 0.7, 0.9])
    # beta of the softmax that weighs the elite's rewards
    inverse_temperatures: list[float] = field(
        default_factory=lambda: [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
    )
    # multiples of each consolidated direction that validation chooses from
    steps: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    rank: int = 8  # axes kept of the elite's spread, for the next round's subspace
    compatibility: float = 1.0  # 1 is the paper, 0 leaves the second pass out


@dataclass
class GateConfig:
    alpha: float = 0.05  # error budget of the whole run, all its looks together
    min_gain: float = 0.0  # an update must reliably gain more than this, as a fraction


@dataclass
class RecenteringConfig:
    rounds: int = 3  # rounds after round 0; 0 consolidates once
    population: int = 100  # candidates of each of those rounds
    max_commits: int = 3  # the first update plus 2
    patience: int = 2  # rejected rounds in a row that end the run
    regression_weight: float = 2.0  # lambda of the constructive score
    low_rank: bool = True  # false keeps later rounds isotropic: an ablation


@dataclass
class EngineConfig:
    kind: str = "transformers"  # transformers, vllm, or module:Class with the Engine protocol
    device: str = "auto"  # auto, cpu or cuda
    threads: int = 1  # CPU threads of one engine (of each of its tensor-parallel ranks)
    judge: str = ""  # kind of the engine that answers gate and test; empty: the scoring engines
    tensor_parallel: int = 1  # vllm: GPUs (processes on a CPU) that share one engine's model
    pristine: str = "auto"  # where the center's weights are kept: auto, device, host or disk
    options: dict[str, Any] = field(default_factory=dict)  # passed to the engine as they are


@dataclass
class RayConfig:
    engines: int = 0  # at most so many; 0: as many as the cluster's CPUs or GPUs hold
    gpus_per_engine: float = -1.0  # -1: one a rank where the engine runs on GPUs, else none
    in_flight: int = 2  # calls at one engine, the running one included
    # Engines that a candidate may take down before it is set aside; reducers, before the run ends.
    attempts: int = 3
    max_set_aside: float = 0.05  # a run stops when a larger share of a population is set aside
    straggler: float = 2.0  # times the median after which an idle engine starts a second copy
    hang: float = 10.0  # times the longest measured after which an engine counts as hung
    hang_floor_s: float = 120.0  # and not before so many seconds
    # limit of an engine's start, and of its first call, which no measurement bounds
    first_call_s: float = 3600.0
    wait_s: float = 60.0  # how long a cluster without room for an engine is given to get some
    drain_s: float = 30.0  # how long running candidates may take after SIGTERM


@dataclass
class ScoreConfig:
    shard: int = 0  # jobs/score: which candidates, those with index % shards == shard
    shards: int = 1


@dataclass
class EvaluateConfig:
    model: str = ""  # jobs/evaluate: a model folder or a recipe.json


# What a comparison has beside base and best_single, in its order.
METHODS = (
    "majority_vote",
    "elite_average",
    "reward_softmax",
    "ungated",
    "gated",
    "evolution_strategies",
    "committed",
)


@dataclass
class CompareConfig:
    # jobs/compare: candidates that best single and vote choose from; 0: population.size
    population: int = 0
    votes: int = 50  # how many of them vote
    # Beside base and best_single, empty for all of METHODS; without gated and committed
    # the run itself is not made.
    methods: list[str] = field(default_factory=list)


@dataclass
class DoctorConfig:
    tokens_per_s: float = 2000.0  # jobs/doctor: what one engine writes, for an estimate of time


@dataclass
class TrackingConfig:
    tensorboard: bool = False  # scalars as TensorBoard's event files
    wandb_project: str = ""  # a Weights & Biases project to log to; empty: none
    wandb_entity: str = ""  # empty: as WANDB_ENTITY says, or your own
    wandb_mode: str = ""  # online, offline or disabled; empty: as WANDB_MODE says, or online
    # A local folder for what both write, with a subfolder for each run; empty: the run's own
    # directory, which must then be local.
    folder: str = ""


@dataclass
class Config:
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    perturb: PerturbConfig = field(default_factory=PerturbConfig)
    population: PopulationConfig = field(default_factory=PopulationConfig)
    consolidation: ConsolidationConfig = field(default_factory=ConsolidationConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    recentering: RecenteringConfig = field(default_factory=RecenteringConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    doctor: DoctorConfig = field(default_factory=DoctorConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
