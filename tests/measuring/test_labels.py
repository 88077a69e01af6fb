"""Labels and outputs of every usual form give the figure that they stand for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bncheck.core.errors import BncheckError
from bncheck.data import Batch
from bncheck.measuring.comparison import running_alone
from bncheck.measuring.grading import Answers
from bncheck.measuring.results import ACCURACY, R2

N, CLASSES = 64, 5


def figure(output: Any, target: Any, samples: int = N) -> Any:
    """The metric and its value, in two batches."""
    answers = Answers()
    for half in (slice(0, samples // 2), slice(samples // 2, samples)):
        batch = Batch((torch.zeros(samples // 2, 1),), {}, at(target, half))
        answers.add(answers.parts(batch, at(output, half)))
    found = running_alone(answers, "metric")
    return (None, None) if found is None else (found.metric, found.before)


def at(value: Any, place: slice) -> Any:
    """The samples of a tensor, wherever it is."""
    if isinstance(value, dict):
        return type(value)({k: at(v, place) for k, v in value.items()})
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(at(item, place) for item in value)
    return value[place] if isinstance(value, Tensor) and value.ndim else value


def scores(places: tuple[int, ...] = ()) -> Tensor:
    return torch.randn(N, CLASSES, *places, generator=torch.Generator().manual_seed(0))


def classes(share: float, *places: int) -> Tensor:
    """Labels of which so many samples are what the scores say."""
    labels = scores(places).argmax(dim=1)
    labels[int(N * share) :] = (labels[int(N * share) :] + 1) % CLASSES
    return labels


@dataclass
class Data:
    loss: Tensor
    logits: Tensor


class Named(NamedTuple):
    loss: Tensor
    logits: Tensor


LOSS = torch.tensor(0.5)
OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda z: z,
    "tuple": lambda z: (z, z[:, :1]),
    "list in a tuple": lambda z: ([z], None),
    "dict": lambda z: {"aux": torch.zeros(N, 7, 3), "out": z},
    "ordered dict": lambda z: OrderedDict(logits=z),
    "dict with a loss first": lambda z: {"loss": LOSS, "logits": z},
    "dict in a dict": lambda z: {"head": {"scores": z}},
    "half precision": lambda z: z.bfloat16(),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_container_of_outputs(name: str) -> None:
    assert figure(OUTPUTS[name](scores()), classes(0.75)) == (
        ACCURACY,
        pytest.approx(0.75, abs=0.05),
    )


@pytest.mark.parametrize("container", [Data, Named, SimpleNamespace])
def test_outputs_with_attributes(container: Any) -> None:
    answers = Answers()
    output = container(loss=LOSS, logits=scores())
    answers.add(answers.parts(Batch((torch.zeros(N, 1),), {}, classes(0.75)), output))
    found = running_alone(answers, "metric")
    assert found is not None
    assert found.before == 0.75


@pytest.mark.parametrize("target", [
    classes(0.75), classes(0.75)[:, None], classes(0.75).float(), classes(0.75).to(torch.uint8),
    one_hot(classes(0.75), CLASSES), one_hot(classes(0.75), CLASSES).float() * 0.9 + 0.02,
    {"weight": LOSS, "labels": classes(0.75)}, [classes(0.75)],
])  # fmt: skip
def test_class_labels_of_every_form(target: Any) -> None:
    assert figure(scores(), target) == (ACCURACY, 0.75)


@pytest.mark.parametrize("ignored", [-100, -1, 255, CLASSES])
def test_what_is_to_be_ignored_counts_neither_way(ignored: int) -> None:
    labels = classes(0.75, 4, 4)
    labels[::8] = ignored
    assert figure(scores((4, 4)), labels) == (ACCURACY, pytest.approx(0.75))


def test_masked_tokens_may_be_most() -> None:
    labels = classes(0.5, 10)
    labels[:, 1:] = -100
    assert figure(scores((10,)).movedim(1, -1), labels) == (ACCURACY, 0.5)
    rows = scores((10,)).movedim(1, -1)
    assert figure({"logits": rows}, labels) == (ACCURACY, 0.5)


def test_tokens_in_one_row() -> None:
    answers = Answers()
    rows = scores((10,)).movedim(1, -1).reshape(-1, CLASSES)
    answers.add(answers.parts(Batch((torch.zeros(N, 1),), {}, classes(0.5, 10)), rows))
    found = running_alone(answers, "metric")
    assert found is not None
    assert found.before == 0.5


@pytest.mark.parametrize("places", [(), (1,), (1, 6, 6), (6, 6), (7,)])
@pytest.mark.parametrize("kind", ["int", "float", "bool", "signs"])
@pytest.mark.parametrize("probability", [False, True])
def test_yes_or_no_for_single_scores(places: tuple[int, ...], kind: str, probability: bool) -> None:
    logits = torch.randn(N, *places, generator=torch.Generator().manual_seed(1))
    labels = (logits > 0).long()
    labels[48:] = 1 - labels[48:]
    target = {"int": labels, "float": labels.float(), "bool": labels == 1, "signs": 2 * labels - 1}
    output = logits.sigmoid() if probability else logits
    assert figure(output, target[kind]) == (ACCURACY, 0.75)


def test_one_channel_and_a_mask_with_ignored_places() -> None:
    logits = torch.randn(N, 1, 6, 6)
    mask = (logits[:, 0] > 0).long()
    mask[:, :2] = 255
    assert figure(logits, mask) == (ACCURACY, 1.0)
    assert figure(logits, (logits > 0).to(torch.uint8) * 255) == (ACCURACY, 1.0)


@pytest.mark.parametrize("places", [(), (1,), (3,), (3, 8, 8)])
def test_numbers_to_be_met_give_r2(places: tuple[int, ...]) -> None:
    target = torch.randn(N, *places, generator=torch.Generator().manual_seed(2)) * 3 + 5
    assert figure(target.clone(), target) == (R2, 1.0)
    metric, value = figure(torch.full_like(target, 5.0), target)
    assert (metric, value) == (R2, pytest.approx(0, abs=0.1))


@pytest.mark.parametrize(("target", "said"), [
    (torch.zeros(N, 3), "labels of shape 32x3 float32 do not fit outputs of shape 32x5"),
    (torch.arange(N) % 9, "labels go up to 8, and the outputs have the classes 0 to 4"),
    (torch.arange(N) % CLASSES + 1, "labels go up to 5"),
    ([{"boxes": "no"}], "hold no numbers"),
])  # fmt: skip
def test_labels_that_cannot_be_used_are_refused(target: Any, said: str) -> None:
    with pytest.raises(BncheckError, match=said) as error:
        figure(scores(), target)
    assert "--metric" in error.value.hint


def sureness(*outputs: torch.Tensor) -> Any:
    """The confidence of a pass that gave these outputs, batch by batch."""
    batch = Batch((torch.zeros(N, 1),))
    kept = [Answers().parts(batch, output) for output in outputs]
    return Answers(None, kept).all_of("confidence")


def test_several_labels_a_sample_have_no_confidence() -> None:
    """Of 360 sigmoids a softmax means nothing; of class scores and probabilities it does."""
    assert sureness(scores()) == pytest.approx(sureness(scores().softmax(dim=1)), abs=1e-5)
    assert sureness(scores().sigmoid()) is None


def test_all_batches_tell_whether_scores_are_shares() -> None:
    """One whose scores lie in 0..1 by chance is read as the others are."""
    by_chance = torch.linspace(0.1, 0.9, N)[:, None].expand(N, CLASSES)
    together = sureness(scores(), by_chance)
    np.testing.assert_array_equal(together[:N], sureness(scores()))
    np.testing.assert_allclose(together[N:], 1 / CLASSES, rtol=1e-6)


def test_scores_of_other_widths_have_predictions_and_confidence() -> None:
    """A pointer chooses among as many places as its batch is long."""
    wide, narrow = scores(), scores()[:, :3]
    kept = [Answers().parts(Batch((torch.zeros(N, 1),)), output) for output in (wide, narrow)]
    answers = Answers(None, kept)
    predicted = answers.all_of("predicted")
    assert predicted is not None
    np.testing.assert_array_equal(predicted[:N, 0], wide.argmax(1))
    np.testing.assert_array_equal(predicted[N:, 0], narrow.argmax(1))
    expected = np.concatenate([sureness(wide), sureness(narrow)])
    np.testing.assert_array_equal(answers.all_of("confidence"), expected)
    assert answers.all_of("outputs") is None


def test_scores_with_and_without_places_are_joined() -> None:
    one, other = scores(), scores()[:, :, None]
    kept = [Answers().parts(Batch((torch.zeros(N, 1),)), output) for output in (one, other)]
    predicted = Answers(None, kept).all_of("predicted")
    assert predicted is not None
    np.testing.assert_array_equal(predicted[:N], predicted[N:])


def test_batches_of_other_sizes_are_not_joined() -> None:
    answers = Answers(batches=[{"outputs": np.zeros((2, size))} for size in (3, 4)])
    assert answers.all_of("outputs") is None
