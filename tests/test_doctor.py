"""The doctor finds what would spoil a run, each by its own line, and passes what is sound."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from corp_ray import config as configuration
from corp_ray.doctor import examine
from corp_ray.doctor_splits import check_gate
from corp_ray.findings import OK, PROBLEM, WARNING
from corp_ray.records import Example, Grade
from tests import pico, runs


def strict_hashes(answer: str, text: str) -> float:
    """Takes #### 7 and nothing else."""
    found = re.search(r"#### (\d+)", text)
    return float(found is not None and found.group(1) == answer)


def generous(answer: str, text: str) -> float:
    """Takes everything."""
    return 1.0


def impatient(answer: str, text: str) -> float:
    """Has a defect that right answers meet."""
    return float(int(text) / (int(answer) % 7) == 1)


class Answers:
    """A task whose examples a test gives, graded by equality."""

    version = "answers 1"
    given: tuple[Example, ...] = ()

    def examples(self):
        return self.given

    def prompt(self, example):
        return [{"role": "user", "content": f"{example.question} [{example.id}]"}]

    def reward(self, example, text):
        return Grade(float(text == example.answer))


def rows(folder, count=80, question="How much is {n} and nothing?", answer="{n}"):
    path = folder / "task.jsonl"
    path.write_text(
        "".join(
            json.dumps({"question": question.format(n=n), "answer": answer.format(n=n)}) + "\n"
            for n in range(1, count + 1)
        )
    )
    return path


@pytest.fixture
def model(tmp_path):
    return pico.pico_llama(tmp_path / "pico-instruct")


def findings(model, path, **changes):
    settings = {
        "model.path": model,
        "task.kind": "rows",
        "task.path": path,
        "task.grader": "numeric",
        "splits.support": 20,
        "splits.validation": 20,
        "splits.gate": 20,
        "splits.test": 20,
        "decoding.max_new_tokens": 32,
        "run.id": "doctor",
        **changes,
    }
    return list(examine(configuration.load(None, [f"{k}={v}" for k, v in settings.items()])))


def problems(found):
    return [(f.check, f.text) for f in found if f.level == PROBLEM]


def test_a_sound_task_passes_with_three_prompts_as_the_model_reads_them(model, tmp_path):
    found = findings(model, rows(tmp_path), **{"task.system_prompt": "Reply with a number."})
    assert problems(found) == []
    shown = [f.shown for f in found if f.shown]
    assert len(shown) == 3
    assert all(text.startswith("<|start|>system\nReply with a number.<|end|>") for text in shown)
    assert all(text.endswith("and nothing?<|end|>\n<|start|>assistant\n") for text in shown)
    cost = next(f.text for f in found if f.check == "cost")
    assert re.search(r"at most [\d.,]+ million tokens read and [\d.,]+ million written", cost)
    assert {f.check for f in found} >= {
        "rows",
        "answers",
        "splits",
        "gate",
        "gold",
        "wrong",
        "format",
    }


def test_a_format_that_is_asked_for_and_not_graded_is_found(model, tmp_path):
    asked = {"task.grader": "exact", "task.system_prompt": "End with '#### ' and the number."}
    ((check, text),) = problems(findings(model, rows(tmp_path), **asked))
    assert check == "format"
    assert text.startswith("format mismatch: the prompt asks for '####', and 50 of 50 right")


def test_a_format_that_is_graded_and_not_asked_for_is_found(model, tmp_path):
    found = findings(model, rows(tmp_path), **{"task.grader": "tests.test_doctor:strict_hashes"})
    checks = dict(problems(found))
    assert "80 of 80 right answers are not graded 1" in checks["gold"]
    assert "the prompt does not ask for '####'" in checks["format"]


def test_missing_answers_are_found_with_their_row(model, tmp_path):
    path = rows(tmp_path)
    lines = path.read_text().splitlines()
    lines[6] = json.dumps({"question": "How much?", "answer": ""})
    path.write_text("\n".join(lines))
    ((check, text),) = problems(findings(model, path))
    assert check == "rows"
    assert "line 7: no 'answer'" in text


@pytest.fixture
def answers(monkeypatch):
    """Findings about a task of given examples, made in this process and graded in another."""

    def found(model, path, examples):
        monkeypatch.setattr("corp_ray.doctor.make_task", lambda **_: task)
        task = Answers()
        task.given = tuple(examples)
        return findings(model, path)

    return found


def test_empty_answers_of_a_task_of_ones_own_are_found(model, tmp_path, answers):
    path = rows(tmp_path)
    given = [Example(str(n), f"What is {n}?", str(n) if n % 40 else " ") for n in range(1, 81)]
    assert ("answers", "2 examples without: 40, 80") in problems(answers(model, path, given))


def test_splits_that_share_questions_or_ids_are_found(model, tmp_path, answers):
    path = rows(tmp_path)
    given = [
        Example(str(n), f"What is  {n % 40}?" + " " * (n // 40), str(n % 40)) for n in range(80)
    ]
    checks = problems(answers(model, path, given))
    assert any(
        c == "splits" and re.search(r"support and \w+ overlap: \d+ questions are the same", t)
        for c, t in checks
    )
    given = [Example(str(n % 79), f"What is {n}?", str(n)) for n in range(80)]
    assert any("ids (0): one row twice?" in t for c, t in problems(answers(model, path, given)))


def test_minus_and_plus_make_different_questions(model, tmp_path, answers):
    given = [Example(f"{n}{s}", f"What is {n} {s} 1?", f"{n}") for n in range(40) for s in "+-"]
    assert "splits" not in dict(problems(answers(model, rows(tmp_path), given)))


def test_splits_larger_than_the_task_are_found(model, tmp_path):
    ((check, text),) = problems(findings(model, rows(tmp_path, 79)))
    assert check == "rows"
    assert "= 80 examples, but the task has 79 distinct ones" in text


@pytest.mark.parametrize("never", [False, True])
def test_an_instruct_model_without_its_template_is_found(tmp_path, never):
    model = pico.pico_llama(
        tmp_path / "Pico-Instruct", chat_template=pico.CHAT_TEMPLATE if never else None
    )
    changes = {"model.chat_template": "never"} if never else {}
    ((check, text),) = problems(findings(model, rows(tmp_path), **changes))
    assert check == "template"
    expected = "leaves out the template" if never else "its tokenizer has no chat template"
    assert text.startswith("pico-instruct: ") and expected in text


def test_a_base_model_needs_no_template(tmp_path):
    model = pico.pico_llama(tmp_path / "pico", chat_template=None)
    found = findings(model, rows(tmp_path))
    assert problems(found) == []
    assert "no template, plain text" in [f.text for f in found]


def test_a_template_that_drops_the_system_message_is_found(tmp_path):
    deaf = pico.CHAT_TEMPLATE.replace(
        "{{ message['content'] }}",
        "{% if message['role'] == 'user' %}{{ message['content'] }}{% endif %}",
    )
    model = pico.pico_llama(tmp_path / "pico", chat_template=deaf)
    changes = {"task.system_prompt": "Reply with a number."}
    ((check, text),) = problems(findings(model, rows(tmp_path), **changes))
    assert check == "template"
    assert "drops or changes a message: 'Reply with a number.'" in text


def test_answers_longer_than_the_token_limit_are_found(model, tmp_path):
    path = rows(tmp_path, answer="{n}000000000000000")
    ((check, text),) = problems(findings(model, path, **{"decoding.max_new_tokens": 16}))
    assert check == "lengths"
    assert text == (
        "right answers have up to 17 tokens, decoding.max_new_tokens=16: 80 of 80 cannot be written "
        "in full"
    )


def test_prompts_longer_than_the_model_are_found(model, tmp_path):
    path = rows(tmp_path, question="{n}" + "?" * 600)
    ((check, text),) = problems(findings(model, path))
    assert check == "prompts"
    assert "the model takes 512 in all" in text


def test_a_grader_that_takes_everything_is_found(model, tmp_path):
    found = findings(model, rows(tmp_path), **{"task.grader": "tests.test_doctor:generous"})
    wrong = [text for check, text in problems(found) if check == "wrong"]
    assert wrong[0] == "'' is graded above 0 on 50 of 50 examples"
    assert wrong[-1].startswith("50 of 50 answers to another question are graded 1")


def test_what_is_earned_without_thought_is_measured(model, tmp_path):
    """A number that stands last in its question, and answers of which three in four are 1."""
    (finding,) = (f for f in findings(model, rows(tmp_path)) if f.check == "shortcuts")
    assert finding.level == WARNING
    assert re.search(r"on 80 examples for always writing '\d+': 0\.01[23]; ", finding.text)
    assert "for repeating the question: 1.000; a model can gain that much" in finding.text
    path = rows(tmp_path, question="How many letters has word {n} on page 999?")
    (finding,) = (f for f in findings(model, path) if f.check == "shortcuts")
    assert finding.level == OK and finding.text.endswith("repeating the question: 0.000")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["answer"] = "1" if number % 4 else "2"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (finding,) = (f for f in findings(model, path) if f.check == "shortcuts")
    assert finding.level == WARNING
    assert "on 80 examples for always writing '1': 0.750; " in finding.text


def test_a_grader_that_fails_is_found_with_its_reason(model, tmp_path):
    found = findings(model, rows(tmp_path), **{"task.grader": "tests.test_doctor:impatient"})
    assert any(
        check == "gold" and "failed on 11 of 80" in text and "ZeroDivisionError" in text
        for check, text in problems(found)
    )


def test_a_model_that_is_not_there_does_not_keep_the_task_from_being_checked(tmp_path):
    found = findings(tmp_path / "absent", rows(tmp_path))
    ((check, text),) = problems(found)
    assert check == "prompts"
    assert "no such folder" in text
    assert {f.check for f in found if f.level == OK} >= {"gold", "wrong"}


@pytest.mark.parametrize(
    ("examples", "level"), [(4, PROBLEM), (5, WARNING), (30, WARNING), (256, OK)]
)
def test_a_gate_too_small_to_decide_is_found(examples, level):
    (finding,) = check_gate(examples, 0.05, 0.0)
    assert finding.level == level


def doctor(*overrides):
    command = [sys.executable, "-m", "jobs.doctor", *overrides]
    return subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, timeout=300)


def test_the_job_prints_every_finding_and_ends_with_2_when_one_spoils_a_run(model, tmp_path):
    path = rows(tmp_path)
    common = ["task.kind=rows", f"task.path={path}", f"model.path={model}", "run.id=doctor"]
    sizes = [f"splits.{name}=20" for name in ("support", "validation", "gate", "test")]
    fine = doctor(*common, *sizes, "task.grader=numeric")
    assert fine.returncode == 0, fine.stderr
    assert "nothing found that would spoil a run" in fine.stdout
    assert "        | <|start|>user" in fine.stdout
    bad = doctor(*common, *sizes, "task.grader=tests.test_doctor:generous")
    assert bad.returncode == 2
    assert bad.stdout.count("PROBLEM wrong: ") == 3
    assert bad.stderr.splitlines()[-1] == "error: 3 problems found, see above"
