"""A real S3 server on loopback for tests: moto's, as a process of its own, with a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "corp-test", "AWS_SECRET_ACCESS_KEY": "not-to-be-seen"}
BUCKET = "bucket"


@dataclass(frozen=True)
class S3Server:
    """A running server; `client` is one that shares no code with what is under test."""

    process: subprocess.Popen
    port: int

    @property
    def client(self):
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def url(self, path: str, bucket: str = BUCKET) -> str:
        options = f"endpoint_override=http://127.0.0.1:{self.port}&region=us-east-1"
        return f"s3://{bucket}/{path}?{options}"

    def keys(self, prefix: str = "", bucket: str = BUCKET) -> list[str]:
        """Every object's key below a prefix; marks of empty folders left out."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [key for key in keys if not key.endswith("/")]

    def objects(self, prefix: str = "", bucket: str = BUCKET) -> dict[str, bytes]:
        """Every object below a prefix by its key; nobody may be removing any."""
        client = self.client
        return {
            key: client.get_object(Bucket=bucket, Key=key)["Body"].read()
            for key in self.keys(prefix, bucket)
        }


@contextmanager
def serving(**environment: str) -> Iterator[S3Server]:
    """A server with one empty bucket. Nothing of it outlives the context."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "the S3 server ended"
                time.sleep(0.05)
        server = S3Server(process, port)
        server.client.create_bucket(Bucket=BUCKET)
        yield server
    finally:
        process.kill()
        process.wait()
