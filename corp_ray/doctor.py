"""Checks a task before a GPU is used: rows, splits, prompts, grader, answer format, lengths, cost.

Reads what a run would read and starts no engine. Each check says what it found, or what would
spoil a run and how to mend it; a broken one does not keep the others from being made. See
docs/method.md, "Checking a task".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from corp_ray import config as configuration
from corp_ray import parameters
from corp_ray.doctor_grading import check_format, check_gold, check_shortcuts, check_wrong
from corp_ray.doctor_splits import check_answers, check_gate, check_overlap
from corp_ray.errors import CorpError
from corp_ray.findings import OK, PROBLEM, WARNING, Finding
from corp_ray.preparation import deal, with_model, with_prompt_tokens
from corp_ray.records import Example
from corp_ray.reward_pool import RewardPool
from corp_ray.settings import Config
from corp_ray.tasks import make_task
from corp_ray.tasks.settings import portable
from corp_ray.tasks.splits import NAMES, Split

_SHOWN = 3
_GRADED = 200  # gold answers that are graded; more say nothing new
_FEW = 0.05  # of right answers may be longer than the limit: published ones can be wordy
_INSTRUCT = ("instruct", "chat", "-it", "_it")


@dataclass
class Patient:
    """What the checks are made on, as far as it could be had."""

    config: Config
    task: Any
    settings: dict[str, Any]
    dealt: dict[str, Split]
    prompts: dict[str, list[list[int]]] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Sequence[Example]]:
        return {name: self.dealt[name].examples for name in NAMES}

    @property
    def examples(self) -> list[Example]:
        return [example for name in NAMES for example in self.splits[name]]


def examine(config: Config) -> Iterator[Finding]:
    """Every finding, as it is made. Never raises for what a task or a model does wrong."""
    try:
        settings = portable(configuration.task_settings(config.task))
        task = make_task(**settings)
        drawn = list(task.examples())
        yield Finding("rows", OK, f"{len(drawn):,} examples, {task.version}")
        yield from check_answers(task, drawn)
        dealt = deal(config, task)
    except CorpError as error:
        yield Finding("rows", PROBLEM, str(error))
        return
    except Exception as error:  # noqa: BLE001 a task of one's own may do anything
        yield Finding("rows", PROBLEM, f"the task raised {type(error).__name__}: {error}")
        return
    patient = Patient(config, task, settings, dealt)
    yield from check_overlap(patient.splits)
    yield from check_gate(config.splits.gate, config.gate.alpha, config.gate.min_gain)
    yield from _guarded("prompts", lambda: _check_model(patient))
    pool = RewardPool(settings, processes=0, limit_s=config.task.grading_limit_s)
    try:
        yield from _guarded("grading", lambda: _check_grading(patient, pool))
    finally:
        pool.close()
    if patient.prompts:
        yield from _guarded("cost", lambda: _estimate(patient))


def _guarded(check: str, findings: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from findings()
    except CorpError as error:
        yield Finding(check, PROBLEM, str(error))


def _check_model(patient: Patient) -> Iterator[Finding]:
    """The model's template on real prompts, and what fits into the model. Fills `prompts`."""
    from transformers import AutoTokenizer

    from corp_ray.engines.prompts import render

    config = patient.config
    folder = parameters.resolve(config.model.path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    used = config.model.chat_template != "never" and bool(tokenizer.chat_template)
    for name, examples in patient.splits.items():
        messages = [patient.task.prompt(example) for example in examples]
        patient.prompts[name] = render(tokenizer, messages, config.model.chat_template)
    for number, example in enumerate(patient.splits["support"][:_SHOWN]):
        text = tokenizer.decode(patient.prompts["support"][number])
        yield Finding("prompt", OK, f"{example.id}, as the model reads it", shown=text)
    yield from _check_template(patient, tokenizer, used)
    longest = max(len(ids) for split in patient.prompts.values() for ids in split)
    with_prompt_tokens(with_model(config, patient.settings, patient.task, patient.dealt), longest)
    yield Finding(
        "lengths", OK, f"the longest prompt has {longest} tokens, the model holds an answer to it"
    )
    yield from _check_answer_lengths(patient, tokenizer)


def _check_template(patient: Patient, tokenizer: Any, used: bool) -> Iterator[Finding]:
    name = str(patient.config.model.path).rstrip("/").rpartition("/")[2].lower()
    if not used and (tokenizer.chat_template or any(word in name for word in _INSTRUCT)):
        why = (
            "model.chat_template='never' leaves out the template that its tokenizer has"
            if tokenizer.chat_template
            else "its tokenizer has no chat template (chat_template in tokenizer_config.json)"
        )
        yield Finding("template", PROBLEM, f"{name}: {why}; prompts are not what it was tuned on")
        return
    text = tokenizer.decode(patient.prompts["support"][0])
    lost = [
        message["content"]
        for message in patient.task.prompt(patient.splits["support"][0])
        if message["content"].strip() not in text
    ]
    if lost:
        yield Finding(
            "template", PROBLEM, f"the template drops or changes a message: {lost[0][:80]!r}"
        )
        return
    yield Finding("template", OK, "chat template used" if used else "no template, plain text")


def _check_answer_lengths(patient: Patient, tokenizer: Any) -> Iterator[Finding]:
    """Whether the right answers themselves fit into decoding.max_new_tokens."""
    limit = patient.config.decoding.max_new_tokens
    texts = [text for _, text in right_answers(patient.task, patient.examples)]
    if not texts:
        yield Finding("lengths", WARNING, "the task knows no right answer to measure")
        return
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    over = sum(length + 1 > limit for length in lengths)  # the end token counts
    said = f"right answers have up to {max(lengths)} tokens, decoding.max_new_tokens={limit}"
    if over:
        level = PROBLEM if over > _FEW * len(lengths) else WARNING
        yield Finding(
            "lengths", level, f"{said}: {over} of {len(lengths)} cannot be written in full"
        )
    else:
        yield Finding("lengths", OK, said)


def right_answers(task: Any, examples: Sequence[Example]) -> list[tuple[Example, str]]:
    """Texts that must be graded 1: the task's own, where it knows one, else the bare answers."""
    if not hasattr(task, "gold"):
        return [(example, example.answer) for example in examples]
    texts = ((example, task.gold(example)) for example in examples)
    return [(example, text) for example, text in texts if text is not None]


def _check_grading(patient: Patient, pool: RewardPool) -> Iterator[Finding]:
    for line in pool.start():
        yield Finding("grading", OK, line)
    task = patient.task
    known = right_answers(task, patient.examples[:_GRADED])
    if not known:
        yield Finding("gold", WARNING, "the task knows no right answer to grade")
        return
    examples, gold = [example for example, _ in known], [text for _, text in known]
    begin = time.monotonic()
    grades = pool.grade(examples, gold)
    seconds = time.monotonic() - begin
    yield from check_gold(examples, gold, grades)
    yield from check_wrong(task, examples, gold, pool.grade)
    yield from check_shortcuts(examples, gold, pool.grade)
    yield from check_format(task, examples, gold, pool.grade)
    yield Finding(
        "speed", OK, f"{len(examples) / max(seconds, 1e-9):,.0f} answers graded per second"
    )


def _estimate(patient: Patient) -> Iterator[Finding]:
    """Tokens of a whole run at most: what it reads and what it may write."""
    config = patient.config
    grid = config.consolidation
    proposals = len(grid.quantiles) * len(grid.inverse_temperatures) * len(grid.steps)
    rounds = 1 + config.recentering.rounds
    population = config.population.size + config.recentering.rounds * config.recentering.population
    answers = {
        "support": population + rounds,
        "validation": rounds * (proposals + 1),
        "gate": 2 * rounds,
        "test": 3,
    }
    read = write = 0
    for name, times in answers.items():
        read += times * sum(len(ids) for ids in patient.prompts[name])
        write += times * len(patient.prompts[name]) * config.decoding.max_new_tokens
    rate = config.doctor.tokens_per_s
    hours = write / rate / 3600
    time = f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:,.1f} minutes"
    yield Finding(
        "cost",
        OK,
        f"at most {read / 1e6:,.2f} million tokens read and {write / 1e6:,.2f} million written in "
        f"{rounds} {'round' if rounds == 1 else 'rounds'}; writing takes one engine {time} at {rate:,g} "
        "tokens/s (doctor.tokens_per_s), reading comes on top",
    )
