"""A small Hugging Face hub on loopback: one public data set with Parquet files, as a process.

It speaks the part of the hub's protocol that the packages huggingface_hub and datasets use to find
and download a data set's files: repository info, trees, paths, and files with their commit. Every
request is written to standard output.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def application(folder: Path, dataset: str):
    """The hub as a Flask application: the files of `folder` are the data set's."""
    from flask import Flask, Response, jsonify, request

    app = Flask("hub")
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())

    def refusal(code: str, message: str) -> Response:
        return Response(message, 404, {"X-Error-Code": code, "X-Error-Message": message})

    def known(owner: str, name: str, revision: str) -> Response | None:
        if f"{owner}/{name}" != dataset:
            return refusal("RepoNotFound", "Repository not found")
        if revision not in ("main", COMMIT):
            return refusal("RevisionNotFound", "Invalid rev id")
        return None

    def entry(path: str) -> dict:
        content = (folder / path).read_bytes()
        blob = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": path, "size": len(content), "oid": blob}

    def directories() -> list[str]:
        return sorted({str(Path(path).parent) for path in files} - {"."})

    @app.get("/api/datasets/<owner>/<name>", defaults={"revision": "main"})
    @app.get("/api/datasets/<owner>/<name>/revision/<revision>")
    def info(owner: str, name: str, revision: str):
        siblings = [{"rfilename": path} for path in files]
        return known(owner, name, revision) or jsonify(
            {"id": dataset, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
        )

    @app.get("/api/datasets/<owner>/<name>/tree/<revision>", defaults={"below": ""})
    @app.get("/api/datasets/<owner>/<name>/tree/<revision>/<path:below>")
    def tree(owner: str, name: str, revision: str, below: str):
        refused = known(owner, name, revision)
        if refused:
            return refused
        if below and below not in directories():
            return refusal("EntryNotFound", "Not found")
        deep = request.args.get("recursive", "").lower() == "true"
        every = [entry(path) for path in files]
        every += [{"type": "directory", "path": d, "oid": "0" * 40} for d in directories()]
        prefix = f"{below}/" if below else ""
        return jsonify(
            [
                e
                for e in every
                if e["path"].startswith(prefix)
                and (deep or "/" not in e["path"].removeprefix(prefix))
            ]
        )

    @app.post("/api/datasets/<owner>/<name>/paths-info/<revision>")
    def paths(owner: str, name: str, revision: str):
        asked = request.form.getlist("paths") or (request.get_json(silent=True) or {})["paths"]
        every = [entry(path) for path in files if path in asked]
        every += [
            {"type": "directory", "path": d, "oid": "0" * 40} for d in directories() if d in asked
        ]
        return known(owner, name, revision) or jsonify(every)

    @app.get("/datasets/<owner>/<name>/resolve/<revision>/<path:path>")
    def resolve(owner: str, name: str, revision: str, path: str):
        refused = known(owner, name, revision)
        if refused:
            return refused
        if path not in files:
            return refusal("EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{entry(path)["oid"]}"'}
        return Response((folder / path).read_bytes(), 200, headers)

    return app


@contextmanager
def serving(folder: Path, dataset: str) -> Iterator[str]:
    """The address of a hub that serves `folder` as `dataset`. Nothing of it outlives the context."""
    command = [sys.executable, "-m", "tests.hub_server", str(folder), dataset]
    log = folder.parent / "hub.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, text=True)
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, application(Path(sys.argv[1]), sys.argv[2]))
    sys.stdout.write(f"http://127.0.0.1:{server.port}\n")
    sys.stdout.flush()
    server.serve_forever()
