"""Progress bars of what takes long."""

from __future__ import annotations

import sys

from tqdm import tqdm

_SECONDS_A_LINE = 10


class _Lines(tqdm):
    """A bar for what is no terminal, such as a log: a line now and then, one below the other."""

    def display(self, msg=None, pos=None):
        if msg is None:
            print(self, file=self.fp, flush=True)


def progress_bar(progress: bool | str, label: str, **options) -> tqdm:
    """A bar on stderr that is gone when it is done.

    Parameters
    ----------
    progress : bool or str
        Whether to show it, and what to call it instead of ``label``.
    label : str
    **options
        Of tqdm: ``total``, ``initial``, ``unit``.
    """
    label = progress if isinstance(progress, str) else label
    options = {"desc": label, "disable": not progress, "leave": False, "dynamic_ncols": True, **options}
    if sys.stderr is not None and sys.stderr.isatty():
        return tqdm(**options)
    # Neither a bar that stays nor one in the first place is closed without characters that move the cursor.
    options.update(mininterval=_SECONDS_A_LINE, delay=_SECONDS_A_LINE, position=1, leave=False)
    return _Lines(**options)
