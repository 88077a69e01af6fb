"""What a measurement leaves alone: the data of the user, in every precision, and torch.compile."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bncheck
from bncheck.core.errors import BncheckError


def _convolutional() -> nn.Sequential:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *head)


def _wide() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, (3, 3), padding="same"), nn.Flatten(), _linear(8 * 36))


def _linear(features: int = 108) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def _flat() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), _linear())


def _large() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 1200), _linear(1200))


def _normalised_first() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), _linear())


class _InPlace(nn.Sequential):
    """A model that prepares its input in place, as some do to save memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.sub_(1).div_(2)
        for layer in self:
            x = layer(x)
        return x


def _preparing_in_place() -> nn.Sequential:
    return _InPlace(*_convolutional())


_MODELS = (_preparing_in_place, _convolutional, _wide, _flat, _large, _normalised_first)


def _batches(dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 32, 3, 6, 6, generator=generator) * 2 + 1
    return [(each.to(dtype), torch.arange(32) % 3) for each in x]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("build", _MODELS)
def test_data_and_model_stay_as_they_are(build: type[nn.Sequential], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, data = build().to(dtype).eval(), _batches(dtype)
    before, weights = copy.deepcopy(data), copy.deepcopy(model.state_dict())
    bncheck.inspect(model, data, shape=True)
    bncheck.recalibrate(model, data)
    assert all(torch.equal(x, y) for x, y in zip(sum(data, ()), sum(before, ()), strict=True))
    assert all(torch.equal(x, weights[name]) for name, x in model.state_dict().items())


def test_what_a_layer_sees_does_not_depend_on_the_precision() -> None:
    torch.manual_seed(0)
    model = _convolutional().eval()
    in_single = bncheck.inspect(model, _batches(torch.float32)).summary
    in_double = bncheck.inspect(model.double(), _batches(torch.float64)).summary
    assert in_double.verdict is in_single.verdict
    assert in_double.w2 == pytest.approx(in_single.w2, rel=1e-4)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_is_measured_as_it_is_written(in_place: bool) -> None:
    torch.manual_seed(0)
    data, plain = _batches(torch.float32), _convolutional().eval()
    asked = bncheck.inspect(plain, data).summary
    compiled = copy.deepcopy(plain)
    if in_place:
        compiled.compile(backend="eager")
    else:
        compiled = torch.compile(compiled, backend="eager")  # type: ignore[assignment]
    found = bncheck.inspect(compiled, data).summary
    assert (found.verdict, found.w2) == (asked.verdict, asked.w2)


def test_a_model_that_writes_into_its_input_is_fed_the_same_every_time() -> None:
    torch.manual_seed(0)
    plain, data = _convolutional(), _batches(torch.float32)
    found = bncheck.inspect(_InPlace(*plain).eval(), data).summary
    asked = bncheck.inspect(plain.eval(), [((x - 1) / 2, y) for x, y in data]).summary
    assert found.verdict is asked.verdict
    assert found.w2 == pytest.approx(asked.w2)


@pytest.mark.parametrize(
    ("error", "says"), [(SystemExit(3), "calls sys.exit"), (MemoryError(), "smaller batches")]
)
def test_not_every_error_is_about_the_data(error: BaseException, says: str) -> None:
    class Ending(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(BncheckError, match=says):
        bncheck.inspect(Ending(nn.BatchNorm1d(4)), [torch.randn(8, 4)])
