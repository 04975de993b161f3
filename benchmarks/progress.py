"""Signs of life during the long steps."""

from __future__ import annotations

import sys

__all__ = ("say",)


def say(text: str) -> None:
    """Tell, on stderr, what is being done."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
