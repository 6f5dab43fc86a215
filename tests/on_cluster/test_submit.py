"""`ray job submit`: the code travels with the job, runs go to their commit, exit codes come back."""

from __future__ import annotations

import json

from tests import runs


def found_by(out):
    (line,) = [line for line in out.splitlines() if line.startswith("FOUND ")]
    return json.loads(line.removeprefix("FOUND "))


def test_every_node_imports_the_code_that_the_job_carries(cluster, source, submission):
    """An installed corp_ray is on every node too: this environment's."""
    process = cluster.submit(source, submission(), "python", "-m", "tests.on_cluster.where")
    code, out, err = runs.finish(process)
    assert code == 0, out + err
    found = found_by(out)
    assert found.keys() == {"driver"} | cluster.alive().keys()
    assert len(found) >= 4
    for node, files in found.items():
        assert files.pop("mark") == "carried by the job"
        home = cluster.nodes["head" if node == "driver" else node].folder
        for file in files.values():
            assert file.startswith(f"{home}/t/session_"), (node, file)
            assert "/runtime_resources/working_dir_files/" in file


def test_a_submitted_run_commits_what_a_local_run_commits(
    cluster, source, submission, undisturbed, tmp_path
):
    config, files = undisturbed
    job = submission()
    command = ("python", "-m", "jobs.posttrain", f"--config={config}")
    process = cluster.submit(source, job, *command, f"run.directory={tmp_path}")
    code, out, err = runs.finish(process)
    assert code == 0, out + err
    assert cluster.job(job)["driver_exit_code"] == 0
    assert runs.commit_files(tmp_path / "run") == files


def test_a_refused_run_fails_the_job_with_its_line_and_exit_code(
    cluster, source, submission, tmp_path
):
    config = runs.workspace(tmp_path)
    job = submission()
    command = ("python", "-m", "jobs.posttrain", f"--config={config}", "population.size=0")
    code, out, err = runs.finish(cluster.submit(source, job, *command))
    assert code == 1, out + err  # what `ray job submit` makes of every failed job
    ended = cluster.job(job)
    assert ended["driver_exit_code"] == 2
    assert ended["message"].splitlines()[-1] == "error: population.size=0: expected at least 1"
