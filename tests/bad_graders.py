"""A task whose grader does what a grader must not: hangs, crashes, raises, rewards too much."""

from __future__ import annotations

import os
import sys
import time

from corp_ray.records import Example


def naughty(answer: str, text: str) -> float:
    match text:
        case "hang":
            time.sleep(3600)
        case "hang in C":
            9**9**9
        case "crash":
            os._exit(1)
        case "recurse":
            sys.setrecursionlimit(10**9)
            return naughty(answer, "deeper ") + eval("(" * 100_000)
        case "raise":
            raise RuntimeError("broken")
        case "exit":
            raise SystemExit(0)
        case "too much":
            return 1.5
        case "not a number":
            return float("nan")
        case "shout":
            sys.stdout.write("[1.0]\n")
            os.write(1, b"[1.0]\n")
    return float(text == answer)


EXAMPLES = [Example(str(n), f"say {n}", str(n)) for n in range(200)]


def patient(answer: str, text: str) -> float:
    """Waits until the file that the answer names is there, and notes that it did."""
    with open(answer + ".graded", "a") as journal:
        journal.write(f"{os.getpid()}\n")
    while not os.path.exists(answer):
        time.sleep(0.02)
    return 1.0


def unbearable(answer: str) -> bool:
    return int(answer) % 120 == 7


def crashing(answer: str, text: str) -> float:
    """The number, but for a few answers that it cannot bear."""
    if unbearable(answer):
        os._exit(1)
    return float(text.strip() == answer)


def slow(answer: str, text: str) -> float:
    """Grading takes longer than the fake engine's answers: the next candidate's are there first."""
    time.sleep(0.002)
    return float(text.strip() == answer)
