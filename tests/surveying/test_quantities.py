"""Every quantity against its closed form, on networks small enough to have one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bncheck.core.errors import BncheckError
from bncheck.data import Batch
from bncheck.measuring.instrumented import Instrumented
from bncheck.surveying.along import MULTIPLES, along_gradient
from bncheck.surveying.curvature import largest_eigenvalue
from bncheck.surveying.measure import SurveyOptions, survey
from bncheck.surveying.objective import (
    Mode,
    Objective,
    dot,
    hessian_product,
    moved,
    norm,
    normalising,
)
from bncheck.surveying.shift import covariate_shift

ETA = 0.1


class Bowl(nn.Module):
    """The loss is theta' A theta / 2, whatever the input."""

    def __init__(self, curvatures: list[float]) -> None:
        super().__init__()
        basis = torch.linalg.qr(torch.randn(len(curvatures), len(curvatures)).double())[0]
        self.a = basis @ torch.diag(torch.tensor(curvatures).double()) @ basis.T
        self.theta = nn.Parameter(torch.randn(len(curvatures)).double())

    def forward(self, x: Tensor) -> Tensor:
        loss: Tensor = self.theta @ self.a @ self.theta / 2 + 0 * x.sum()
        return loss


def own(output: Tensor, _target: object) -> Tensor:
    return output


def objective(
    model: nn.Module,
    x: Tensor | None = None,
    y: Tensor | None = None,
    loss: Callable[..., Tensor] | None = own,
) -> Objective:
    batch = Batch((torch.ones(2, 1).double() if x is None else x,), target=y)
    return Objective(model, batch, 0, loss)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(1)


@pytest.mark.parametrize("curvatures", [[1.0, 5.0, 3.0], [4.0], [2.0, 2.0], [1.0, -0.5, 0.2]])
def test_a_step_in_a_bowl(curvatures: list[float]) -> None:
    """g(a) = (1 - a A) g, so that g(a) - g = -a A g."""
    model = Bowl(curvatures)
    bowl = objective(model)
    start, gradient = bowl.begin()
    found = along_gradient(bowl, ETA, start, gradient)
    g = gradient[0]
    bent = model.a @ g
    steps = [multiple * ETA for multiple in MULTIPLES]
    assert found.start == pytest.approx((model.theta @ model.a @ model.theta / 2).item())
    assert found.losses == pytest.approx(
        [float((model.theta - a * g) @ model.a @ (model.theta - a * g) / 2) for a in steps]
    )
    assert found.l2 == pytest.approx(float(steps[-1] * bent.norm()))
    assert found.relative == pytest.approx(found.l2 / float(g.norm()))
    assert found.beta == pytest.approx(float(bent.norm() / g.norm()))
    turned = [g - a * bent for a in steps]
    assert found.cosine == pytest.approx(min(float(g @ t / (g.norm() * t.norm())) for t in turned))


@pytest.mark.parametrize(
    ("curvatures", "largest"),
    [([1.0, 5.0, 3.0], 5.0), ([1.0, -7.0, 3.0], 3.0), ([-1.0, -7.0], -1.0), ([2.0, 2.0], 2.0)],
)
def test_the_eigenvalue_of_a_bowl(curvatures: list[float], largest: float) -> None:
    """Also where the largest in size is negative."""
    bowl = objective(Bowl(curvatures))
    found = largest_eigenvalue(hessian_product(bowl), [torch.randn_like(t) for t in bowl.start])
    assert found.settled
    assert found.value == pytest.approx(largest, rel=0.01, abs=0.01)


def test_what_has_not_settled_is_said() -> None:
    """Of curvatures 1 and -1 a mixture keeps its quotient, and is never an eigenvector."""
    bowl = Bowl([1.0, -1.0])
    values, vectors = torch.linalg.eigh(bowl.a)
    mixture = vectors @ torch.tensor([0.5, 1.0]).double()
    found = largest_eigenvalue(hessian_product(objective(bowl)), [mixture])
    assert not found.settled
    assert found.value <= float(values[-1])


@pytest.mark.parametrize("mode", list(Mode))
def test_the_eigenvalue_against_the_whole_hessian(mode: Mode) -> None:
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)
    ).double()
    norm_layer = model[1]
    assert isinstance(norm_layer, nn.BatchNorm1d)
    norm_layer.running_mean = torch.randn(4).double()
    x, y = torch.randn(16, 3).double(), torch.randint(0, 2, (16,))
    given = objective(model, x, y, nn.functional.cross_entropy)
    subject = Instrumented.of(model)
    with normalising(subject, mode):
        sizes = [t.numel() for t in given.start]

        def flat(theta: Tensor) -> Tensor:
            parts = torch.split(theta, sizes)
            return given.at([p.view_as(t) for p, t in zip(parts, given.start, strict=True)])

        theta = torch.cat([t.flatten() for t in given.start])
        whole = torch.func.hessian(flat)(theta)
        found = largest_eigenvalue(
            hessian_product(given), [torch.randn_like(t) for t in given.start]
        )
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(whole)[-1]), rel=0.01)
    assert model.training
    assert norm_layer.training


def test_covariate_shift_of_a_deep_linear_network() -> None:
    """L = (w3 w2 w1 x)^2 / 2: dL/dw_i = (w3 w2 w1)^2 x^2 / w_i, with earlier weights stepped."""
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(3))).double()
    w = [2.0, -0.5, 1.5]
    for layer, value in zip(model, w, strict=True):
        assert isinstance(layer, nn.Linear)
        layer.weight.data.fill_(value)
    x = torch.tensor([[3.0]]).double()
    given = objective(model, x, None, lambda output, _: output.square().sum() / 2)
    _, gradient = given.begin()
    found = covariate_shift(given, ETA, gradient)
    product = w[0] * w[1] * w[2]
    g = [product**2 * 9 / value for value in w]
    assert [float(t) for t in gradient] == pytest.approx(g)
    stepped = [value - ETA * slope for value, slope in zip(w, g, strict=True)]
    assert [s.layer for s in found] == ["0", "1", "2"]
    for place, shift in enumerate(found):
        mixed = [*stepped[:place], *w[place:]]
        after = math.prod(mixed) ** 2 * 9 / mixed[place]
        assert shift.l2 == pytest.approx(abs(after - g[place]), abs=1e-9)
        assert shift.relative == pytest.approx(abs(after / g[place] - 1), abs=1e-9)
        assert abs(shift.cosine) == pytest.approx(1.0)


class Backwards(nn.Module):
    """Declared in another order than it runs; the projection of the attention is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.first = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)[:, None]
        x, _ = self.attention(x, x, x)
        out: Tensor = self.last(x[:, 0])
        return out


def test_layers_come_in_the_order_of_execution() -> None:
    given = objective(Backwards(), torch.randn(8, 3), torch.randint(0, 2, (8,)), None)
    _, gradient = given.begin()
    found = covariate_shift(given, ETA, gradient)
    assert [s.layer for s in found] == ["first", "attention", "attention.out_proj", "last"]
    assert found[0].l2 == 0.0
    assert found[-1].l2 > 0.0


def test_attention_is_differentiated_twice() -> None:
    given = objective(Backwards(), torch.randn(8, 3), torch.randint(0, 2, (8,)), None)
    start = [torch.randn_like(t) for t in given.start]
    product = hessian_product(given)
    v, w = product(start), product([torch.ones_like(t) for t in given.start])
    ones = [torch.ones_like(t) for t in given.start]
    assert dot(v, ones) == pytest.approx(dot(w, start), rel=1e-3)  # a Hessian is symmetric


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(4 * 16, 3),
    )  # fmt: skip


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_model_stays_as_it_was_to_the_last_bit() -> None:
    model = net()
    model[3].eval()
    before, flags = state(model), [module.training for module in model.modules()]
    batch = Batch((torch.randn(8, 1, 6, 6),), target=torch.randint(0, 3, (8,)))
    survey(Instrumented.of(model), [batch, batch], SurveyOptions(ETA))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_batch_decides_in_train_mode_and_the_statistics_in_eval_mode() -> None:
    model = net()
    norm_layer = model[1]
    assert isinstance(norm_layer, nn.BatchNorm2d)
    batch = Batch((torch.randn(8, 1, 6, 6),), target=torch.randint(0, 3, (8,)))
    found = {}
    for mode in Mode:
        for variance in (1.0, 100.0):
            assert norm_layer.running_var is not None
            norm_layer.running_var.fill_(variance)
            options = SurveyOptions(ETA, mode=mode)
            found[mode, variance] = survey(Instrumented.of(model), [batch], options)
    assert found[Mode.TRAIN, 1.0].losses == found[Mode.TRAIN, 100.0].losses
    assert found[Mode.EVAL, 1.0].losses != found[Mode.EVAL, 100.0].losses
    train = [found[mode, 1.0].train.value.median for mode in Mode]
    assert train[0] == pytest.approx(train[1], rel=0.01)


def test_it_costs_what_is_said() -> None:
    """Ten forwards for a step, one for each layer and one for their order, one for each mode."""
    model, calls = net(), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    batch = Batch((torch.randn(8, 1, 6, 6),), target=torch.randint(0, 3, (8,)))
    survey(Instrumented.of(model), [batch], SurveyOptions(ETA))
    layers = 2
    assert len(calls) == 1 + len(MULTIPLES) + (1 + layers) + 2


def test_without_statistics_the_modes_are_one() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    batch = Batch((torch.randn(8, 1, 6, 6),), target=torch.randint(0, 3, (8,)))
    found = survey(Instrumented.of(model), [batch], SurveyOptions(ETA))
    assert found.train == found.eval


def test_tied_weights_are_one_parameter() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    given = objective(model, torch.randn(8, 4), torch.randint(0, 4, (8,)), None)
    assert list(given.named) == ["0.weight", "0.bias"]
    value, gradient = given.begin()
    nn.functional.cross_entropy(model(given.batch.args[0]), given.batch.target).backward()  # type: ignore[no-untyped-call]
    assert shared.weight.grad is not None
    torch.testing.assert_close(gradient[0], shared.weight.grad)
    assert given.at(moved(given.start, gradient, 0.01)) < value
    assert norm(gradient) > 0


@pytest.mark.parametrize(
    ("scores", "labels", "loss"),
    [
        ((8, 3), torch.randint(0, 3, (8,)), "classes"),
        ((8, 1), torch.randint(0, 2, (8, 1)).float(), "one logit"),
        ((8, 2), torch.randn(8, 2), "numbers"),
    ],
)
def test_the_loss_is_what_the_labels_ask(
    scores: tuple[int, int], labels: Tensor, loss: str
) -> None:
    model = nn.Linear(5, scores[1])
    x = torch.randn(8, 5)
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "classes": nn.functional.cross_entropy,
        "one logit": nn.functional.binary_cross_entropy_with_logits,
        "numbers": nn.functional.mse_loss,
    }
    given = objective(model, x, labels, None)
    torch.testing.assert_close(given.at(given.start), functions[loss](model(x), labels).detach())


def test_probabilities_are_not_squashed_twice() -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Softmax(dim=1))
    x, y = torch.randn(8, 5), torch.randint(0, 3, (8,))
    given = objective(model, x, y, None)
    wanted = nn.functional.nll_loss(model(x).log(), y).detach()
    torch.testing.assert_close(given.at(given.start), wanted)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = self.linear(x)
        return out


def frozen() -> nn.Module:
    return nn.Linear(5, 3).requires_grad_(False)


def poisoned() -> nn.Module:
    model = nn.Linear(5, 3)
    model.weight.data[0, 0] = math.nan
    return model


@pytest.mark.parametrize(
    ("model", "labels", "loss", "words"),
    [
        (Detached, torch.zeros(8).long(), None, "no gradient"),
        (frozen, torch.zeros(8).long(), None, "no parameter that is trained"),
        (poisoned, torch.zeros(8).long(), None, "is nan"),
        (lambda: nn.Linear(5, 3), None, None, "no labels"),
        (lambda: nn.Linear(5, 3), torch.full((8,), -100), None, "no label"),
        (lambda: nn.Linear(5, 3), torch.zeros(8).long(), lambda o, t: o, "one number"),
        (lambda: nn.Linear(5, 3), torch.zeros(8).long(), lambda o, t: 1.0, "one number"),
        (lambda: nn.Linear(5, 3), torch.zeros(8).long(), lambda o, t: o.nope, "nope"),
        (lambda: nn.Linear(5, 3), torch.zeros(8).long(), lambda o, t: 0 * o.sum(), "is zero"),
    ],
)
def test_what_has_no_gradient_is_one_line(
    model: Callable[[], nn.Module], labels: Tensor | None, loss: Callable[..., Tensor], words: str
) -> None:
    batch = Batch((torch.randn(8, 5),), target=labels)
    with pytest.raises(BncheckError, match=words) as caught:
        survey(Instrumented.of(model()), [batch], SurveyOptions(ETA, loss=loss))
    assert "\n" not in str(caught.value)
