"""The configuration: every file in conf/ loads, overrides merge, and each mistake is one line that
names field and value. Neither it nor the driver side brings torch along."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from corp_ray import cli, config
from corp_ray.errors import ConfigError
from corp_ray.settings import PopulationConfig

ROOT = Path(__file__).resolve().parent.parent
MODELS = sorted((ROOT / "conf/models").glob("*.yaml"))
CONF = sorted(set((ROOT / "conf").rglob("*.yaml")) - set(MODELS))
PAPER = ["gsm8k", "math500", "olympiadbench", "countdown", "mbpp", "rocstories"]
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
    assert len(MODELS) == 5


@pytest.mark.parametrize("task", PAPER)
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_every_model_of_the_paper_goes_over_every_task_of_it(path, task):
    """A model's file says nothing of the task, a task's splits stay, and the run is named after both."""
    alone = config.load(str(ROOT / f"conf/{task}.yaml"))
    both = config.load([str(ROOT / f"conf/{task}.yaml"), str(path)])
    assert both.run.id == f"{task}-{path.stem}"
    assert (both.task, both.splits) == (alone.task, alone.splits)
    assert both.decoding.max_new_tokens == alone.decoding.max_new_tokens
    assert both.population == PopulationConfig(500, [5e-4, 1e-3, 2e-3])
    assert (both.engine.kind, both.engine.tensor_parallel) == ("vllm", 1)
    assert both.model.path.rpartition("/")[2].lower() == f"{path.stem}-instruct"


def table(name):
    """Rows of the table of conf/README.md whose first heading is `name`, as cells, by first cell."""
    lines = (ROOT / "conf/README.md").read_text("utf-8").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith(f"| {name} |"))
    rows = {}
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        first, *rest = (cell.strip(" `") for cell in line.strip("|").split("|"))
        rows[first] = rest
    return rows


def gigabytes(number):
    return f"{number / 1e9:.1f} GB"


def test_the_readme_says_what_a_models_memory_comes_to():
    """Parameters and the cache's bytes a token are the models' own; all else follows from them."""
    gpu, largest = 80e9, [136_134_656, 233_373_696, 311_164_928, 410_738_688, 525_336_576]
    rows = table("`models/`")
    assert list(rows) == sorted(rows, key=lambda name: float(rows[name][1].replace(",", "")))
    assert {f"{name}.yaml" for name in rows} == {path.name for path in MODELS}
    for (name, cells), elements in zip(rows.items(), largest, strict=True):
        path = config.load([str(CONF[0]), str(ROOT / f"conf/models/{name}.yaml")]).model.path
        assert cells[0].split()[0] == path
        size, cache = int(cells[1].replace(",", "")), int(cells[7].removesuffix(" KiB")) * 1024
        center = 6 * size
        on_device = center <= gpu / 4
        left = 0.9 * gpu - 2 * size - 14 * elements - (center if on_device else 0)
        assert cells[2:7] == [
            gigabytes(2 * size),
            gigabytes(center),
            "device" if on_device else "host",
            gigabytes(14 * elements),
            gigabytes(left),
        ]
        assert int(cells[8].replace(",", "")) == pytest.approx(left / cache, abs=500)


@pytest.mark.parametrize("task", PAPER)
def test_the_readme_says_how_many_answers_a_run_asks_for(task):
    loaded = config.load(str(ROOT / f"conf/{task}.yaml"))
    grid, splits, later = loaded.consolidation, loaded.splits, loaded.recentering
    proposals = len(grid.quantiles) * len(grid.inverse_temperatures) * len(grid.steps)
    rounds = 1 + later.rounds
    population = loaded.population.size + later.rounds * later.population
    counts = [
        (population + rounds) * splits.support,
        rounds * (proposals + 1) * splits.validation,
        rounds * 2 * splits.gate,
        3 * splits.test,
    ]
    tokens = sum(counts) * loaded.decoding.max_new_tokens
    expected = [f"{count:,}" for count in (*counts, sum(counts))]
    assert table("task")[task] == [*expected, f"{tokens / 1e6:.0f} million"]


def test_later_files_win_and_a_mistake_names_its_file(written, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("population: {size: 8}\nsplits: {support: 7}\n")
    loaded = config.load([written("population: {size: 9}\n"), str(other)], ["splits.support=6"])
    assert (loaded.population.size, loaded.splits.support) == (8, 6)
    assert (loaded.model.path, loaded.run.id) == ("m", "experiment-other")
    given = ["--config", written(), "population.size=3", "--config", str(other), "run.id=a"]
    parsed = cli.parse_config("", given)
    assert (parsed.population.size, parsed.splits.support, parsed.run.id) == (3, 7, "a")
    other.write_text("populaton: {size: 8}\n")
    line = mistake([written(), str(other)])
    assert line.startswith(f"--config {other}: unknown key populaton=")
    other.write_text("population: {size: many}\n")
    assert mistake([written(), str(other)]).startswith(f"--config {other}: population.size: ")
    assert "nowhere.yaml" in mistake([written(), "nowhere.yaml"])


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


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("End with #### and the number.", "End with #### and the number."),
        ("Reply so: a number", "Reply so: a number"),
        ("yes", "yes"),
        ("[a, b]", "[a, b]"),
        ("'in quotes: #'", "in quotes: #"),
        ('"two\\nlines"', "two\nlines"),
        ("'a' or 'b'", "'a' or 'b'"),
        ("a = b", "a = b"),
        ("1e-3", "1e-3"),
        ("", ""),
        ("null", ""),
    ],
)
def test_a_text_on_the_command_line_is_taken_as_it_stands(written, given, text):
    assert config.load(written(), [f"task.system_prompt={given}"]).task.system_prompt == text


def test_a_mapping_on_the_command_line_takes_the_place_of_the_files(written):
    file = written(
        "task: {dataset: chain_sum, arguments: {min_terms: 2, max_terms: 3}}\n",
        required="model: {path: m}\n",
    )
    for given, expected in (
        (["task.arguments={}"], {}),
        (["task.arguments={digits: 4}"], {"digits": 4}),
        (["task.arguments.min_terms=1"], {"min_terms": 1, "max_terms": 3}),
        (["task.arguments={digits: 4}", "task.arguments.more=1"], {"digits": 4, "more": 1}),
    ):
        assert config.load(file, given).task.arguments == expected
    assert config.load(file).task.arguments == {"min_terms": 2, "max_terms": 3}


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
        ("tracking.wandb_mode=wifi", ["tracking.wandb_mode='wifi'", "'', online, offline"]),
        ("ray.gpus_per_engine=-0.5", ["ray.gpus_per_engine=-0.5"]),
        ("perturb.exclude=['(a']", ["perturb.exclude='(a'", "regular expression"]),
        ("task.answer_pattern='#### .*'", ["task.answer_pattern", "group"]),
        ("task.answer_pattern='(a)(b)'", ["task.answer_pattern", "group"]),
        ("task.answer_pattern='x\\(y'", ["task.answer_pattern", "group"]),
        ("task.arguments=[1]", ["task.arguments=[1]: expected a mapping"]),
        ("engine.options=", ["engine.options=None: expected a mapping"]),
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
    assert mistake(None, "model.path=m").startswith("--config: expected a YAML file")


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


@pytest.mark.parametrize(
    ("reads", "code"), [(True, 0), (False, 141)], ids=["a file", "closed pipe"]
)
@pytest.mark.parametrize(
    "job",
    [
        ["-m", "jobs.posttrain", "--config", str(CONF[0]), "--print-config"],
        ["-m", "jobs.results", *map(str, sorted((ROOT / "docs/results/runs").glob("*-0")))],
        [
            "-c",
            "from corp_ray import cli, display\ncli.run_job(lambda: display.show_evaluation([]))",
        ],
    ],
    ids=["configuration", "tables", "a table of rich"],
)
def test_whoever_stops_reading_ends_a_job_without_a_traceback(tmp_path, job, reads, code):
    out, into = os.pipe()
    os.close(out)
    with open(into, "w") as pipe, (tmp_path / "out").open("w") as file:
        done = subprocess.run(
            [sys.executable, *job],
            cwd=ROOT,
            stdout=file if reads else pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (code, "")
    assert bool((tmp_path / "out").stat().st_size) == reads


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
