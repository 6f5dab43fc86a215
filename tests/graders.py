"""Graders for runs on a pico model, whose answers are noise: what they reward can be searched for."""

from __future__ import annotations


def plain(answer: str, text: str) -> float:
    """Share of a text's characters that are printable ASCII; 0 for an empty text."""
    return sum(" " <= letter <= "~" for letter in text) / max(len(text), 1)
