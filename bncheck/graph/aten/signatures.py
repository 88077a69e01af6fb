"""The arguments of torch's operators by their names, with their defaults: native_functions.yaml.

For calls that are read from a file, where torch is not there to be asked.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

_SIGNATURES: Final = """
conv1d conv2d conv3d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1)
convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
conv_transpose1d conv_transpose2d conv_transpose3d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)
linear(input, weight, bias=None)
addmm(self, mat1, mat2, beta=1, alpha=1)
add sub rsub(self, other, alpha=1)
lerp(self, end, weight)
div divide(self, other, rounding_mode=None)
true_divide(self, other)
einsum(equation, tensors)
tensordot(self, other, dims_self, dims_other)
embedding(weight, indices)
clamp(self, min=None, max=None)
clamp_min(self, min)
hardtanh(self, min_val=-1, max_val=1)
leaky_relu(self, negative_slope=0.01)
rrelu(self, lower=0.125, upper=0.3333333333333333, training=False)
elu(self, alpha=1, scale=1, input_scale=1)
softplus(self, beta=1, threshold=20)
batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)
native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional _batch_norm_impl_index(input, weight, bias, running_mean, running_var, training, momentum, eps)
_native_batch_norm_legit_no_training _batch_norm_no_update _batch_norm_with_update _batch_norm_with_update_functional(input, weight, bias, running_mean, running_var, momentum, eps)
cudnn_batch_norm miopen_batch_norm(input, weight, bias, running_mean, running_var, training, exponential_average_factor, epsilon)
instance_norm(input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps)
layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-05)
group_norm(input, num_groups, weight=None, bias=None, eps=1e-05)
dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout(input, p, train)
permute permute_copy(self, dims)
pixel_shuffle(self, upscale_factor)
pixel_unshuffle(self, downscale_factor)
cat concat concatenate stack(tensors, dim=0)
chunk unsafe_chunk(self, chunks, dim=0)
split unsafe_split split_copy(self, split_size, dim=0)
split_with_sizes unsafe_split_with_sizes split_with_sizes_copy(self, split_sizes, dim=0)
tensor_split(self, sections, dim=0)
unbind(self, dim=0)
slice slice_copy(self, dim=0, start=None, end=None, step=1)
narrow(self, dim, start, length)
select select_copy(self, dim, index)
avg_pool1d(self, kernel_size, stride=(), padding=0, ceil_mode=False, count_include_pad=True)
avg_pool2d avg_pool3d(self, kernel_size, stride=(), padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None)
rot90(self, k=1, dims=(0, 1))
grid_sampler(input, grid, interpolation_mode, padding_mode, align_corners)
mean sum(self, dim=None, keepdim=False, dtype=None)
amax amin max min(self, dim=None, keepdim=False)
pad(self, pad, mode="constant", value=None)
constant_pad_nd(self, pad, value=0)
flip(self, dims)
roll(self, shifts, dims=())
repeat(self, repeats)
tile(self, dims)
repeat_interleave(self, repeats, dim=None, output_size=None)
channel_shuffle native_channel_shuffle(self, groups)
index_select(self, dim, index)
index(self, indices)
flatten(self, start_dim=0, end_dim=-1)
view(self, size)
reshape(self, shape)
"""  # noqa: E501


@cache
def signatures() -> Mapping[str, Mapping[str, Any]]:
    """The arguments of each operator in their order; `...` for one without a default."""
    found: dict[str, Mapping[str, Any]] = {}
    for line in _SIGNATURES.split("\n"):
        names, _, rest = line.partition("(")
        if not names:
            continue
        function = ast.parse(f"lambda {rest.removesuffix(')')}: 0", mode="eval").body
        assert isinstance(function, ast.Lambda)
        given = function.args
        missing = [...] * (len(given.args) - len(given.defaults))
        values = [*missing, *(ast.literal_eval(value) for value in given.defaults)]
        arguments = dict(zip((a.arg for a in given.args), values, strict=True))
        found.update(dict.fromkeys(names.split(), arguments))
    return found
