"""Networks with one call between a convolution and a BatchNorm, or the other way round.

What a map passes is folded; each call that it cannot pass in all cases has its trap beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.folding.patterns.building import IMAGE, Fn, Pattern, bn, conv, net, randomised

Step = Callable[[Tensor], Tensor]


def behind(
    step: Step, channels: int = 6, norm: type[nn.Module] = nn.BatchNorm2d, kept: int = 0,
    reason: str = "", like: Step | None = None, positive: bool = False,
) -> Pattern:  # fmt: skip
    """Conv, step, BatchNorm, whose channels are `like` those of six where that is given."""

    def build() -> nn.Module:
        model = randomised(Fn(lambda s, x: s.bn(step(s.conv(x))), conv=conv()(), bn=norm(channels)))
        own = model.get_submodule("bn")
        with torch.no_grad():
            for tensor in (*own.parameters(), *own.buffers()):
                if like is not None and tensor.dim():
                    tensor.copy_(like(tensor[:6]))
            if positive:
                own.weight.abs_().add_(0.1)  # type: ignore[operator]
        return model

    return Pattern(build, kept=kept, reason=reason)


def before(step: Callable[[Any, Tensor], Tensor], inputs: int = 3, kept: int = 0,
           reason: str = "", scale_only: bool = False, size: int = 3,
           more: Callable[[], nn.Module] = nn.Identity) -> Pattern:  # fmt: skip
    """BatchNorm, step, Conv."""

    def build() -> nn.Module:
        model = randomised(
            Fn(lambda s, x: s.conv(step(s, s.bn(x))), conv=conv(inputs, 6, size)(), bn=bn(3)(),
               more=more())
        )  # fmt: skip
        own = model.get_submodule("bn")
        if scale_only:
            with torch.no_grad():
                own.weight.abs_().add_(0.1)  # type: ignore[operator]
                own.bias.zero_()  # type: ignore[operator]
                own.running_mean.zero_()  # type: ignore[operator]
        return model

    return Pattern(build, kept=kept, reason=reason)


def two(join: Callable[[Tensor, Tensor], Tensor], norm: type[nn.Module] = nn.BatchNorm2d,
        kept: int = 0) -> Pattern:  # fmt: skip
    """Two convolutions, joined, and BatchNorm."""
    run = lambda s, x: s.bn(join(s.a(x), s.b(x)))  # noqa: E731
    return Pattern(net(run, a=conv(), b=conv(), bn=lambda: norm(6)), kept=kept)


def product(run: Callable[..., object], weight: tuple[int, ...], channels: int,
            shape: tuple[int, ...], norm: type[nn.Module] = nn.BatchNorm1d) -> Pattern:  # fmt: skip
    """A product with a constant matrix `net.w` before or after BatchNorm."""

    def build() -> nn.Module:
        model = Fn(run, bn=norm(channels))
        model.register_parameter("w", nn.Parameter(torch.randn(weight)))
        return randomised(model)

    return Pattern(build, shape)


def repvgg(kept: int = 0, reason: str = "", small: int = 1, **options: Any) -> Pattern:
    """RepVGG's block in training: 3 x 3, 1 x 1 and nothing, each with BatchNorm, added up."""
    run = lambda s, x: s.a(s.big(x)) + s.b(s.small(x)) + s.c(x)  # noqa: E731
    return Pattern(
        net(run, big=conv(4, 4, 3, padding=1, **options), small=conv(4, 4, small, **options),
            a=bn(4), b=bn(4), c=bn(4)), (4, 6, 6), kept, reason,
    )  # fmt: skip


_PLACES = torch.tensor([4, 0, 2])
_FLAT = nn.BatchNorm1d


def _grid(y: Tensor) -> Tensor:
    """Places of which some lie outside."""
    places = torch.linspace(-1.2, 1.2, 18, dtype=y.dtype).view(1, 3, 3, 2).flip(2)
    return places.expand(y.shape[0], -1, -1, -1)


PASSING: dict[str, Pattern] = {
    # picking
    "repeat": behind(lambda y: y.repeat(1, 1, 2, 3)),
    "tile": behind(lambda y: torch.tile(y, (2, 2))),
    "expand": behind(lambda y: y.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)),
    "expand_new_axis": behind(lambda y: y.expand(1, *y.shape).flatten(0, 1)),
    "expand_channels": behind(lambda y: y[:, :1].expand(-1, 6, -1, -1), kept=1, reason="repeats"),
    "repeat_channels": behind(lambda y: y.repeat(1, 2, 1, 1), 12, kept=1, reason="repeats its"),
    "repeat_channels_alike": behind(
        lambda y: y.repeat(1, 2, 1, 1), 12, like=lambda t: t.repeat(2)
    ),
    "repeat_interleave_alike": behind(
        lambda y: y.repeat_interleave(2, 1), 12, like=lambda t: t.repeat_interleave(2)
    ),
    "bn_repeat_channels": before(lambda _, y: y.repeat(1, 2, 1, 1), 6),
    "bn_repeat_interleave": before(lambda _, y: y.repeat_interleave(2, 1), 6),
    "channel_shuffle": behind(lambda y: F.channel_shuffle(y, 2)),
    "channel_shuffle_by_hand": behind(
        lambda y: y.view(y.shape[0], 2, 3, 7, 7).transpose(1, 2).reshape(y.shape)
    ),
    "roll": behind(lambda y: torch.roll(y, (1, 2), (2, 1))),
    "flip_channels": behind(lambda y: y.flip(1)),
    "index_select": behind(lambda y: y.index_select(1, _PLACES), 3),
    "index": behind(lambda y: y[:, [4, 0, -1]], 3),
    "bn_index_twice": before(lambda _, y: y[:, [2, 0, 0, 1]], 4),
    "slice_both": behind(lambda y: y[:, 1:5, 1:-1, 2:], 4),
    "slice_step": behind(lambda y: y[:, ::2], 3),
    "narrow": behind(lambda y: y.narrow(1, 2, 3), 3),
    "select": behind(lambda y: y[:, :, :, -1], 6, _FLAT),
    "rot90": behind(lambda y: torch.rot90(y, 1, (2, 3))),
    "fliplr": behind(torch.fliplr),
    "crop": behind(lambda y: F.pad(y, (-1, -1, -1, 0))),
    # joining and cutting
    "stack": two(lambda a, b: torch.stack([a, b], 2), nn.BatchNorm3d),
    "stack_sum": two(lambda a, b: torch.stack([a, b], -1).sum(-1)),
    "add_alpha": two(lambda a, b: torch.add(a, b, alpha=2)),
    "sub_alpha": two(lambda a, b: torch.sub(a, b, alpha=-0.5)),
    "lerp": two(lambda a, b: torch.lerp(a, b, 0.3)),
    "two_norms_of_one_value": Pattern(
        net(lambda s, x: (lambda y: torch.add(s.a(y), s.b(y), alpha=3))(s.conv(x)),
            conv=conv(), a=bn(), b=bn()),
    ),
    "three_norms_of_the_input": Pattern(
        net(lambda s, x: s.conv(s.a(x) + s.b(x) + s.c(x)), conv=conv(), a=bn(3), b=bn(3), c=bn(3)),
        kept=1, merged=2,
    ),
    "two_norms_that_can_go_nowhere": Pattern(
        net(lambda s, x: torch.tanh(s.a(x) + s.b(x)), a=bn(3), b=bn(3)), kept=1, merged=1
    ),
    "product_of_two": two(torch.mul, kept=1),
    "chunk_half": behind(lambda y: y.chunk(2, 1)[1], 3),
    "unbind": behind(lambda y: y.view(y.shape[0], 2, 3, 7, 7).unbind(1)[1], 3),
    "repvgg": repvgg(),
    "repvgg_grouped": repvgg(groups=2, bias=False),
    "repvgg_without_a_centre": Pattern(
        net(lambda s, x: s.conv(x) - s.bn(x), conv=conv(4, 4, 2, padding="same"), bn=bn(4)),
        (4, 6, 6), 1, "not have the same scale",
    ),
    "linear_beside": product(lambda s, x: x @ s.w - s.bn(x), (5, 5), 5, (5,)),
    "beside_twice": Pattern(
        net(lambda s, x: s.a(x) - (s.b(x) - s.conv(x)), conv=conv(4, 4, 1), a=bn(4), b=bn(4)),
        (4, 6, 6),
    ),
    "sum_with_its_input_twice": Pattern(
        net(lambda s, x: torch.add(s.conv(x), s.bn(s.conv(x)), alpha=3), conv=conv(), bn=bn()),
    ),
    # reducing
    "sum": behind(lambda y: y.sum((2, 3)), 6, _FLAT),
    "bn_sum": before(lambda _, y: y.sum((2, 3), keepdim=True), size=1),
    "mean_over_channels": behind(lambda y: y.mean(1, keepdim=True), 1),
    "amax": behind(lambda y: y.amax((2, 3)), 6, _FLAT, positive=True),
    "amin": behind(lambda y: y.amin((2, 3)), 6, _FLAT, positive=True),
    "max_values": behind(lambda y: y.max(3)[0].min(2)[0], 6, _FLAT, positive=True),
    "max_values_negative": behind(
        lambda y: y.max(3)[0], 6, _FLAT, kept=1, reason="scales are negative"
    ),
    "max_and_where": behind(
        lambda y: y.max(3)[0] + y.max(3)[1], 6, _FLAT, kept=1, positive=True
    ),
    "warped": behind(lambda y: F.grid_sample(y, _grid(y), "bilinear",
                                             "border", align_corners=True)),
    "warped_into_zeros": behind(
        lambda y: F.grid_sample(y, _grid(y), align_corners=True),
        kept=1, reason="padding_mode",
    ),
    "divisor_override": behind(lambda y: F.avg_pool2d(y, 2, divisor_override=3)),
    "divisor_override_in_steps": behind(lambda y: F.avg_pool2d(y, (3, 2), 2, divisor_override=-4)),
    "divisor_override_and_padding": behind(
        lambda y: F.avg_pool2d(y, 2, padding=1, divisor_override=3),
        kept=1, reason="count_include_pad",
    ),
    "divisor_override_and_ceiling": behind(
        lambda y: F.avg_pool2d(y, 2, 2, ceil_mode=True, divisor_override=3),
        kept=1, reason="count_include_pad",
    ),
    "antialiased": behind(
        lambda y: F.interpolate(y, size=(4, 4), mode="bilinear", antialias=True)
    ),
    "bicubic": behind(
        lambda y: F.interpolate(y, size=(9, 5), mode="bicubic", align_corners=True)
    ),
    # constants
    "addcmul": behind(
        lambda y: torch.addcmul(y.new_ones(6, 1, 1), y, y.new_full((1,), 3), value=2)
    ),
    "addcmul_of_two": two(lambda a, b: torch.addcmul(a, b, b.new_full((6, 1, 1), 0.3))),
    "addcdiv": behind(lambda y: torch.addcdiv(y.new_ones(6, 1, 1), y, y.new_full((1,), 3))),
    "windows": behind(lambda y: y.unfold(2, 3, 2).sum(-1)),
    "windows_of_channels": behind(lambda y: y.unfold(1, 3, 1).mean(-1), 4, kept=1, reason="mixes"),
    "bn_windows_linear": Pattern(
        net(lambda s, x: s.fc(F.unfold(s.bn(x), 2).mT), bn=bn(3), fc=lambda: nn.Linear(12, 5)),
    ),
    "bn_padded_windows_linear": Pattern(
        net(lambda s, x: s.fc(F.unfold(s.bn(x), 2, padding=1).mT), bn=bn(3),
            fc=lambda: nn.Linear(12, 5)), kept=1, reason="count_include_pad",
    ),
    "constants": behind(lambda y: -(2 - y / 3) * 0.5 + 1),
    "a_tensor": behind(lambda y: y * torch.tensor(2.5) - torch.full((6, 1, 1), 0.5)),
    "arange": behind(lambda y: y + torch.arange(6).view(1, 6, 1, 1) / torch.linspace(1, 2, 7)),
    "like_another": behind(lambda y: y.reshape_as(torch.zeros_like(y))),
    "one_by_it": behind(lambda y: 2 / (y * y + 1), kept=1, reason="lies between"),
    # activations
    "relu": before(lambda _, y: F.relu(y), scale_only=True),
    "prelu": before(lambda s, y: s.more(y), scale_only=True, more=lambda: nn.PReLU(3)),
    "leaky_relu": before(lambda _, y: F.leaky_relu(y, 0.1), scale_only=True),
    "rrelu": before(lambda _, y: F.rrelu(y), scale_only=True),
    "abs": before(lambda _, y: y.abs(), scale_only=True),
    "clamp_at_zero": before(lambda _, y: y.clamp(min=0), scale_only=True),
    "clamp_at_one": before(lambda _, y: y.clamp(min=1), scale_only=True),
    "relu6": before(lambda _, y: F.relu6(y), scale_only=True, kept=1),
    "relu_plus_number": behind(lambda y: F.relu(y) + 0.5, positive=True),
    "number_minus_relu": behind(lambda y: 0.5 - F.relu(y), positive=True),
    "relu_plus_number_of_any_sign": behind(lambda y: F.relu(y) + 0.5, kept=1, reason="positive"),
    "relu_with_shift": before(lambda _, y: F.relu(y), kept=1, reason="positive scale without"),
    # products
    "matmul_left_of_a_matrix": product(lambda s, x: s.bn((s.w @ x.t()).t()), (7, 5), 7, (5,)),
    "matmul_transposed": product(lambda s, x: s.bn(x @ s.w.t()), (7, 5), 7, (5,)),
    "addmm_by_row": product(
        lambda s, x: torch.addmm(s.w.new_ones(1, 7), s.bn(x), s.w, beta=2, alpha=0.5), (5, 7), 5,
        (5,),
    ),
    "einsum_ellipsis": product(
        lambda s, x: s.bn(torch.einsum("...chw,oc->...ohw", x, s.w)), (6, 3), 6, IMAGE,
        nn.BatchNorm2d,
    ),
    "einsum_without_an_arrow": product(
        lambda s, x: s.bn(torch.einsum("nc,co", x, s.w)), (5, 7), 7, (5,)
    ),
    "embedding": product(
        lambda s, x: torch.tanh(s.bn(F.embedding(x.long() % 9, s.w).mT)), (9, 4), 4, (5,)
    ),
    "image_without_a_batch": Pattern(
        net(lambda s, x: s.bn(torch.stack([s.conv(x[0]), s.conv(x[1])])), conv=conv(), bn=bn())
    ),
    "transposed_image_without_a_batch": Pattern(
        net(lambda s, x: s.bn(torch.stack([s.up(x[0]), s.up(x[-1])])), bn=bn(),
            up=lambda: nn.ConvTranspose2d(3, 6, 2, 2)),
    ),
    "bn_one_of_the_batch": Pattern(
        net(lambda s, x: s.conv(s.bn(x)[-1]).unsqueeze(0), conv=conv(), bn=bn(3))
    ),
    "matmul_left": product(lambda s, x: s.bn(s.w @ x), (7, 3), 7, (3, 5)),
    "bn_matmul_left": product(lambda s, x: s.w @ s.bn(x), (7, 3), 3, (3, 5)),
    "einsum": product(
        lambda s, x: s.bn(torch.einsum("nchw,co->nohw", x, s.w)), (3, 6), 6, IMAGE, nn.BatchNorm2d
    ),
    "bn_einsum_weight_first": product(
        lambda s, x: torch.einsum("oc,nchw->nhwo", s.w, s.bn(x)), (6, 3), 3, IMAGE, nn.BatchNorm2d
    ),
}  # fmt: skip
