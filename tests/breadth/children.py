"""Each model or file in a process of its own, with a limit of time and memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

Found = dict[str, Any]


def run(work: Callable[[], Iterator[Found]], seconds: float, gigabytes: float) -> Found:
    """All that it gave before it ended, `died` if it did not end well; a fork has all imports."""
    ways = multiprocessing.get_context("fork")
    here, there = ways.Pipe(duplex=False)
    child = ways.Process(target=_work, args=(there, work, gigabytes))
    child.start()
    there.close()
    found: Found = {}
    end = time.monotonic() + seconds
    try:
        while True:
            if not here.poll(max(end - time.monotonic(), 0)):
                return found | {"died": f"takes more than {seconds:g} s"}
            more = here.recv()
            if more is None:
                return found
            found |= more
    except EOFError:
        child.join(5)
        return found | {"died": f"the process ended with {child.exitcode}"}
    finally:
        child.kill()
        child.join()


def _work(pipe: Any, work: Callable[[], Iterator[Found]], gigabytes: float) -> None:
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # what libraries print about their models
    try:
        for found in work():
            pipe.send(found)
        pipe.send(None)
    except BaseException as error:
        pipe.send({"crashed": f"{type(error).__name__}: {str(error)[:300]}"})
        pipe.send(None)
