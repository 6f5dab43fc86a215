"""The pristine center on a CPU: the same bits from host, device and disk, in groups and in sums;
and the transformers engine, which moves exactly what it is asked to wherever its center lies."""

from __future__ import annotations

import itertools
import json
import os
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from corp_ray import checkpoint, parameters, pristine, weights
from corp_ray.direction import Direction
from corp_ray.engines import EngineSettings
from corp_ray.engines.transformers import TransformersEngine
from corp_ray.errors import EngineError
from corp_ray.pristine import Change, Pristine, choose_place
from corp_ray.records import Center
from tests.pico import pico_llama

CPU = torch.device("cpu")
PLACES = ("host", "device", "disk")
ONE, OTHER = Direction({5: 0.02, 9: -0.03, 2**62: 0.01}), Direction({7: 0.05})
PROMPTS = [[{"role": "user", "content": text}] for text in ("1 + 1", "say 15, please", "7")]
WIDTHS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
in_all_places = pytest.mark.parametrize("place", PLACES)
in_all_dtypes = pytest.mark.parametrize("dtype", list(checkpoint.DTYPES))
with_shards = pytest.mark.parametrize("shards", [1, 3])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model folders by their number of shards, float32, the head stored by itself."""
    root = tmp_path_factory.mktemp("pico")
    found = {
        shards: pico_llama(root / f"{shards}", shards=shards, dtype=torch.float32, tie=False)
        for shards in (1, 3)
    }
    assert len(list(found[1].glob("*.safetensors"))) == 1
    assert len(list(found[3].glob("*.safetensors"))) >= 3
    return found


def kept(folder, place, dtype="bfloat16", threads=1):
    return Pristine(folder, dtype, CPU, place, threads)


def stored(folder, dtype="bfloat16"):
    """The float tensors of a folder, read apart from any center."""
    return checkpoint.read_tensors(folder, parameters.read_specs(folder), dtype)


def like(tensors):
    return {name: torch.full_like(tensor, 7.0) for name, tensor in tensors.items()}


def assert_same_bits(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        width = WIDTHS[tensor.dtype]
        assert torch.equal(found[name].view(width), tensor.view(width)), name


def collected(groups):
    return {name: tensor for group in groups for name, tensor in group.items()}


def written(center, change, names, limit=None):
    """center + change of the named tensors, group by group."""
    out = {}
    for base in center.groups(names, limit):
        part = like(base)
        center.write(part, base, change)
        out |= part
    return out


def exactly(base, direction, names):
    out = like({name: base[name] for name in names})
    weights.apply(out, {name: base[name] for name in names}, direction)
    return out


def stepped(base, direction, step, names):
    base = {name: base[name] for name in names}
    acc = {name: torch.empty(tensor.shape) for name, tensor in base.items()}
    weights.materialise(acc, direction)
    out = like(base)
    weights.apply_step(out, base, acc, step)
    return out


@in_all_dtypes
@with_shards
@in_all_places
def test_the_center_is_the_folders_tensors_wherever_it_is_kept(folders, place, shards, dtype):
    center = kept(folders[shards], place, dtype)
    names = [spec.name for spec in parameters.read_specs(folders[shards])]
    assert center.names == tuple(names)
    expected = {name: stored(folders[shards], dtype)[name] for name in names}
    assert_same_bits(collected(center.groups(names)), expected)
    assert {name: center.shape(name) for name in names} == {
        name: tuple(tensor.shape) for name, tensor in expected.items()
    }


@in_all_places
def test_integer_tensors_are_no_part_of_the_center(tmp_path, place):
    tensors = {"a": torch.ones(3), "b": torch.arange(4), "c": torch.zeros(2, 2).half()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "none"}))
    center = kept(tmp_path, place)
    assert center.names == ("a", "c")
    expected = {"a": torch.ones(3).bfloat16(), "c": torch.zeros(2, 2).bfloat16()}
    assert_same_bits(collected(center.groups(center.names)), expected)


@pytest.mark.parametrize("limit", [1, 1500, 5000, 2 * 264 * 32, 10**9])
@in_all_places
def test_a_limit_cuts_into_full_groups_in_the_order_of_the_names(folders, place, limit):
    center = kept(folders[3], place)
    for names in (center.names, center.names[::-1], center.names[3:9]):
        groups = [list(group) for group in center.groups(names, limit)]
        assert list(itertools.chain.from_iterable(groups)) == list(names)
        sizes = {name: torch.Size(center.shape(name)).numel() for name in names}
        totals = [sum(sizes[name] for name in group) for group in groups]
        for group, total in zip(groups, totals, strict=True):
            assert total <= limit or len(group) == 1
        for total, following in zip(totals, groups[1:], strict=False):
            assert total + sizes[following[0]] > limit


@in_all_places
def test_without_a_limit_a_resident_center_comes_whole_and_one_on_disk_in_parts(
    folders, place, monkeypatch
):
    monkeypatch.setattr(pristine, "GROUP", 5000)
    center = kept(folders[3], place)
    groups = [list(group) for group in center.groups(center.names)]
    assert list(itertools.chain.from_iterable(groups)) == list(center.names)
    if place == "disk":
        assert groups == [list(group) for group in center.groups(center.names, 5000)]
        assert len(groups) > 3
    else:
        assert len(groups) == 1


@in_all_places
def test_no_names_make_no_group_with_tensors(folders, place):
    assert collected(kept(folders[1], place).groups([])) == {}


@pytest.mark.parametrize("limit", [None, 5000])
@in_all_dtypes
@with_shards
@in_all_places
def test_an_exact_change_is_the_exact_rule(folders, place, shards, dtype, limit):
    center, base = kept(folders[shards], place, dtype), stored(folders[shards], dtype)
    for direction in (ONE, OTHER, Direction()):
        found = written(center, Change(direction), center.names, limit)
        assert_same_bits(found, exactly(base, direction, center.names))


@pytest.mark.parametrize("limit", [None, 5000])
@in_all_dtypes
@with_shards
@in_all_places
def test_a_step_is_the_held_sum_times_the_step(folders, place, shards, dtype, limit):
    center, base = kept(folders[shards], place, dtype), stored(folders[shards], dtype)
    names = center.names[1::2]
    center.hold(ONE, names)
    for step in (1.0, 0.3, -2.0, 0.0):
        found = written(center, Change(step=step), names, limit)
        assert_same_bits(found, stepped(base, ONE, step, names))


@in_all_places
def test_two_threads_give_the_bits_of_one(folders, place):
    single, double = kept(folders[3], place), kept(folders[3], place, threads=2)
    assert (single.threads, double.threads) == (1, 2)
    for center in (single, double):
        center.hold(ONE, center.names)
    for change in (Change(OTHER), Change(step=0.3)):
        expected = written(single, change, single.names)
        assert_same_bits(written(double, change, double.names), expected)


@in_all_places
def test_the_direction_held_last_is_the_one_that_counts(folders, place):
    center, base = kept(folders[3], place), stored(folders[3])
    for direction in (ONE, OTHER, ONE):
        center.hold(direction, center.names)
        found = written(center, Change(step=0.5), center.names)
        assert_same_bits(found, stepped(base, direction, 0.5, center.names))


@in_all_places
def test_an_exact_change_between_steps_does_not_touch_what_is_held(folders, place):
    center, base = kept(folders[3], place), stored(folders[3])
    center.hold(ONE, center.names)
    written(center, Change(OTHER), center.names)
    found = written(center, Change(step=0.5), center.names)
    assert_same_bits(found, stepped(base, ONE, 0.5, center.names))


@in_all_places
def test_a_sum_is_kept_beside_a_resident_center_and_built_anew_beside_one_on_disk(
    folders, place, monkeypatch
):
    built, rule = [], weights.materialise

    def watched(out, direction, **options):
        built.append(set(out))
        rule(out, direction, **options)

    center = kept(folders[3], place)
    monkeypatch.setattr(weights, "materialise", watched)
    center.hold(ONE, center.names)
    at_hold = list(built)
    for _ in range(2):
        written(center, Change(step=0.5), center.names, limit=5000)
    groups = [set(group) for group in center.groups(center.names, 5000)]
    if place == "disk":
        assert at_hold == []
        assert built == groups * 2
    else:
        assert set().union(*at_hold) == set(center.names)
        assert built == at_hold


@in_all_places
def test_a_step_while_nothing_is_held_is_refused(folders, place):
    center = kept(folders[1], place)
    for _ in range(2):
        for step in (1.0, 0.0):
            with pytest.raises(EngineError, match="no direction is held"):
                written(center, Change(step=step), center.names)
        center.hold(ONE, center.names)
        written(center, Change(step=1.0), center.names)
        center.release()


@in_all_places
def test_writing_never_changes_the_center(folders, place):
    center, base = kept(folders[3], place, "float32"), stored(folders[3], "float32")
    center.hold(ONE, center.names)
    for change in (Change(ONE), Change(step=0.5), Change(), Change(step=0.0)):
        out = written(center, change, center.names)
        for tensor in out.values():
            tensor.fill_(9.0)
    center.release()
    expected = {name: base[name] for name in center.names}
    assert_same_bits(collected(center.groups(center.names)), expected)


def memory(monkeypatch, host_bytes):
    amounts = {"SC_PHYS_PAGES": host_bytes // 10, "SC_PAGE_SIZE": 10}
    monkeypatch.setattr(os, "sysconf", amounts.__getitem__)


def test_a_small_model_on_a_cpu_is_kept_by_the_host_and_a_huge_one_on_disk():
    assert choose_place("auto", 10**6, "bfloat16", CPU, 1) == "host"
    assert choose_place("auto", 10**15, "bfloat16", CPU, 1) == "disk"


def test_the_center_and_its_float32_sum_for_all_ranks_take_half_the_host_at_most(monkeypatch):
    memory(monkeypatch, 12_000)
    assert choose_place("auto", 1000, "bfloat16", CPU, 1) == "host"  # 1000 x (2 + 4) of 6000
    assert choose_place("auto", 1001, "bfloat16", CPU, 1) == "disk"
    assert choose_place("auto", 1000, "float16", CPU, 1) == "host"
    assert choose_place("auto", 750, "float32", CPU, 1) == "host"  # 750 x (4 + 4)
    assert choose_place("auto", 751, "float32", CPU, 1) == "disk"
    assert choose_place("auto", 500, "bfloat16", CPU, 2) == "host"
    assert choose_place("auto", 501, "bfloat16", CPU, 2) == "disk"


def test_an_accelerator_keeps_what_takes_a_quarter_of_its_memory(monkeypatch):
    gpu = SimpleNamespace(total_memory=2400)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    memory(monkeypatch, 12_000)
    device = torch.device("cuda")
    assert choose_place("auto", 100, "bfloat16", device, 8) == "device"
    assert choose_place("auto", 101, "bfloat16", device, 1) == "host"
    assert choose_place("auto", 101, "bfloat16", device, 10) == "disk"


@in_all_places
def test_an_explicit_choice_is_kept(place, monkeypatch):
    memory(monkeypatch, 10)
    for elements in (1, 10**15):
        assert choose_place(place, elements, "bfloat16", CPU, 1) == place


def loaded(folder, dtype="bfloat16", **changes):
    values = {
        "kind": "transformers",
        "dtype": dtype,
        "device": "cpu",
        "threads": 1,
        "chat_template": "auto",
        "max_new_tokens": 4,
        "batch_size": 4,
        "include": (".*",),
        "exclude": (),
    }
    engine = TransformersEngine(EngineSettings(**(values | changes)))
    engine.load(Center(str(folder), checkpoint.folder_digest(folder, dtype)))
    return engine


def course(engine):
    """Digests and answers of an engine along candidates, a sweep, and back to the center."""
    states = []

    def note():
        answers = engine.generate(PROMPTS), engine.next_token_logprobs(PROMPTS)
        states.append((engine.digest(), answers))

    note()
    engine.apply(ONE)
    note()
    engine.apply(OTHER)
    note()
    engine.hold(ONE)
    for step in (1.0, 0.5):
        engine.apply_step(step)
        note()
    engine.release()
    engine.apply(Direction())
    note()
    return states


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@with_shards
def test_an_engine_has_the_same_weights_and_answers_wherever_its_center_is(folders, shards, dtype):
    folder = folders[shards]
    host, device, disk = (course(loaded(folder, dtype, pristine=place)) for place in PLACES)
    assert host == device == disk
    digests = [digest for digest, _ in host]
    names = [spec.name for spec in parameters.read_specs(folder)]
    assert digests[0] == digests[-1] == checkpoint.folder_digest(folder, dtype)
    assert digests[1] == digests[3] == checkpoint.perturbed_digest(folder, dtype, names, ONE)
    assert digests[2] == checkpoint.perturbed_digest(folder, dtype, names, OTHER)
    assert digests[4] == checkpoint.tensors_digest(stepped(stored(folder, dtype), ONE, 0.5, names))
    assert len(set(digests)) == 4


def assert_moved(engine, base, direction, names):
    """The engine holds base + direction on `names` and the base elsewhere."""
    expected = base | exactly(base, direction, names)
    assert_same_bits({name: engine._working[name] for name in base}, expected)
    for name in names:
        assert not torch.equal(engine._working[name], base[name]), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@in_all_places
def test_exactly_the_named_tensors_move_and_earlier_ones_are_put_back(folders, place, dtype):
    engine, base = loaded(folders[3], dtype, pristine=place), stored(folders[3], dtype)
    names = engine._center.names
    first, second = names[:4], names[2:9:3]
    for direction, only in (
        (ONE, first),
        (OTHER, second),
        (OTHER, first[:1]),
        (ONE, None),
        (ONE, second),
        (Direction(), None),
        (ONE, first),
        (Direction(), first),
        (OTHER, ()),
    ):
        engine.apply(direction, only)
        moved = names if only is None else only
        assert_moved(engine, base, direction, moved if direction.terms else ())
    engine.hold(ONE)
    engine.apply_step(0.5)
    engine.apply(OTHER, second)
    assert_moved(engine, base, OTHER, second)


@in_all_places
def test_an_engine_never_changes_its_center(folders, place):
    engine, base = loaded(folders[1], "float32", pristine=place), stored(folders[1], "float32")
    course(engine)
    engine.apply(ONE)
    assert_same_bits(collected(engine._center.groups(list(base))), base)
