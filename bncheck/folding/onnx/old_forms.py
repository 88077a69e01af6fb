"""How nodes before opset 7 are given new numbers."""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import helper

from bncheck.folding.algebra import Cast


def along_axis(node: onnx.NodeProto, number: Cast, rank: int) -> Cast:
    """The second operand of a sum or product as such a node takes it, with the axis set to fit.

    It has only the axes from the first to the last that are not of size 1; `rank` is the other's.
    """
    array = number.array
    own = [a for a in node.attribute if a.name not in ("axis", "broadcast")]
    wide = [axis for axis, size in enumerate(array.shape) if size > 1]
    first, last = (wide[0], wide[-1] + 1) if wide else (array.ndim, array.ndim)
    del node.attribute[:]
    node.attribute.extend([*own, helper.make_attribute("broadcast", 1)])
    if wide:
        node.attribute.append(helper.make_attribute("axis", rank - array.ndim + first))
    return replace(number, array=array.reshape(array.shape[first:last]))
