"""Work in forked processes and in threads, with a limit of time: one that hangs fails."""

import os
import pickle
import threading
import time

SECONDS = 180  # on a machine that others use too


def forked(function):
    """What ``function()`` gives in a fork of this process; a RuntimeError with the traceback of what it raises."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            answer = True, function()
        except BaseException as error:
            answer = False, repr(error)
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(write)
    killer = threading.Timer(SECONDS, os.kill, (child, 9))
    killer.start()
    try:
        with os.fdopen(read, "rb") as pipe:
            content = pipe.read()
    finally:
        killer.cancel()
        _, status = os.waitpid(child, 0)
    assert content, f"the forked process ended with status {os.waitstatus_to_exitcode(status)} (-9: it hung)"
    is_well, result = pickle.loads(content)
    if not is_well:
        raise RuntimeError(result)
    return result


def in_threads(*functions):
    """What the functions give, each called in a thread of its own at the same time."""
    results = {}
    threads = [
        threading.Thread(target=lambda n=n, f=f: results.update({n: f()}), daemon=True) for n, f in enumerate(functions)
    ]
    end = time.monotonic() + SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    assert len(results) == len(functions), f"of {len(functions)} threads {len(results)} came to an end"
    return [results[n] for n in range(len(functions))]
