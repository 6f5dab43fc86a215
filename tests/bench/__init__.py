"""Speed and memory against plain alternatives: `python -m tests.bench`."""
