"""Runs the tasks of a study over processes, keeping what is done."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from ..._version import __version__
from ...progress import progress_bar
from .studies import STUDIES, Task
from .tables import file_stem, format_study, summarise


def run_study(name: str, output, jobs: int = 1, progress: bool = True, **settings) -> dict:
    """Run a study of :data:`STUDIES`; see ``dgl-lowbit study``.

    Parameters
    ----------
    name : str
    output : path
        Folder for ``runs/`` (a file a task, kept and not run again), ``NAME.json``, ``NAME.md`` and pictures; of a
        relative ``relatives-METHOD`` is the name.
    jobs : int
        Processes, of one thread each.
    progress : bool
        Whether to show a progress bar.
    **settings
        Of the study: graphs, models, seeds, epochs.

    Returns
    -------
    dict
        JSON values: study, settings, version, and ``groups``, one a graph, model setting and variant, with lists over
        seeds.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs!r}.")
    tasks = STUDIES[name](**settings)
    folder = Path(output)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    files = {_file(folder, task): task for task in tasks}
    waiting = {path: task for path, task in files.items() if not _is_done(path, task)}
    bar = progress_bar(progress, name, total=len(files), initial=len(files) - len(waiting), leave=True)
    with bar:
        if jobs == 1:
            for path, task in waiting.items():
                _work(task.spec(), path)
                bar.update()
        else:
            _in_parallel(waiting, jobs, bar)
    report = summarise(name, settings, [json.loads(path.read_text()) for path in files])
    report["dgl_lowbit"] = __version__
    stem = file_stem(name, settings)
    _write(folder / f"{stem}.json", json.dumps(report, indent=1))
    _write(folder / f"{stem}.md", format_study(report) + "\n")
    return report


def _in_parallel(waiting, jobs, bar):
    # Children of one thread each: several threads in several processes stand in each other's way.
    ones = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    before = {key: os.environ.get(key) for key in ones}
    os.environ.update(ones)
    try:
        context = multiprocessing.get_context("spawn")
        # An interrupt ends children at once, without a word: what they have done is kept.
        quietly = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_DFL)}
        with ProcessPoolExecutor(jobs, mp_context=context, **quietly) as pool:
            futures = [pool.submit(_work, task.spec(), path) for path, task in waiting.items()]
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)


def _work(spec, path):
    import torch

    from .task import run_task

    # One thread, whoever runs it: sums of floats in several threads round differently.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _write(path, json.dumps(run_task(spec)))
    finally:
        torch.set_num_threads(threads)


def _file(folder, task: Task) -> Path:
    digest = hashlib.sha256(json.dumps(task.spec(), sort_keys=True).encode()).hexdigest()[:10]
    return folder / "runs" / f"{task.graph}-{task.model}-{task.seed}-{digest}.json"


def _is_done(path, task):
    try:
        return json.loads(path.read_text())["spec"] == json.loads(json.dumps(task.spec()))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(path, text):
    from ...deploy import replace_file

    replace_file(path, text.encode())
