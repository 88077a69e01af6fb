"""Two ranks as torchrun starts them, but forked from a process that has imported what they need."""

from __future__ import annotations

import faulthandler
import uuid
from collections.abc import Callable

WORLD = 2
PATIENCE = 100.0  # seconds, after which ranks that wait for each other say where


def launched(main: Callable[..., None], *arguments: object) -> None:
    """What `torchrun --standalone` does with a program that calls `main(*arguments)`."""
    import torch._dynamo  # noqa: F401  each rank would import it by itself
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        1, 1, WORLD, run_id=str(uuid.uuid4()), rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        start_method="fork",
    )  # fmt: skip
    elastic_launch(config, _rank)(main, *arguments)


def _rank(main: Callable[..., None], *arguments: object) -> None:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    main(*arguments)
