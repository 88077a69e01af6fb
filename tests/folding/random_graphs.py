"""Random graphs of everything that a map can pass, with an interpreter of their own.

They are built as the planner's graphs, so that thousands can be checked: exporting takes a second.
Each call carries the torch function that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import hypothesis.strategies as st
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bncheck.folding.weights import Solution
from bncheck.graph import dataflow as df
from bncheck.graph import specs
from bncheck.graph.linear import Linear
from bncheck.graph.products import einsum_spec

Run = Callable[..., Any]


class Net:
    """A graph under construction: every value has a shape, every call something to run."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.values: dict[str, df.Value] = {}
        self.ops: list[df.Op] = []
        self.runs: dict[str, Run] = {}
        self.constants: dict[str, Tensor] = {}
        self.activations: list[str] = []
        self.outputs: set[str] = set()
        self.samples: dict[str, Tensor] = {}
        self.shape = (3, 4, 6, 6)
        self.values["x"] = df.Value("x", ("n", 4, 6, 6), "float64")
        self.samples["x"] = self.fresh_input()
        self.activations.append("x")

    def fresh_input(self) -> Tensor:
        return torch.from_numpy(self.random.normal(0.3, 1.0, self.shape))

    def numbers(self, *shape: int, low: float | None = None) -> str:
        """A new constant."""
        if low is None:
            array = self.random.normal(0.2, 0.7, shape)
        else:
            array = self.random.uniform(low, low + 1.5, shape)
        name = f"p{len(self.constants)}"
        self.constants[name] = torch.from_numpy(array)
        self.values[name] = df.Value(name, shape, "float64", lambda: array, name)
        return name

    def call(
        self, spec: specs.Spec, inputs: list[str | None], run: Run, pieces: int = 0, kind: str = ""
    ) -> list[str]:
        name = f"op{len(self.ops)}"
        names = [f"{name}.{i}" for i in range(pieces)] if pieces else [name]
        given = [None if i is None else self.constants.get(i, self.samples.get(i)) for i in inputs]
        results = run(*given)
        for result_name, result in zip(names, results if pieces else [results], strict=True):
            shape = ("n", *result.shape[1:])
            self.values[result_name] = df.Value(result_name, shape, "float64")
            self.samples[result_name] = result
        kind = kind or type(spec).__name__.lower()
        self.ops.append(df.Op(name, spec, tuple(inputs), tuple(names), name, kind))
        self.runs[name] = run
        self.activations += names
        return names

    def graph(self) -> df.Graph:
        read = {name for op in self.ops for name in op.inputs}
        ends = {name for name in self.activations if name not in read and name != "x"}
        return df.Graph(tuple(self.ops), self.values, frozenset(self.outputs | ends))

    def evaluate(
        self,
        graph: df.Graph,
        x: Tensor,
        solution: Solution | None = None,
        given: Mapping[str, Tensor] | None = None,
        skip: int | None = None,
    ) -> tuple[dict[str, Tensor], float]:
        """The outputs, and what the solution compares, and the largest number on the way, which
        bounds the rounding."""
        found: dict[str, Any] = {"x": x}
        largest = 1.0
        for index, op in enumerate(graph.ops):
            inputs = [None if n is None else found.get(n, self.constants.get(n)) for n in op.inputs]
            run = self.runs[op.name]
            if index == skip:
                results: Any = inputs[0]
            elif given and f"{index}.weight" in given:
                results = run(inputs[0], given[f"{index}.weight"], given[f"{index}.bias"])
            elif solution is not None and index in solution.plan.bypassed:
                fixed = graph.is_constant(op.inputs[0])
                results = inputs[1 if fixed else 0]
            elif solution is not None:
                results = _changed(index, op, inputs, run, solution)
            else:
                results = run(*inputs)
            many = results if len(op.outputs) > 1 else [results]
            for name, result in zip(op.outputs, many, strict=True):
                found[name] = result
                largest = max(largest, float(result.detach().abs().max()))
        seen = graph.outputs if solution is None else graph.outputs | solution.boundary
        return {name: found[name] for name in sorted(seen)}, largest


def _changed(index: int, op: df.Op, inputs: list[Any], run: Run, solution: Solution) -> Any:
    inputs = list(inputs)
    for slot in range(len(inputs)):
        if (index, slot) in solution.constants:
            inputs[slot] = torch.from_numpy(np.array(solution.constants[index, slot].array))
    new = solution.weights.get(index)
    if new is None:
        return run(*inputs)
    assert new.weight is not None
    inputs[1] = torch.from_numpy(np.array(new.weight.array))
    inputs[2] = None if new.bias is None else torch.from_numpy(np.array(new.bias.array))
    if solution.plan.folds[index].as_shuffle:
        assert isinstance(op.spec, specs.ConvTranspose)
        y = F.conv2d(inputs[0], inputs[1], inputs[2], groups=op.spec.groups)
        return F.pixel_shuffle(y, op.spec.stride[0])
    return run(*inputs)


def _rank4(net: Net, name: str) -> bool:
    shape = net.samples[name].shape
    return len(shape) == 4 and shape[2] >= 3 and shape[3] >= 3 and shape[1] <= 16


# One function an operation: it draws its own details and adds itself to the net --------------


def add_conv(net: Net, draw: Any, x: str) -> None:
    channels = net.samples[x].shape[1]
    groups = draw(st.sampled_from([g for g in (1, 2) if channels % g == 0]))
    out = draw(st.sampled_from([2, 4]))
    kernel = draw(st.sampled_from([1, 2, 3]))
    padding = draw(st.sampled_from([0, 0, 1]))
    shape = (out, channels // groups, kernel, kernel)
    same = [n for n, t in net.constants.items() if tuple(t.shape) == shape]
    weight = draw(st.sampled_from(same)) if same and draw(st.booleans()) else net.numbers(*shape)
    bias = net.numbers(out) if draw(st.booleans()) else None
    run = lambda a, w, b=None: F.conv2d(a, w, b, padding=padding, groups=groups)  # noqa: E731
    centre = (kernel // 2,) * 2 if padding == kernel // 2 and kernel % 2 else None
    net.call(specs.Conv(groups, padding > 0, centre), [x, weight, bias], run)


def add_transposed(net: Net, draw: Any, x: str) -> None:
    channels = net.samples[x].shape[1]
    groups = draw(st.sampled_from([g for g in (1, 2) if channels % g == 0]))
    kernel, stride = draw(st.sampled_from([(2, 2), (3, 2), (1, 1), (2, 1)]))
    weight = net.numbers(channels, 2, kernel, kernel)
    bias = net.numbers(2 * groups) if draw(st.booleans()) else None
    run = lambda a, w, b=None: F.conv_transpose2d(a, w, b, stride=stride, groups=groups)  # noqa: E731
    spec = specs.ConvTranspose(groups, kernel == stride, (stride,) * 2 if kernel == stride else ())
    net.call(spec, [x, weight, bias], run)


def add_linear(net: Net, draw: Any, x: str) -> None:
    size = net.samples[x].shape[-1]
    weight = net.numbers(3, size)
    bias = net.numbers(3) if draw(st.booleans()) else None
    net.call(Linear.matrix(output_first=True), [x, weight, bias], F.linear)


def add_norm(net: Net, draw: Any, x: str) -> None:
    channels = net.samples[x].shape[1]
    parts = [net.numbers(channels), net.numbers(channels), net.numbers(channels)]
    kind = draw(st.sampled_from(["plain", "plain", "positive", "shiftless"]))
    if kind == "positive":
        parts[0] = net.numbers(channels, low=0.2)
    if kind == "shiftless":
        parts[0] = net.numbers(channels, low=0.2)
        zero = torch.zeros(channels, dtype=torch.float64)
        for slot in (1, 2):
            net.constants[parts[slot]] = zero
            net.values[parts[slot]] = df.Value(
                parts[slot], (channels,), "float64", zero.numpy, parts[slot]
            )
    var = net.numbers(channels, low=0.3)

    def run(a: Tensor, w: Tensor, b: Tensor, m: Tensor, v: Tensor) -> Tensor:
        return F.batch_norm(a, m, v, w, b)

    net.call(specs.Norm(1e-5, False), [x, *parts, var], run)


def add_layer_norm(net: Net, draw: Any, x: str) -> None:
    """Over the last axes; its bias, or both, may be missing."""
    dims = net.samples[x].dim()
    axes = tuple(range(dims - draw(st.integers(1, dims - 1)), dims))
    sizes = [net.samples[x].shape[axis] for axis in axes]
    given = draw(st.integers(0, 2))
    weight, bias = (net.numbers(*sizes) if given > least else None for least in (0, 1))
    run = lambda a, w=None, b=None: F.layer_norm(a, sizes, w, b)  # noqa: E731
    net.call(specs.Rescaled(axes), [x, weight, bias], run)


def add_sample_norm(net: Net, draw: Any, x: str) -> None:
    """InstanceNorm, GroupNorm and an RMSNorm that is written out, by channel or along the end."""
    shape = net.samples[x].shape
    weight = net.numbers(shape[1], low=0.2 if draw(st.booleans()) else None)
    kind = draw(st.sampled_from(["instance", "group", "written"]))
    if kind == "instance":
        bias = net.numbers(shape[1]) if draw(st.booleans()) else None
        spec = specs.Norm(1e-5, True, specs.ALONE)
        run = lambda a, w, b=None: F.instance_norm(a, weight=w, bias=b)  # noqa: E731
        net.call(spec, [x, weight, bias], run)
    elif kind == "group" and shape[1] % 2 == 0:
        spec2 = specs.Rescaled((1,))
        net.call(
            spec2, [x, weight, net.numbers(shape[1])], lambda a, w, b: F.group_norm(a, 2, w, b)
        )
    else:
        mean = lambda a: a.square().mean(-1, keepdim=True).add(1e-5).rsqrt()  # noqa: E731
        (root,) = net.call(specs.Opaque("rsqrt"), [x], mean, kind="rsqrt")
        (y,) = net.call(specs.Mul(), [x, root], torch.mul)
        net.call(specs.Mul(), [net.numbers(shape[-1]), y], torch.mul)


def add_sum(net: Net, draw: Any, x: str) -> None:
    shape = net.samples[x].shape
    same = [n for n in net.activations if net.samples[n].shape == shape]
    other = draw(st.sampled_from(same))
    # x - x is 0 whatever x is scaled by: true, and of no interest
    sign = 1.0 if other == x else draw(st.sampled_from([1.0, -1.0, 2.5]))
    net.call(specs.Add((1.0, sign)), [x, other], lambda a, b: a + sign * b)


def add_repeated(net: Net, draw: Any, x: str) -> None:
    """A sum, or the larger, of a value and a mean that is repeated along an axis."""
    axis = draw(st.integers(1, net.samples[x].dim() - 1))
    same = [n for n in net.activations if net.samples[n].shape == net.samples[x].shape]
    other = draw(st.sampled_from([x, *same]))
    (mean,) = net.call(specs.Average((axis,)), [other], lambda a: a.mean(axis, keepdim=True))
    pair = draw(st.permutations([x, mean]))
    sign = draw(st.sampled_from([-1.0, -1.0, 1.0, 2.5]))
    if draw(st.integers(0, 3)):
        net.call(specs.Add((1.0, sign)), pair, lambda a, b: a + sign * b)
    else:
        net.call(specs.Larger(), pair, torch.maximum)


def add_chosen(net: Net, draw: Any, x: str) -> None:
    """Places along an axis in the order of another value, or means of rows by such weights."""
    axis = draw(st.integers(1, net.samples[x].dim() - 1))
    same = [n for n in net.activations if net.samples[n].shape == net.samples[x].shape]
    pair = [x, draw(st.sampled_from(same))]
    if net.samples[x].dim() == 4 and draw(st.booleans()):
        net.call(specs.Attended((2,)), pair, lambda a, b: (b @ b.mT).softmax(-1) @ a)
    else:
        spec = specs.Chosen(((axis, None),))
        net.call(spec, pair, lambda a, b: a.gather(axis, b.argsort(axis)))


def add_constant(net: Net, draw: Any, x: str) -> None:
    shape = net.samples[x].shape
    sizes = draw(st.sampled_from([(), (shape[1],) + (1,) * (len(shape) - 2), tuple(shape[1:])]))
    constant = net.numbers(*sizes)
    pair = [x, constant] if draw(st.booleans()) else [constant, x]
    if draw(st.booleans()):
        sign = draw(st.sampled_from([1.0, -1.0]))
        net.call(specs.Add((1.0, sign)), list(pair), lambda a, b: a + sign * b)
    else:
        net.call(specs.Mul(), list(pair), lambda a, b: a * b)


def add_places(net: Net, draw: Any, x: str) -> None:
    """One activation says at which places another is read."""
    same = [n for n in net.activations if net.samples[n].shape == net.samples[x].shape]
    other = draw(st.sampled_from(same))

    def run(a: Tensor, b: Tensor) -> Tensor:
        grid = torch.stack([b.mean(1), b.amax(1)], -1)
        return F.grid_sample(a, grid, padding_mode="border", align_corners=False)

    net.call(specs.Average((2, 3)), [x, other], run)


def add_larger(net: Net, draw: Any, x: str) -> None:
    """The larger or the smaller of two activations, or of one and a constant."""
    shape = net.samples[x].shape
    run = draw(st.sampled_from([torch.maximum, torch.minimum]))
    if draw(st.booleans()):
        sizes = draw(st.sampled_from([(), (shape[1],) + (1,) * (len(shape) - 2), tuple(shape[1:])]))
        other = net.numbers(*sizes)
    else:
        same = [n for n in net.activations if net.samples[n].shape == shape]
        other = draw(st.sampled_from(same))
    net.call(specs.Larger(), draw(st.permutations([x, other])), run)


def add_ordered(net: Net, draw: Any, x: str) -> None:
    """Sorted, or added up, along an axis."""
    axis = draw(st.integers(1, net.samples[x].dim() - 1))
    runs: dict[str, tuple[specs.Spec, Run]] = {
        "sort": (specs.Ordered((axis,)), lambda a: a.sort(axis)[0]),
        "median": (specs.Ordered((axis,), drops=True), lambda a: a.median(axis)[0]),
        "sum": (specs.RunningSum((axis,), None), lambda a: a.cumsum(axis)),
    }
    spec, run = runs[draw(st.sampled_from(sorted(runs)))]
    if net.samples[x].dim() > 2 or not isinstance(spec, specs.Maximum) or not spec.drops:
        net.call(spec, [x], run)


def add_concat(net: Net, draw: Any, x: str) -> None:
    shape = net.samples[x].shape
    axis = draw(st.sampled_from([1, len(shape) - 1]))
    rest = [s for i, s in enumerate(shape) if i != axis]
    same = [
        n
        for n in net.activations
        if net.samples[n].dim() == len(shape)
        and [s for i, s in enumerate(net.samples[n].shape) if i != axis] == rest
    ]
    net.call(specs.Concat(axis), [x, draw(st.sampled_from(same))], lambda *p: torch.cat(p, axis))


def add_split(net: Net, draw: Any, x: str) -> None:
    size = net.samples[x].shape[1]
    cut = draw(st.integers(1, max(1, size - 1)))
    if size < 2:
        return
    parts = (slice(0, cut), slice(cut, size))
    net.call(specs.Split(1, parts), [x], lambda a: (a[:, :cut], a[:, cut:]), pieces=2)


def add_stack_sum(net: Net, draw: Any, x: str) -> None:
    shape = net.samples[x].shape
    same = [n for n in net.activations if net.samples[n].shape == shape]
    axis = draw(st.integers(1, len(shape)))
    other = draw(st.sampled_from(same))
    (stacked,) = net.call(
        specs.Concat(axis, stacks=True), [x, other], lambda a, b: torch.stack([a, b], axis)
    )
    spec = specs.Average((axis,), 2.0, drops=True)
    net.call(spec, [stacked], lambda a: a.sum(axis))


def add_picks(net: Net, draw: Any, x: str) -> None:
    """Channels and positions: some dropped, some shown twice, others moved."""
    axis = draw(st.sampled_from([1, net.samples[x].dim() - 1]))
    size = net.samples[x].shape[axis]
    indices = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size + 2))
    if draw(st.booleans()):
        indices = draw(st.permutations(range(size)))
    place = torch.tensor(indices)
    spec = specs.Gather(((axis, tuple(indices)),))
    net.call(spec, [x], lambda a: a.index_select(axis, place))


def add_product(net: Net, draw: Any, x: str) -> None:
    """A matrix along an axis, from the left or as einsum writes it."""
    dims = net.samples[x].dim()
    axis = draw(st.integers(1, dims - 1))
    out = draw(st.integers(1, dims - 1))
    weight = net.numbers(3, net.samples[x].shape[axis])
    spec = Linear.matrix(output_first=True, axes=(axis - dims, out - dims))

    def run(a: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        y: Tensor = torch.tensordot(a, w, ([axis], [1])).movedim(-1, out)
        return y if b is None else y + b

    net.call(spec, [x, weight, None], run)


def add_einsum(net: Net, draw: Any, x: str) -> None:
    """Each axis but the batch is summed over, kept apart by a weight of its own, or left alone."""
    dims = net.samples[x].dim()
    data, weight, result = "nabcdefgh"[:dims], "", "n"
    for letter in data[1:]:
        kind = draw(st.sampled_from(["summed", "both", "left", "exchanged"]))
        weight += "" if kind == "left" else letter
        result += letter if kind in ("both", "left") else ""
        if kind == "exchanged" and "o" not in result:
            weight, result = draw(st.sampled_from([weight + "o", "o" + weight])), result + "o"
    if not weight or len(result) < 2 or dims > 9:
        return
    sizes = dict(zip(data, net.samples[x].shape, strict=True)) | {"o": 3}
    numbers = net.numbers(*(sizes[letter] for letter in weight))
    equation = f"{data},{weight}->{result}"
    spec = einsum_spec(equation, 1, (dims, len(weight)))
    assert spec is not None

    def run(a: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        y: Tensor = torch.einsum(equation, a, w)
        return y if b is None else y + b

    net.call(spec, [x, numbers, None], run)


def add_gate(net: Net, draw: Any, x: str) -> None:
    """A product or a quotient of two activations; one may be repeated."""
    (gate,) = net.call(specs.Opaque("gate"), [x], lambda a: torch.sigmoid(a) + 0.5)
    if draw(st.booleans()):
        axes = (net.samples[x].dim() - 1,)
        (gate,) = net.call(specs.Average(axes), [gate], lambda a: a.mean(axes, keepdim=True))
    if draw(st.booleans()):
        net.call(specs.Mul(divides=True), [x, gate], torch.div)
    else:
        pair = [x, gate] if draw(st.booleans()) else [gate, x]
        net.call(specs.Mul(), list(pair), torch.mul)


def add_pool(net: Net, draw: Any, x: str) -> None:
    kind = draw(
        st.sampled_from(
            ["avg", "avg_pad", "avg_uncounted", "max", "mean", "sum", "min", "nearest", "lin"]
        )
    )
    runs: dict[str, tuple[specs.Spec, Run]] = {
        "avg": (specs.Average((2, 3)), lambda a: F.avg_pool2d(a, 2)),
        "avg_pad": (specs.Average((2, 3), None), lambda a: F.avg_pool2d(a, 3, 1, 1)),
        "avg_uncounted": (
            specs.Average((2, 3)),
            lambda a: F.avg_pool2d(a, 3, 1, 1, count_include_pad=False),
        ),
        "max": (specs.Maximum((2, 3)), lambda a: F.max_pool2d(a, 3, 1, 1)),
        "mean": (specs.Average((2, 3), drops=True), lambda a: a.mean((2, 3))),
        "sum": (specs.Average((3,), float(net.samples[x].shape[3])), lambda a: a.sum(3, True)),
        "min": (specs.Maximum((2, 3), drops=True), lambda a: a.amin((2, 3))),
        "nearest": (specs.Average((2, 3)), lambda a: F.interpolate(a, scale_factor=2)),
        "lin": (
            specs.Average((2, 3)),
            lambda a: F.interpolate(a, size=(5, 4), mode="bilinear", align_corners=False),
        ),
    }
    spec, run = runs[kind]
    net.call(spec, [x], run)


_VIEWS = ("flatten", "swap", "flip", "shuffle", "depth", "deep", "pad", "mirror", "identity",
          "spread")  # fmt: skip


def add_view(net: Net, draw: Any, x: str) -> None:
    kind = draw(st.sampled_from(_VIEWS))
    channels = net.samples[x].shape[1]
    if kind == "flatten":
        net.call(specs.Reshape(), [x], lambda a: a.flatten(1))
    elif kind == "swap":
        net.call(specs.Transpose((0, 1, 3, 2)), [x], lambda a: a.transpose(2, 3))
    elif kind == "flip":
        net.call(specs.Gather(((3, None),)), [x], lambda a: a.flip(3))
    elif kind == "shuffle" and channels % 4 == 0:
        net.call(specs.PixelShuffle(2), [x], lambda a: F.pixel_shuffle(a, 2))
    elif kind == "depth" and channels % 4 == 0:
        net.call(specs.PixelShuffle(2, depth_last=True), [x], _depth_to_space)
    elif kind == "deep" and net.samples[x].shape[2] % 2 == net.samples[x].shape[3] % 2 == 0:
        net.call(specs.PixelShuffle(2, inverse=True), [x], lambda a: F.pixel_unshuffle(a, 2))
    elif kind == "pad":
        net.call(specs.Pad((3,), 0.0), [x], lambda a: F.pad(a, (1, 0)))
    elif kind == "mirror":
        net.call(specs.Pad((2, 3), None), [x], lambda a: F.pad(a, (1, 1, 1, 1), mode="reflect"))
    elif kind == "spread":
        (mean,) = net.call(specs.Average((2, 3)), [x], lambda a: a.mean((2, 3), keepdim=True))
        net.call(specs.Expand(), [mean], lambda a: a.expand(-1, -1, 4, 3))
    else:
        net.call(specs.Identity(), [x], lambda a: a.clone())


def _depth_to_space(x: Tensor) -> Tensor:
    """ONNX' DCR: the place within a block before the channel."""
    blocks = x.reshape(x.shape[0], 4, -1, *x.shape[2:]).transpose(1, 2)
    result: Tensor = F.pixel_shuffle(blocks.reshape(x.shape), 2)
    return result


def add_nonlinear(net: Net, draw: Any, x: str) -> None:
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": F.relu,
        "leaky_relu": lambda a: F.leaky_relu(a, 0.2),
        "abs": torch.abs,
    }
    if draw(st.booleans()):
        kind = draw(st.sampled_from(sorted(kinds)))
        net.call(specs.Rectifier(kind), [x], kinds[kind])
    else:
        net.call(specs.Opaque("sigmoid"), [x], torch.sigmoid)


SPATIAL = [add_conv, add_conv, add_transposed, add_norm, add_norm, add_sum, add_constant,
           add_concat, add_split, add_pool, add_view, add_nonlinear, add_stack_sum, add_picks,
           add_product, add_layer_norm, add_sample_norm, add_einsum, add_gate, add_larger,
           add_ordered, add_places, add_repeated, add_repeated, add_chosen]  # fmt: skip
FLAT = [add_linear, add_norm, add_sum, add_constant, add_concat, add_nonlinear, add_stack_sum,
        add_picks, add_layer_norm, add_einsum, add_gate, add_larger, add_ordered, add_repeated,
        add_chosen]  # fmt: skip
THIN = [add_constant, add_einsum, add_norm, add_gate]
LINEAR_CALLS = (add_conv, add_transposed, add_linear, add_product, add_einsum)


@st.composite
def nets(
    draw: Any, depth: int = 12, norms: int | None = None, linears: int | None = None,
    plain: bool = False,
) -> Net:  # fmt: skip
    """A graph of up to `depth` calls, with branches, shared weights and outputs anywhere.

    `plain`: without sums that are written as stacks, which the planner does not take apart, and
    without products along inner axes, which a scale on another axis could pass.
    """
    net = Net(draw(st.integers(0, 2**32 - 1)))
    for _ in range(draw(st.integers(2, depth))):
        recent = net.activations[-4:]
        x = draw(st.sampled_from(recent))
        sample = net.samples[x]
        if sample.numel() > 20_000:
            continue
        options = list(SPATIAL if _rank4(net, x) else FLAT if sample.dim() == 2 else THIN)
        if plain:
            others = (add_stack_sum, add_product, add_layer_norm, add_sample_norm, add_einsum,
                      add_gate, add_larger, add_ordered, add_places, add_repeated,
                      add_chosen)  # fmt: skip
            options = [o for o in options if o not in others]
        counts = [type(op.spec) for op in net.ops]
        if norms is not None and counts.count(specs.Norm) >= norms:
            options = [o for o in options if o is not add_norm]
        made = sum(kind in (specs.Conv, specs.ConvTranspose, Linear) for kind in counts)
        if linears is not None and made >= linears:
            options = [o for o in options if o not in LINEAR_CALLS]
        draw(st.sampled_from(options))(net, draw, x)
    if len(net.activations) > 1 and draw(st.integers(0, 3)) == 0:
        net.outputs.add(draw(st.sampled_from(net.activations[1:])))
    return net
