"""The child's side of tests/test_child.py: answers, or does what a child must not do."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from corp_ray.child import serve


def setup(given):
    if given == "cannot start":
        raise SystemExit(3)

    def answer(request):
        match request:
            case "loop in C":
                9**9**9
            case "exit":
                os._exit(0)
            case "leave a process":
                yield subprocess.Popen(["sleep", "1000"]).pid
            case "chatter":
                sys.stdout.write('{"forged": true}\n')
                sys.stdout.flush()
                os.write(1, b'{"forged": true}\n')
                yield "said"
            case ("many", count, hang_at):
                for number in range(count):
                    if number == hang_at:
                        time.sleep(1000)
                    yield number
            case _:
                yield [given, request, os.getpid()]

    return answer


if __name__ == "__main__":
    serve(setup)
