"""The configuration: every file in conf/ loads, overrides merge, and each mistake is one line that
names field and value. Neither it nor the driver side brings torch along."""

import subprocess
import sys
from pathlib import Path

import pytest

from corp_ray import cli, config
from corp_ray.errors import ConfigError
from corp_ray.settings import PopulationConfig

ROOT = Path(__file__).resolve().parent.parent
CONF = sorted((ROOT / "conf").rglob("*.yaml"))
DRIVER = ["search", "scoring", "pool", "population", "consolidate", "recenter", "gate"]
DRIVER += ["reward_table", "preparation"]


@pytest.fixture
def written(tmp_path):
    """Write a configuration file that holds `text` after the two settings without a default."""

    def write(text="", *, required="model: {path: m}\ntask: {dataset: chain_sum}\n"):
        path = tmp_path / "experiment.yaml"
        path.write_text(required + text, "utf-8")
        return str(path)

    return write


def mistake(path, *overrides):
    """The one line that loading ends with."""
    with pytest.raises(ConfigError) as raised:
        config.load(path, overrides)
    assert len(str(raised.value).splitlines()) == 1
    assert raised.value.exit_code == 2
    return str(raised.value)


@pytest.mark.parametrize("path", CONF, ids=lambda path: path.name)
def test_every_configuration_file_loads(path):
    assert config.load(str(path)).run.id
    assert config.load(str(path), ["run.id=other"]).run.id == "other"


def test_there_are_configuration_files():
    assert CONF


def test_defaults_are_the_papers_scale(written):
    loaded = config.load(written())
    assert loaded.population == PopulationConfig(500, [5e-4, 1e-3, 2e-3])
    assert (loaded.splits.support, loaded.splits.validation) == (500, 100)
    grid = loaded.consolidation
    assert grid.quantiles == [0.5, 0.7, 0.9]
    assert grid.inverse_temperatures == [0.5, 1, 2, 5, 10, 20, 50]
    assert grid.steps == [0.5, 1, 2, 4, 8, 16]
    assert (grid.rank, loaded.model.dtype) == (8, "bfloat16")
    assert (loaded.recentering.rounds, loaded.recentering.population) == (3, 100)
    assert (loaded.gate.alpha, loaded.recentering.regression_weight) == (0.05, 2.0)


def test_overrides_win_over_the_file_and_a_run_is_named_after_it(written):
    path = written("population: {size: 8, sigmas: [0.1]}\nsplits: {support: 7}\n")
    loaded = config.load(
        path,
        [
            "population.size=9",
            "population.sigmas=[1e-3,0.2]",
            "perturb.include=[model.layers.*]",
            "task.arguments={min_terms: 2, digits: [1, 2]}",
            "task.arguments.max_terms=3",
            "task.partial_credit=false",
            "model.path=a=b",
        ],
    )
    assert loaded.population == PopulationConfig(9, [1e-3, 0.2])
    assert loaded.splits.support == 7
    assert loaded.perturb.include == ["model.layers.*"]
    assert loaded.task.arguments == {"min_terms": 2, "digits": [1, 2], "max_terms": 3}
    assert loaded.task.partial_credit is False
    assert loaded.model.path == "a=b"
    assert loaded.run.id == "experiment"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("populaton.size=3", ["populaton", "did you mean 'population'"]),
        ("population.siez=3", ["population.siez", "did you mean 'size'"]),
        ("splits.suport=3", ["splits.suport", "did you mean 'support'"]),
        ("zzz=3", ["unknown key zzz=3", "known here: run, model"]),
        ("population=3", ["population=3", "expected a mapping"]),
        ("population.size=many", ["population.size", "'many'"]),
        ("population.size=3.5", ["population.size", "'3.5'"]),
        ("population.size=null", ["population.size", "None"]),
        ("population.sigmas=0.1", ["population.sigmas"]),
        ("population.sigmas=[a]", ["population.sigmas", "'a'"]),
        ("population.sigmas={a: 1}", ["population.sigmas"]),
        ("task.partial_credit=maybe", ["task.partial_credit", "'maybe'"]),
        ("run.id=${nowhere}", ["run.id", "nowhere"]),
        ("population.size=0", ["population.size=0", "at least 1"]),
        ("population.sigmas=[0.1,0]", ["population.sigmas=0.0"]),
        ("population.sigmas=[-0.1]", ["population.sigmas=-0.1", "above 0"]),
        ("population.sigmas=[.nan]", ["population.sigmas=nan"]),
        ("population.sigmas=[.inf]", ["population.sigmas=inf"]),
        ("population.sigmas=[]", ["population.sigmas=[]"]),
        ("population.sigmas=[0.1,0.2,0.1]", ["population.sigmas", "once"]),
        ("consolidation.quantiles=[]", ["consolidation.quantiles=[]"]),
        ("consolidation.quantiles=[0.5,1.5]", ["consolidation.quantiles=1.5"]),
        ("consolidation.quantiles=[-0.1]", ["consolidation.quantiles=-0.1"]),
        ("consolidation.inverse_temperatures=[]", ["consolidation.inverse_temperatures=[]"]),
        ("consolidation.inverse_temperatures=[-1]", ["consolidation.inverse_temperatures=-1.0"]),
        ("consolidation.steps=[0]", ["consolidation.steps=0.0"]),
        ("consolidation.steps=[2,2.0]", ["consolidation.steps", "once"]),
        ("consolidation.compatibility=-1", ["consolidation.compatibility=-1.0"]),
        ("gate.alpha=0", ["gate.alpha=0.0", "above 0"]),
        ("gate.alpha=.nan", ["gate.alpha=nan"]),
        ("splits.gate=1", ["splits.gate=1", "at least 2"]),
        ("run.seed=-1", ["run.seed=-1"]),
        ("run.seed=9223372036854775808", ["run.seed=9223372036854775808"]),
        ("run.id=a/b", ["run.id='a/b'"]),
        ("run.id=..", ["run.id='..'"]),
        ("model.path=''", ["model.path=''"]),
        ("model.dtype=int8", ["model.dtype='int8'", "bfloat16"]),
        ("task.kind=exams", ["task.kind='exams'", "rows"]),
        ("task.kind=rows", ["task.path=''", "rows"]),
        ("task.sandbox=none", ["task.sandbox='none'", "strict"]),
        ("engine.kind=vlm", ["engine.kind='vlm'"]),
        ("engine.device=tpu", ["engine.device='tpu'"]),
        ("ray.gpus_per_engine=-0.5", ["ray.gpus_per_engine=-0.5"]),
        ("perturb.exclude=['(a']", ["perturb.exclude='(a'", "regular expression"]),
        ("task.answer_pattern='#### .*'", ["task.answer_pattern", "group"]),
        ("task.answer_pattern='(a)(b)'", ["task.answer_pattern", "group"]),
        ("task.answer_pattern='x\\(y'", ["task.answer_pattern", "group"]),
        ("lonely", ["argument 'lonely'", "key=value"]),
        ("=3", ["argument '=3'", "key=value"]),
        ("run={id: a", ["run={id: a"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field_and_its_value(written, override, parts):
    line = mistake(written(), override)
    for part in parts:
        assert part in line


@pytest.mark.parametrize("edge", ["consolidation.quantiles=[0,1]", "consolidation.steps=[1e-9]"])
def test_the_edges_of_a_range_are_inside(written, edge):
    config.load(written(), [edge])


def test_a_missing_a_broken_and_a_foreign_file_are_mistakes(written, tmp_path):
    assert "nowhere.yaml" in mistake(str(tmp_path / "nowhere.yaml"))
    assert str(tmp_path) in mistake(str(tmp_path))
    assert "experiment.yaml" in mistake(written("model: {path: m\n", required=""))
    assert "duplicate key" in mistake(written("model: {path: n}\n"))
    assert "expected a mapping" in mistake(written("[1, 2]\n", required=""))
    assert "model.path" in mistake(written("", required=""))
    assert "model.path" in mistake(None, "run.id=a")


def test_the_printed_configuration_loads_to_the_same_one(tmp_path, capsys):
    arguments = ["--config", str(CONF[0]), "--print-config", "population.sigmas=[1e-5,0.1]"]
    arguments += ["task.arguments={a: {b: [1, x]}}", "perturb.exclude=['a: b', '#c']"]
    with pytest.raises(SystemExit) as ended:
        cli.parse_config("", arguments)
    assert ended.value.code == 0
    again = tmp_path / "again.yaml"
    again.write_text(capsys.readouterr().out)
    expected = config.load(str(CONF[0]), [a for a in arguments[3:] if "=" in a])
    assert config.load(str(again)) == expected
    assert expected.perturb.exclude == ["a: b", "#c"]
    assert config.to_yaml(config.load(str(again))) == again.read_text()


def test_configuration_and_driver_side_import_neither_torch_nor_vllm():
    names = ", ".join(f"corp_ray.{name}" for name in ("config", *DRIVER))
    code = (
        "import sys, corp_ray.config\n"
        "early = {'torch', 'transformers', 'vllm', 'ray'} & set(sys.modules)\n"
        f"import {names}\n"
        "late = {'torch', 'transformers', 'vllm'} & set(sys.modules)\n"
        "sys.exit(f'{sorted(early)} {sorted(late)}' if early or late else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
