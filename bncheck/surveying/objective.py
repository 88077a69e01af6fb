"""The loss of one batch as a function of the parameters, which nothing else changes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.data import Batch
from bncheck.measuring.forward import forward
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.labels import Form, Question, question
from bncheck.measuring.norms import in_eval_mode

if TYPE_CHECKING:
    from torch import Tensor, nn

#: loss(output, target) -> a tensor of one number that can be differentiated.
Loss: TypeAlias = Callable[[Any, Any], Any]
#: One tensor for each of the objective's parameters, in their order.
Vector: TypeAlias = "Sequence[Tensor]"


class Mode(StrEnum):
    """What the BatchNorm layers normalise with: the batch, or the running statistics."""

    TRAIN = "train"
    EVAL = "eval"


@contextlib.contextmanager
def normalising(subject: Instrumented, mode: Mode) -> Iterator[None]:
    """Dropout and the like off, the layers with running statistics in this mode; then as before."""
    with in_eval_mode(subject.model):
        for norm in subject.norms:
            norm.module.training = mode is Mode.TRAIN
        yield


@dataclass(frozen=True, eq=False)
class Objective:
    """L(theta) on one batch. Parameters that the model does not train are constants.

    Every call runs on copies of all tensors, so that nothing of the model is written.
    """

    model: nn.Module
    batch: Batch
    number: int
    loss: Loss | None = None

    @cached_property
    def named(self) -> dict[str, Tensor]:
        """The parameters that are trained, shared ones once, detached: theta."""
        found = {name: p.detach() for name, p in self.model.named_parameters() if _is_trained(p)}
        if not found:
            raise BncheckError(
                "the model has no parameter that is trained",
                "leave requires_grad on for the parameters that the training moves",
            )
        return found

    @property
    def start(self) -> Vector:
        """Theta as the snapshot has it."""
        return list(self.named.values())

    def at(self, theta: Vector) -> Tensor:
        """The loss, a tensor of no axes with its graph. Raises BncheckError."""
        import torch

        with torch.enable_grad():
            output = self.output(theta)
            if self.loss is None:
                return default_loss(output, self.batch)
            with usercode.running("--loss"):
                value = self.loss(output, self.batch.target)
        return _checked(value)

    def output(self, theta: Vector) -> Any:
        """What the model makes of the batch with these parameters. Raises BncheckError."""
        trained = (p for p in self.model.parameters() if _is_trained(p))
        placed = {id(p): tensor for p, tensor in zip(trained, theta, strict=True)}
        state = {}
        for name, tensor in _slots(self.model):
            if id(tensor) not in placed:
                placed[id(tensor)] = tensor.detach().clone()
            state[name] = placed[id(tensor)]
        return forward(self.model, self.batch, self.number, state)

    def gradient(self, theta: Vector, wanted: Sequence[int] | None = None) -> tuple[float, Vector]:
        """The loss and its gradient by the parameters at these places; None: by all."""
        import torch

        moving = _leaves(theta)
        chosen = [moving[place] for place in wanted] if wanted is not None else moving
        value = self.at(moving)
        found = _differentiated(value, chosen)
        known = [
            torch.zeros_like(c) if g is None else g for c, g in zip(chosen, found, strict=True)
        ]
        return float(value.detach()), known

    def begin(self) -> tuple[float, Vector]:
        """Loss and gradient at the snapshot. Raises BncheckError where there is none."""
        value, found = self.gradient(self.start)
        size = norm(found)
        if not math.isfinite(value) or not math.isfinite(size):
            raise BncheckError(
                f"the loss on batch {self.number} is {value:g}, its gradient {size:g}",
                "inspect the checkpoint for NaN first, and check the data",
            )
        if size == 0.0:
            raise BncheckError(
                f"the gradient on batch {self.number} is zero: nothing here depends on the "
                "parameters",
                "check --loss and the labels",
            )
        return value, found


def _is_trained(parameter: Tensor) -> bool:
    return parameter.requires_grad and parameter.is_floating_point()


def _slots(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every place that holds a tensor once, under one name, whatever else its module is called.

    A tensor that two modules share has two places; a module with two names has its places once, for
    what is put into a place twice over is not what was there when it is put back.
    """
    for prefix, module in model.named_modules():
        for held in (module.named_parameters, module.named_buffers):
            yield from held(prefix, recurse=False, remove_duplicate=False)


def _leaves(theta: Vector) -> list[Tensor]:
    """Copies to differentiate by, which a forward may also write to."""
    return [tensor.detach().clone().requires_grad_() for tensor in theta]


def _differentiated(value: Tensor, parameters: Vector, graph: bool = False) -> Sequence[Any]:
    import torch

    if not value.requires_grad:
        raise BncheckError(
            "the loss has no gradient: the model detaches its output, or runs under no_grad",
            "give a model whose output can be differentiated",
        )
    with usercode.running("the gradient of the loss"):
        return torch.autograd.grad(value, list(parameters), create_graph=graph, allow_unused=True)


def hessian_product(objective: Objective) -> Callable[[Vector], Vector]:
    """v -> H v at the snapshot, where H is the Hessian of the loss; one backward for each call."""
    import torch

    moving = _leaves(objective.start)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        # the fused kernels of attention cannot be differentiated twice
        slopes = _differentiated(objective.at(moving), moving, graph=True)
    known = [(g, place) for place, g in enumerate(slopes) if g is not None and g.requires_grad]

    def product(v: Vector) -> Vector:
        if not known:
            return [torch.zeros_like(tensor) for tensor in moving]
        with usercode.running("the second derivative of the loss"):
            found = torch.autograd.grad(
                [g for g, _ in known], moving, [v[place] for _, place in known],
                retain_graph=True, allow_unused=True,
            )  # fmt: skip
        return [torch.zeros_like(m) if h is None else h for m, h in zip(moving, found, strict=True)]

    return product


def default_loss(output: Any, batch: Batch) -> Tensor:
    """Cross entropy, of single scores the binary one; for numbers the mean squared error."""
    if batch.target is None:
        raise BncheckError(
            "the data have no labels, and a loss needs them",
            "give (x, y) batches, or a model that is wrapped to return its loss, with --loss",
        )
    asked = question(output, batch.target, batch.size, differentiable=True)
    if not bool(asked.counted.any()):
        raise BncheckError("no label of a batch is to be counted", "check the labels, or --loss")
    losses = {Form.CLASSES: _cross_entropy, Form.YES_OR_NO: _binary, Form.NUMBERS: _squares}
    return losses[asked.form](asked)


def _cross_entropy(asked: Question) -> Tensor:
    import torch

    target = torch.where(asked.counted, asked.target, -100)
    scores = asked.scores
    if bool((scores >= 0).all()) and bool(((scores.sum(dim=1) - 1).abs() < 1e-3).all()):
        scores = scores.clamp_min(1e-12).log()  # probabilities already
    return torch.nn.functional.cross_entropy(scores, target)


def _binary(asked: Question) -> Tensor:
    import torch

    scores, target = asked.scores[asked.counted], asked.target[asked.counted].to(asked.scores.dtype)
    if bool((scores >= 0).all()) and bool((scores <= 1).all()):
        return torch.nn.functional.binary_cross_entropy(scores, target)
    return torch.nn.functional.binary_cross_entropy_with_logits(scores, target)


def _squares(asked: Question) -> Tensor:
    missed: Tensor = asked.scores[asked.counted] - asked.target[asked.counted]
    return missed.square().mean()


def _checked(value: Any) -> Tensor:
    import torch

    if not isinstance(value, torch.Tensor) or value.numel() != 1 or value.is_complex():
        raise BncheckError(
            "--loss does not return a tensor of one number",
            "return the mean over the batch as a tensor, such as that of cross_entropy",
        )
    return value.reshape(())


def moved(theta: Vector, by: Vector, step: float) -> Vector:
    """Theta - step * by."""
    return [t - step * d for t, d in zip(theta, by, strict=True)]


def dot(one: Vector, other: Vector) -> float:
    """The inner product, summed in float64."""
    return float(sum(float((a * b).double().sum()) for a, b in zip(one, other, strict=True)))


def norm(v: Vector) -> float:
    """The Euclidean length."""
    return math.sqrt(max(dot(v, v), 0.0)) if math.isfinite(dot(v, v)) else math.inf
