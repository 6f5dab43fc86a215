"""Splits: disjoint by what the model reads, the same for a seed, and known by the digest of their
prompts and answers."""

from dataclasses import replace

import pytest

from corp_ray.errors import TaskError
from corp_ray.records import Example, Grade
from corp_ray.tasks import chat
from corp_ray.tasks.splits import NAMES, make_splits

SIZES = {"support": 10, "validation": 6, "gate": 8, "test": 4}


class FakeTask:
    """Given examples, prompted by their question."""

    version = "fake 1"

    def __init__(self, examples, system_prompt=""):
        self._examples, self._system_prompt = examples, system_prompt

    def examples(self):
        return self._examples

    def prompt(self, example):
        return chat(self._system_prompt, example.question)

    def reward(self, example, text):
        return Grade(float(text == example.answer))


def examples(count=40):
    return [Example(str(i), f"question {i}", f"answer {i}") for i in range(count)]


def questions(split):
    return [example.question for example in split.examples]


def digests(splits):
    return {name: split.digest for name, split in splits.items()}


def test_splits_have_their_sizes_and_share_no_prompt():
    splits = make_splits(FakeTask(examples()), SIZES, seed=0)
    assert tuple(splits) == NAMES
    assert {name: len(split.examples) for name, split in splits.items()} == SIZES
    dealt = [question for split in splits.values() for question in questions(split)]
    assert len(set(dealt)) == len(dealt) == sum(SIZES.values())
    assert len(set(digests(splits).values())) == 4
    assert dealt != sorted(dealt)


def test_examples_with_equal_prompts_count_once_and_the_first_is_kept():
    doubled = [*examples(28), *(replace(e, id=f"again {e.id}", answer="x") for e in examples(28))]
    splits = make_splits(FakeTask(doubled), SIZES, seed=0)
    dealt = [e for split in splits.values() for e in split.examples]
    assert sorted(e.question for e in dealt) == sorted(e.question for e in examples(28))
    assert all(e.answer != "x" for e in dealt)
    assert digests(splits) == digests(make_splits(FakeTask(examples(28)), SIZES, seed=0))
    with pytest.raises(TaskError, match="27 distinct ones"):
        make_splits(FakeTask([*examples(27), *examples(27)]), SIZES, seed=0)


def test_a_seed_decides_the_splits():
    task = FakeTask(examples())
    first, again, other = (make_splits(task, SIZES, seed) for seed in (0, 0, 1))
    assert first == again
    assert all(questions(first[name]) != questions(other[name]) for name in NAMES)
    assert not set(digests(first).values()) & set(digests(other).values())


def test_a_later_split_grows_without_moving_the_earlier_ones():
    task = FakeTask(examples())
    small, large = (make_splits(task, {**SIZES, "test": n}, seed=0) for n in (4, 9))
    assert questions(large["test"])[:4] == questions(small["test"])
    assert [n for n in NAMES if digests(small)[n] != digests(large)[n]] == ["test"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["question", "answer"])
def test_a_changed_prompt_or_answer_changes_its_splits_digest_alone(name, field):
    before = make_splits(FakeTask(examples()), SIZES, seed=0)
    place = int(before[name].examples[-1].id)
    changed = examples()
    changed[place] = replace(changed[place], **{field: "other"})
    after = make_splits(FakeTask(changed), SIZES, seed=0)
    assert [n for n in NAMES if digests(before)[n] != digests(after)[n]] == [name]


def test_a_system_prompt_changes_every_digest_and_an_examples_order_changes_it_too():
    before = make_splits(FakeTask(examples()), SIZES, seed=0)
    briefed = make_splits(FakeTask(examples(), "Be brief."), SIZES, seed=0)
    assert not set(digests(before).values()) & set(digests(briefed).values())
    turned = make_splits(FakeTask(examples()[::-1]), SIZES, seed=0)
    assert not set(digests(before).values()) & set(digests(turned).values())


def test_splits_larger_than_the_data_are_refused_with_the_numbers():
    with pytest.raises(TaskError) as raised:
        make_splits(FakeTask([*examples(20), *examples(5)]), SIZES, seed=0)
    for part in ("support 10", "validation 6", "gate 8", "test 4", "28", "20 distinct", "25 drawn"):
        assert part in str(raised.value)
    assert raised.value.exit_code == 2


def test_splits_that_use_every_example_are_allowed():
    splits = make_splits(FakeTask(examples(28)), SIZES, seed=3)
    assert sum(len(split.examples) for split in splits.values()) == 28
