"""Where torch.export decides that an axis has one size."""

from __future__ import annotations

import logging
import re
import traceback
from typing import Any

from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from bncheck.core.errors import BncheckError
from bncheck.folding.program.exporting import export_shaped, last_line, lines_of

#: Torch's logger of what it decides about sizes while it traces.
_SHAPES = "torch.fx.experimental.symbolic_shapes"


class _Watch(logging.Filter):
    """Keeps the user's line of the first such decision, and all records from being printed."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._decides, self.line = re.compile(rf"eval Eq\(\w+, {size}\) \[guard added\]"), ""

    def filter(self, record: logging.LogRecord) -> bool:
        if not self.line and self._decides.match(record.getMessage()):
            stack = traceback.extract_stack()
            start = max((i for i, frame in enumerate(stack) if frame.name == "export"), default=0)
            self.line = last_line(lines_of(traceback.StackSummary.from_list(stack[start:])))
        return False


def specialising_line(model: nn.Module, inputs: tuple[Any, ...], place: int, axis: int) -> str:
    """The user's line at which torch.export fixes an axis of an input; nothing if it is unknown.

    For that the model is exported once more, with this axis free alone.
    """
    tensor = pytree.tree_leaves(inputs)[place]
    logger, watch = logging.getLogger(_SHAPES), _Watch(tensor.shape[axis])
    level = logger.level
    logger.addFilter(watch)
    logger.setLevel(logging.INFO)
    try:
        export_shaped(model, inputs, (*({},) * place, {axis: Dim.AUTO}))
    except BncheckError:
        return ""
    finally:
        logger.removeFilter(watch)
        logger.setLevel(level)
    return watch.line.replace(" at ", ", at ", 1)
