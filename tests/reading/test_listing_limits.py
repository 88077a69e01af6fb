"""Code and attributes that ask for more work than their bytes: no listing follows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bncheck.core.errors import BncheckError
from bncheck.graph.dataflow import Graph, Op, Value
from bncheck.graph.listed.read import read_listing
from bncheck.graph.means import predict
from bncheck.graph.means.predict import predicted_means
from bncheck.graph.specs import Identity, Norm
from bncheck.reading.listing import ListedCall, Listing, Ref
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.pickle_values import Global, Node
from bncheck.reading.statistic_steps import Is
from bncheck.reading.statistic_uses import Statistics
from bncheck.reading.torchscript_forward import listed_forward
from bncheck.reading.torchscript_functions import MOST_CODE


class _Source:
    def __init__(self, body: str) -> None:
        self._code = f"class M(Module):\n  def forward(self, x):\n{body}    return x\n"

    def body(self, _: object) -> str:
        return self._code


class _Objects:
    def tensor(self, _: object) -> None:
        return None


def _calls(body: str) -> tuple[ListedCall, ...]:
    root = Node(Global("__torch__", "M"), ())
    source: Any = _Source(body)
    objects: Any = _Objects()
    return listed_forward(root, objects, source).calls


def test_lists_of_lists_twice_in_a_list_are_not_unfolded() -> None:
    (call,) = _calls("    a = [x, x]\n" + "    a = [a, a]\n" * 60 + "    y = torch.cat(a)\n")
    assert len(repr(call.args)) < 1000
    same = "      a = [x, 1]\n" + "      a = [a, a]\n" * 60
    assert _calls(f"    if x:\n{same}    else:\n{same}") == ()


@pytest.mark.parametrize(
    "body",
    [
        "".join(f"    a{i} = 1\n" for i in range(3000)) + "    if x:\n      pass\n" * 1000,
        "    a = [" + "x," * 1000 + "]\n" + "    y = torch.cat(a)\n" * 1000,
        "    a = [" + "x," * 100_000 + "]\n",
    ],
    ids=["branches", "arguments", "words"],
)
def test_copies_count_as_steps(body: str) -> None:
    assert len(body) < MOST_CODE
    with pytest.raises(BncheckError, match="too much code"):
        _calls(body)


def test_settings_of_a_module_are_a_number_or_one_an_axis(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    stride: Any = (1, 1)
    for _ in range(60):
        stride = (stride, stride)
    model[1].stride = stride
    torch.save(model, tmp_path / "net.pt")
    listing = open_checkpoint(tmp_path / "net.pt").listing
    assert listing is not None
    assert listing().calls[1].named["stride"] == (None, None)


def test_views_changed_in_place_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    views = [ListedCall("view", (Ref("%x"), (1, 4)), (f"%v{i}",)) for i in range(10)]
    changes = [ListedCall("relu_", (Ref("%x"),), (f"%r{i}",)) for i in range(10)]
    listing = Listing((*views, *changes), {"%x": (1, 4)})
    assert len(read_listing(listing, {}).ops) == 20
    monkeypatch.setattr("bncheck.graph.listed.read._MOST_CHANGED", 50)
    with pytest.raises(BncheckError, match="views in place"):
        read_listing(listing, {})


def _chain(length: int) -> tuple[Graph, Mapping[str, Any]]:
    numbers = np.ones(4)
    names = ("gamma", "beta", "mean", "var")
    values = {n: Value(n, (4,), "", lambda: numbers) for n in names}
    values |= {f"%{i}": Value(f"%{i}", (1, 4, 2, 2), "") for i in range(length + 3)}
    norm = Norm(1e-5, uses_batch=False)
    ops = [Op("0", norm, ("%0", *names), ("%1",), "first", "batch_norm")]
    ops += [
        Op(str(i), Identity(), (f"%{i}",), (f"%{i + 1}",), f"{i}", "alias")
        for i in range(1, length + 1)
    ]
    last = (f"%{length + 1}", *names)
    ops.append(Op("n", norm, last, (f"%{length + 2}",), "last", "batch_norm"))
    return Graph(tuple(ops), values, frozenset()), dict.fromkeys(names, numbers)


def _labels(length: int) -> Iterator[str]:
    graph, weights = _chain(length)
    return (found.label for found in predicted_means(graph, weights.get))


def test_of_a_long_chain_only_what_is_still_read_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "_MOST_HELD", 3 * (64 * 4 + 1))
    assert list(_labels(50)) == ["last"]
    monkeypatch.setattr(predict, "_MOST_WORK", 64 * 4 * 20)
    assert list(_labels(10)) == ["last"]
    assert list(_labels(50)) == []


def test_what_calls_in_place_give_back_is_held_once() -> None:
    """Each gave its tensor one more name, and all were gone through at each call: 23 s for 240 KB.

    What one of them does to it holds for all its names.
    """
    following = Statistics({"bn"})
    following.call("sqrt", ListedCall("sqrt", (Ref("bn.running_var"),), ("%0",)))
    for n in range(1000):
        following.call("mul_", ListedCall("mul_", (Ref(f"%{n}"), 1.0), (f"%{n + 1}",)))
    following.call("reciprocal_", ListedCall("reciprocal_", (Ref("%7"),), ("%out",)))
    assert [made.kind for made in following.made.values()] == [Is.RSQRT]
    scaled = ListedCall("mul", (Ref("x"), Ref("%1000")), ("%scaled",))
    following.call("mul", scaled)
    assert following.made["%scaled"].kind is Is.SCALE
