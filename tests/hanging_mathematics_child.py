"""The child that compares mathematical answers, with answers on which it hangs or dies."""

from __future__ import annotations

import os

from corp_ray.child import serve
from corp_ray.tasks.mathematics_child import compare


def setup(_):
    def answer(request):
        if "hang" in request[1]:
            9**9**9
        if "die" in request[1]:
            os._exit(1)
        yield compare(*request)

    return answer


if __name__ == "__main__":
    serve(setup)
