"""Types of the command line."""

from __future__ import annotations

import argparse
from typing import TypeAlias

__all__ = ("Commands",)

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `argparse.ArgumentParser.add_subparsers` returns."""
