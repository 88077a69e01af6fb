"""Rules about what folding finds; a fold makes their findings, not a check of one file."""

from __future__ import annotations

from typing import Final

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Rule

not_folded: Final[Rule[None, Finding]] = Rule(
    "BN402",
    "batchnorm-not-folded",
    (Severity.INFO, Severity.ERROR),
    explanation="""A BatchNorm stays in the folded program.

Where it lies, no weight can take over its scale and shift without changing the function: its input
is used elsewhere, too, a nonlinearity lies on both sides, zero padding follows its shift, it
normalises with the batch, or --keep asks for it. It costs some time at inference and is otherwise
as sound as before.

Criterion: no exact fold backwards into the calls that make its input, nor forwards into all calls
that read its result. An error with --fail-unfolded.

Fix: the report names what is in the way and, where there is one, the change of the model that would
let it be folded.""",
)

fold_overflow: Final[Rule[None, Finding]] = Rule(
    "BN403",
    "fold-overflow",
    (Severity.ERROR,),
    explanation="""A BatchNorm cannot be folded because the numbers would not fit their dtype.

Weights times gamma / sqrt(var + eps) may exceed 65504, the largest float16, where the two of them
apart did not. Every other tool writes infinities then. bncheck leaves the BatchNorm in place.

Criterion: a folded weight or bias, computed in float64, becomes infinite when it is cast.

Fix: fold the float32 model and convert it afterwards, or look at the channels' variances with
`bncheck inspect`: a scale this large often comes from a dead channel.""",
)

parity_failure: Final[Rule[None, Finding]] = Rule(
    "BN404",
    "parity-failure",
    (Severity.ERROR,),
    explanation="""The folded program is not the same function, so it was not written.

Both are run on fresh, signed inputs, at two batch sizes where the program accepts them. The
reference is the original computed in float64, since in float32 the original may well be the less
accurate of the two. Where the outputs seem to differ and have fewer than 64 values per channel,
more inputs are drawn, so that a channel's largest value says how large the channel is.

Criterion: in some output channel, the largest difference relative to the channel's largest value
(to a thousandth of the output's, where the channel's is smaller) is above --tolerance (1e-5 in
float32, 5e-3 in float16, 4e-2 in bfloat16, 1e-12 in float64) and above ten times the error that the
original in its own dtype has in that channel, up to 100 tolerances. The same is asked, with the
fold's numbers in float64, of the values next to what was folded, since outputs alone say nothing
about a unit that is zero on these inputs.

Fix: where the original's own rounding is larger than a tolerance can excuse, the message says so:
fold it with a larger --tolerance. Otherwise this is a bug in bncheck or a model that is not
deterministic; please report it with the layer that the message names.""",
)
