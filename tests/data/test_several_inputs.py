"""Models of several inputs: all usual forms of a batch give the same inputs and labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bncheck.core.errors import BncheckError
from bncheck.data import Batch, check_shapes, open_data

A, B, Y = torch.arange(20.0).reshape(10, 2), -torch.arange(30.0).reshape(10, 3), torch.arange(10)


class Two(nn.Module):
    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return image.sum(1) + table.sum(1)


class Wrapped(Two):
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(*args, **kwargs)


class Samples(Dataset[Any]):
    def __init__(self, named: bool) -> None:
        self._named = named

    def __len__(self) -> int:
        return len(Y)

    def __getitem__(self, place: int) -> Any:
        inputs = {"table": B[place], "image": A[place]} if self._named else (A[place], B[place])
        return inputs, int(Y[place])


def generator() -> Iterator[Any]:
    for part in (slice(0, 6), slice(6, 10)):
        yield (A[part], B[part]), Y[part]


FORMS: dict[str, Any] = {
    "((a, b), y)": [((A, B), Y)],
    "[[a, b], y]": [[[A, B], Y]],
    "((a, b), y, places)": [((A, B), Y, torch.arange(10))],
    "((a, b), y in NumPy)": [((A.numpy(), B.numpy()), Y.numpy())],
    "(dict, y)": [({"table": B, "image": A}, Y)],
    "(dict with a text, y)": [({"table": B, "image": A, "file": ["a.png"] * 10}, Y)],
    "(a, b, y)": [(A, B, Y)],
    "dict": [{"table": B, "image": A, "label": Y}],
    "generator": generator,
    "loader": DataLoader(Samples(named=False), 4),
    "loader of dicts": DataLoader(Samples(named=True), 4),
    "data set": Samples(named=False),
    "samples": [((A[i], B[i]), int(Y[i])) for i in range(10)],
    "samples of dicts": [({"image": A[i], "table": B[i]}, int(Y[i])) for i in range(10)],
    "arrays": lambda: ((A, B), Y),
    "arrays by name": lambda: ({"table": B, "image": A}, Y),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", [Two(), Wrapped()], ids=["named", "any"])
def test_every_form_gives_the_same(form: str, model: nn.Module) -> None:
    batches = [check_shapes(model, batch) for batch in open_data(FORMS[form])]
    outputs = torch.cat([model(*batch.args, **batch.kwargs) for batch in batches])
    labels = torch.cat([batch.target for batch in batches])
    order = labels.argsort()
    assert torch.equal(labels[order], Y)
    assert torch.equal(outputs[order], Two()(A, B))


def test_no_grouped_input_is_taken_for_the_labels() -> None:
    """((a, b), y) for a model of one input is a mistake, where (a, y, more) is none."""

    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    (batch,) = open_data([((A, B), Y)])
    fitted = check_shapes(One(), batch)
    assert len(fitted.args) == 2
    assert torch.equal(fitted.target, Y)
    (flat,) = open_data([(A, Y, B)])
    assert len(check_shapes(One(), flat).args) == 1


@pytest.mark.parametrize("names", [("image", "table", "foo"), ("table", "foo"), ("a", "foo", "b")])
def test_an_entry_that_forward_does_not_take_is_named(names: tuple[str, ...]) -> None:
    batch = Batch((), dict.fromkeys(names, A))
    with pytest.raises(BncheckError, match=r"^batch 7 has .*'foo'.*, which forward does not take"):
        check_shapes(Two(), batch, 7)


IMAGES = [torch.zeros(3, 8, 8) for _ in range(3)]


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, [{"boxes": torch.zeros(1, 4)}] * 3),
        (tuple(IMAGES), torch.zeros(2)),
        ([torch.zeros(2, 4), torch.zeros(3, 4)], torch.zeros(2)),
        (["a"], torch.zeros(1)),
    ],
    ids=["detector", "other labels", "other rows", "texts"],
)
def test_a_list_of_samples_is_not_inputs(batch: Any) -> None:
    with pytest.raises(BncheckError, match=r"holds a (list|tuple); .*\(\(x1, x2\), y\)"):
        list[Batch](open_data([batch]))
