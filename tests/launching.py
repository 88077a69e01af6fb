"""Processes that are forked from one that has imported torch, which takes each a second."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import uuid
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

WORLD = 2
PATIENCE = 100.0  # seconds, after which ranks that wait for each other say where


def launched(main: Callable[..., None], *arguments: object) -> None:
    """What `torchrun --standalone` does with a program that calls `main(*arguments)`."""
    import torch._dynamo  # noqa: F401  each rank would import it by itself
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with TemporaryDirectory() as logs:  # which the launcher does not remove
        config = LaunchConfig(
            1, 1, WORLD, run_id=str(uuid.uuid4()), rdzv_backend="c10d", rdzv_endpoint="localhost:0",
            max_restarts=0, start_method="fork", logs_specs=DefaultLogsSpecs(log_dir=logs),
        )  # fmt: skip
        elastic_launch(config, _rank)(main, *arguments)


def _rank(main: Callable[..., None], *arguments: object) -> None:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    main(*arguments)


def forked(main: Callable[..., None], *arguments: object, said: Path) -> BaseProcess:
    """A process that calls `main(*arguments)`; `said` is a folder for its `out` and `err`.

    A fork of a process that has trained trains where torch has no device but the CPU, only.
    """
    said.mkdir(exist_ok=True)
    process = multiprocessing.get_context("fork").Process(
        target=_apart, args=(said, main, *arguments)
    )
    process.start()
    return process


def _apart(said: Path, main: Callable[..., None], *arguments: object) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), number)
        setattr(sys, f"std{name}", open(number, "w", closefd=False))  # noqa: SIM115
    main(*arguments)
