"""A module's graph for those who only look at it: what its calls are, and nothing is rewritten."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx import config

from bncheck.core import usercode
from bncheck.graph.dataflow import Graph
from bncheck.graph.program.read import read_program


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Keep torch's own remarks about shapes and unused options out of our streams.

    `names` are the loggers concerned, by default all that export uses: changing a level can cost as
    much as tracing a small module. Nor does torch record for every call where it stands in the
    user's code, which takes a twelfth of the time: errors have tracebacks of their own, and files
    are written without these lines.
    """
    loggers = [logging.getLogger(name) for name in names or ("torch", "torch._export", "torch.fx")]
    levels = [logger.level for logger in loggers]
    stackless = getattr(config, "do_not_emit_stack_traces", False)  # torch 2.10 may lack it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            config.do_not_emit_stack_traces = True
            yield
        finally:
            config.do_not_emit_stack_traces = stackless
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def graph_of_module(model: nn.Module, inputs: tuple[Any, ...]) -> Graph:
    """The graph of a module in eval mode. Raises whatever torch.export does."""
    with usercode.exporting(), quiet(), torch.no_grad():
        program = torch.export.export(model, inputs)
        # Without a table: calls in place become others, and operators stay as they are.
        return read_program(program.run_decompositions({}))
