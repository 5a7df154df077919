"""Python's collector of cyclic garbage."""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """Make the collector look for garbage seldom.

    A command that reads a large study makes millions of objects, none of which is garbage. By
    default the collector looks through them again and again, a fifth of the time of `verify`.
    """
    gc.set_threshold(100_000, 50, 50)
