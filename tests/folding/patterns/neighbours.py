# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,union-attr,index,arg-type,no-any-return,no-untyped-call"
# mypy: disable-error-code="unused-ignore"
"""A BatchNorm and the call that can take it over, or cannot: what stands where, how often used.

Groups with several inputs and outputs, sizes that coincide where they must not be confused.
"""

from __future__ import annotations

import torch
from torch import nn

from tests.folding.patterns.building import (
    Pattern,
    bn,
    chain,
    conv,
    net,
    positive,
    shiftless,
)

_T = nn.ConvTranspose2d
_ZERO_PAD = "pads with zeros"

NEIGHBOURS: dict[str, Pattern] = {
    "conv1d_bn": Pattern(chain(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)), (3, 11)),
    "conv2d_bn": Pattern(chain(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))),
    "conv2d_nobias_bn": Pattern(chain(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6))),
    "conv2d_grouped_bn": Pattern(chain(nn.Conv2d(6, 9, 3, groups=3), nn.BatchNorm2d(9)), (6, 9, 9)),
    "conv2d_depthwise_bn": Pattern(
        chain(nn.Conv2d(6, 12, 3, groups=6), nn.BatchNorm2d(12)), (6, 9, 9)
    ),
    "shared_bn_two_convs": Pattern(
        net(lambda s, x: s.bn(s.a(x)) * s.bn(s.b(x)), a=conv(), b=conv(), bn=bn())
    ),
    "conv3d_bn": Pattern(chain(nn.Conv3d(3, 6, 3), nn.BatchNorm3d(6)), (3, 5, 5, 5)),
    "conv2d_reflect_bn": Pattern(
        chain(nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6))
    ),
    "conv_bn_bn": Pattern(chain(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6))),
    "convT1d_bn": Pattern(chain(nn.ConvTranspose1d(3, 6, 3, stride=2), nn.BatchNorm1d(6)), (3, 11)),
    "convT2d_bn": Pattern(
        chain(_T(3, 6, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(6))
    ),
    "convT2d_square_bn": Pattern(chain(_T(6, 6, 3), nn.BatchNorm2d(6)), (6, 9, 9)),
    "convT2d_grouped_bn": Pattern(chain(_T(6, 6, 3, groups=2), nn.BatchNorm2d(6)), (6, 9, 9)),
    "convT2d_depthwise_bn": Pattern(chain(_T(6, 6, 3, groups=6), nn.BatchNorm2d(6)), (6, 9, 9)),
    "convT3d_bn": Pattern(chain(nn.ConvTranspose3d(3, 6, 2), nn.BatchNorm3d(6)), (3, 4, 4, 4)),
    "convT2d_dwmult_bn": Pattern(chain(_T(4, 8, 3, groups=4), nn.BatchNorm2d(8)), (4, 9, 9)),
    "linear_bn1d": Pattern(chain(nn.Linear(5, 7), nn.BatchNorm1d(7)), (5,)),
    "linear_nobias_bn1d": Pattern(chain(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7)), (5,)),
    "linear_bn1d_3d_coincide": Pattern(
        chain(nn.Linear(5, 7), nn.BatchNorm1d(7)), (7, 5), 1, "features"
    ),
    "linear_bn1d_3d_differ": Pattern(
        chain(nn.Linear(5, 7), nn.BatchNorm1d(4)), (4, 5), 1, "features"
    ),
    "linear_transpose_bn": Pattern(
        net(
            lambda s, x: s.bn(s.fc(x).transpose(1, 2)),
            fc=lambda: nn.Linear(5, 7),
            bn=lambda: nn.BatchNorm1d(7),
        ),
        (7, 5),
    ),
    "bn_conv_zeropad_shift0": Pattern(
        lambda: shiftless(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1)))
    ),
    "bn_conv_reflect": Pattern(
        chain(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"))
    ),
    "bn_conv_grouped_pad0": Pattern(
        chain(nn.BatchNorm2d(6), nn.Conv2d(6, 9, 3, groups=3)), (6, 9, 9)
    ),
    "bn_conv_depthwise_pad0": Pattern(
        chain(nn.BatchNorm2d(6), nn.Conv2d(6, 12, 3, groups=6)), (6, 9, 9)
    ),
    "bn_convT_k_eq_s": Pattern(chain(nn.BatchNorm2d(3), _T(3, 6, 2, stride=2))),
    "bn_convT_k_eq_s_grouped": Pattern(
        chain(nn.BatchNorm2d(6), _T(6, 4, 3, stride=3, groups=2)), (6, 4, 5)
    ),
    "bn_convT1d_k_eq_s": Pattern(
        chain(nn.BatchNorm1d(3), nn.ConvTranspose1d(3, 6, 3, stride=3)), (3, 7)
    ),
    "bn_convT3d_k_eq_s": Pattern(
        chain(nn.BatchNorm3d(4), nn.ConvTranspose3d(4, 6, 2, stride=2, groups=2)), (4, 2, 3, 4)
    ),
    "bn_convT_oblong": Pattern(
        chain(nn.BatchNorm2d(4), _T(4, 6, (2, 3), stride=(2, 3), groups=2, bias=False)), (4, 5, 3)
    ),
    "bn_two_convs_pad0": Pattern(
        net(
            lambda s, x: (lambda y: s.a(y) * s.b(y))(s.bn(x)),
            a=conv(),
            b=conv(),
            bn=bn(3),
        )
    ),
    "conv_add_conv_bn": Pattern(
        net(lambda s, x: s.bn(s.a(x) + s.b(x)), a=conv(), b=conv(), bn=bn())
    ),
    "concat_bn": Pattern(
        net(
            lambda s, x: s.bn(torch.cat([s.a(x), s.b(x)], 1)),
            a=conv(3, 4),
            b=conv(3, 2),
            bn=bn(6),
        )
    ),
    "conv_avgpool_bn": Pattern(chain(nn.Conv2d(3, 6, 3), nn.AvgPool2d(2), nn.BatchNorm2d(6))),
    "conv_maxpool_bn_pos": Pattern(
        lambda: positive(
            nn.Sequential(nn.Conv2d(3, 6, 3), nn.MaxPool2d(3, padding=1), nn.BatchNorm2d(6))
        )
    ),
    "conv_upsample_bn": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.Upsample(scale_factor=2), nn.BatchNorm2d(6))
    ),
    "conv_upsample_bilinear_bn": Pattern(
        chain(
            nn.Conv2d(3, 6, 3),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.BatchNorm2d(6),
        )
    ),
    "conv_pixelshuffle_bn": Pattern(
        chain(nn.Conv2d(3, 12, 3), nn.PixelShuffle(2), nn.BatchNorm2d(3))
    ),
    "conv_gap_flatten_bn1d": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(6))
    ),
    "bn_conv_pad0": Pattern(chain(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3))),
    "bn_linear": Pattern(chain(nn.BatchNorm1d(5), nn.Linear(5, 7)), (5,)),
    "bn_conv_zeropad": Pattern(
        chain(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1)), kept=1, reason=_ZERO_PAD
    ),
    "bn_pad_conv_asym": Pattern(
        chain(nn.BatchNorm2d(3), nn.ZeroPad2d((1, 0, 0, 0)), nn.Conv2d(3, 6, 3)),
        kept=1,
        reason="pads with 0",
    ),
    "bn_conv_same_even": Pattern(
        chain(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 2, padding="same")), kept=1, reason=_ZERO_PAD
    ),
    "bn_convT": Pattern(chain(nn.BatchNorm2d(3), _T(3, 6, 3, stride=2)), kept=1, reason="overlap"),
    "bn_only": Pattern(chain(nn.BatchNorm2d(3)), kept=1, reason="input of the model"),
    "bn_relu_conv": Pattern(
        chain(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 6, 3)), kept=1, reason="relu"
    ),
    "conv_add_input_bn": Pattern(
        net(lambda s, x: s.bn(s.a(x) + x), a=conv(3, 3, padding=1), bn=bn(3)),
    ),
    "conv_subtract_input_bn": Pattern(
        net(lambda s, x: s.bn(torch.sub(x, s.a(x), alpha=0.5)), a=conv(3, 3, padding=1), bn=bn(3)),
    ),
    "grouped_conv_add_input_bn": Pattern(
        net(lambda s, x: s.bn(x + s.a(x)), a=conv(6, 6, padding=1, groups=3), bn=bn(6)), (6, 9, 9)
    ),
    "linear_add_input_bn": Pattern(
        net(lambda s, x: s.bn(s.a(x) + x), a=lambda: nn.Linear(5, 5), bn=lambda: nn.BatchNorm1d(5)),
        (5,),
    ),
    "conv_conv1_add_input_bn": Pattern(
        net(
            lambda s, x: s.bn(s.a(x) + s.b(x) + x),
            a=conv(4, 4, padding=1, groups=4),
            b=lambda: nn.Conv2d(4, 4, 1, groups=4),
            bn=bn(4),
        ),
        (4, 9, 9),
    ),
    "conv_add_input_conv1_bn": Pattern(
        net(
            lambda s, x: s.bn((s.a(x) + x) + s.b(x)),
            a=conv(4, 4, padding=1),
            b=lambda: nn.Conv2d(4, 4, 1),
            bn=bn(4),
        ),
        (4, 9, 9),
    ),
    "two_identities": Pattern(
        net(
            lambda s, x: s.n(s.b(y := s.bn(s.a(x) + x)) + y),
            a=conv(3, 3, padding=1),
            bn=bn(3),
            b=conv(3, 3, padding=1),
            n=bn(3),
        ),
    ),
    "conv_off_centre_add_input_bn": Pattern(
        net(lambda s, x: s.bn(s.a(nn.functional.pad(x, (2, 0, 2, 0))) + x), a=conv(3, 3), bn=bn(3)),
        kept=1,
        reason="input of the model",
    ),
    "conv_of_another_add_input_bn": Pattern(
        net(lambda s, x: s.bn(s.a(x * x) + x), a=conv(3, 3, padding=1), bn=bn(3)),
        kept=1,
        reason="input of the model",
    ),
    "conv_read_elsewhere_add_input_bn": Pattern(
        net(lambda s, x: s.bn((y := s.a(x)) + x) + y, a=conv(3, 3, padding=1), bn=bn(3)),
        kept=1,
    ),
    "concat_input_bn": Pattern(
        net(lambda s, x: s.bn(torch.cat([s.a(x), x], 1)), a=conv(3, 3, padding=1), bn=bn(6)),
        kept=1,
        reason="input of the model",
    ),
    "conv_avgpool_pad_bn": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.AvgPool2d(3, padding=1), nn.BatchNorm2d(6)),
        kept=1,
        reason="count_include_pad",
    ),
    "conv_avgpool_pad_uncounted_bn": Pattern(
        chain(
            nn.Conv2d(3, 6, 3),
            nn.AvgPool2d(3, padding=1, count_include_pad=False),
            nn.BatchNorm2d(6),
        )
    ),
    "conv_maxpool_bn_neg": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.MaxPool2d(2), nn.BatchNorm2d(6)), kept=1, reason="negative"
    ),
    "conv_flatten_bn1d": Pattern(
        chain(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.BatchNorm1d(18)), (3, 5, 5), 1, "channels"
    ),
    "bn_flatten_linear": Pattern(chain(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 81, 4))),
    "relu_bn_conv_pad0": Pattern(chain(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3))),
    "bn_conv_and_output": Pattern(
        net(lambda s, x: (lambda y: (y, s.a(y)))(s.bn(x)), a=conv(), bn=bn(3)),
        kept=1,
        reason="output of the model",
    ),
    "bn_bn": Pattern(chain(nn.BatchNorm2d(3), nn.BatchNorm2d(3)), kept=1, merged=1),
    "conv_second_consumer": Pattern(
        net(lambda s, x: (lambda y: s.bn(y) + torch.sigmoid(y))(s.a(x)), a=conv(), bn=bn()),
        kept=1,
        reason="also used by",
    ),
    "conv_is_output": Pattern(
        net(lambda s, x: (lambda y: (y, s.bn(y)))(s.a(x)), a=conv(), bn=bn()),
        kept=1,
        reason="also an output",
    ),
    "shared_conv_one_bn": Pattern(net(lambda s, x: s.bn(s.a(x)) * s.a(x * 2), a=conv(), bn=bn())),
    "shared_conv_two_bns": Pattern(
        net(lambda s, x: s.b(s.a(x)) * s.c(s.a(x * 2)), a=conv(), b=bn(), c=bn())
    ),
    "shared_conv_same_bn": Pattern(
        net(lambda s, x: s.b(s.a(x)) * s.b(s.a(x * 2)), a=conv(), b=bn())
    ),
    "shared_bn_standalone": Pattern(
        net(lambda s, x: s.b(s.a(x)) + s.b(torch.sigmoid(x)), a=conv(3, 3, padding=1), b=bn(3)),
        kept=1,
    ),
    "conv_dropout_bn": Pattern(chain(nn.Conv2d(3, 6, 3), nn.Dropout(), nn.BatchNorm2d(6))),
    "conv_identity_bn": Pattern(chain(nn.Conv2d(3, 6, 3), nn.Identity(), nn.BatchNorm2d(6))),
    "conv_relu_bn": Pattern(
        chain(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)), kept=1, reason="relu"
    ),
}
