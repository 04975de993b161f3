"""The preload library: unmodified programs see the nodes of a mount as a device's.

It is built at installation where there is a compiler, else when it is first wanted.  What it does
is in docs/preload.md.
"""

from __future__ import annotations

from xedev.shim.build import LibraryError, library

__all__ = ("LibraryError", "library")
