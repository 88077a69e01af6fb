"""What forwards write into their modules is put back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.measuring.norms import in_eval_mode


class Noting(nn.Module):
    """Counts, averages and remembers in its forward."""

    def __init__(self, most: int = 10**9) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("average", torch.zeros(8))
        self.calls, self.most = 0, most
        self.seen: list[Tensor] = []
        self.by_name: dict[str, Tensor] = {}
        self.sizes = Counter({8: 3})
        self.kinds = {"a"}

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.get_buffer("count").add_(1)
        y: Tensor = self.norm(self.linear(x))
        self.average = 0.9 * self.get_buffer("average") + 0.1 * y.mean(dim=0)
        self.seen.append(y)
        self.by_name["last"] = y
        self.sizes[len(x)] += 1
        self.kinds ^= {"a", "b"}
        self.last = y
        if self.calls > self.most:
            raise ValueError(x.shape)
        return y


def state(model: Noting) -> tuple[Any, ...]:
    buffers = {n: (id(b), b.tolist()) for n, b in model.named_buffers() if "running" not in n}
    plain = {k: v for k, v in vars(model).items() if not k.startswith("_")}
    held = len(model.seen), list(model.by_name), dict(model.sizes), set(model.kinds)
    return buffers, plain.keys(), model.calls, held, model.training


@pytest.mark.parametrize("call", [bncheck.inspect, bncheck.recalibrate, bncheck.landscape])
@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_as_it_was(call: Callable[..., object], training: bool) -> None:
    torch.manual_seed(0)
    model = Noting().train(training)
    data = [(torch.randn(32, 4), torch.randint(0, 8, (32,))) for _ in range(3)]
    before = state(model)
    options = {"eta": 0.01, "batches": 2} if call is bncheck.landscape else {}
    call(model, data, **options)
    assert state(model) == before


def test_an_error_in_the_middle_leaves_it_as_it_was() -> None:
    model = Noting(most=2)
    before = state(model)
    with pytest.raises(BncheckError, match="ValueError"):
        bncheck.inspect(model, [torch.randn(8, 4) for _ in range(4)])
    assert state(model) == before


def test_what_is_replaced_inside_is_put_back_in_its_order() -> None:
    model = Noting()
    names = list(dict(model.named_buffers()))
    with in_eval_mode(model):
        del model.count
        model.register_buffer("count", torch.ones(3))
        model.register_buffer("more", torch.ones(3))
    assert list(dict(model.named_buffers())) == names
    assert model.get_buffer("count").shape == ()
