"""How far a run has come, on stderr."""

from __future__ import annotations

import sys
import time

_WIDTH, _SECONDS_A_LINE = 30, 10


class Progress:
    """Called with the share of the work that is done, says it: a bar on a terminal, else a line every ten seconds."""

    def __init__(self, label: str):
        self._label, self._start, self._told, self._is_shown = label, time.monotonic(), time.monotonic(), False

    def __call__(self, share: float) -> None:
        now, is_terminal = time.monotonic(), sys.stderr is not None and sys.stderr.isatty()
        if sys.stderr is None or (now - self._told < (0.1 if is_terminal else _SECONDS_A_LINE) and share < 1):
            return
        spent, self._told = now - self._start, now
        left = f"{spent:.0f} s, {spent * (1 - share) / max(share, 1e-9):.0f} s left"
        if is_terminal and share < 1:
            bar = "#" * int(_WIDTH * share)
            print(f"\r{self._label} [{bar:<{_WIDTH}}] {share:4.0%} {left}\x1b[K", end="", file=sys.stderr, flush=True)
        elif is_terminal and self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        elif share < 1:
            print(f"{self._label}: {share:.0%}, {left}", file=sys.stderr, flush=True)
        self._is_shown = True
