"""Which layers are measured, and how: one batch shows what those in doubt normalise over.

PyTorch's own layers are in no doubt, so a model of nothing else costs nothing more.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from bncheck.core.errors import BncheckError
from bncheck.data import Batches
from bncheck.measuring.collector import Collector, SingleValueError
from bncheck.measuring.forward import forward, prepared
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.norms import TrackingNorm, channels_second, in_eval_mode, spare_statistics
from bncheck.measuring.own_update import (
    OTHER_INPUT,
    OwnUpdate,
    Seen,
    input_of,
    is_plain,
    own_update,
)
from bncheck.measuring.run import Run
from bncheck.reading.kinds import NormKind

if TYPE_CHECKING:
    from torch import Tensor

    Verdicts = dict[str, OwnUpdate | TrackingNorm | str | None]

#: Samples are enough to tell.
_SAMPLES: Final = 128


def proven(subject: Instrumented, data: Batches, run: Run) -> Instrumented:
    """The model with the layers that can be measured, and why the others cannot.

    Raises BncheckError where none can.
    """
    doubtful = [norm for norm in subject.norms if not is_plain(norm)]
    if not doubtful:
        return subject
    found = _verdicts(subject, doubtful, data, run)
    mine = {name: verdict for name, verdict in found.items() if isinstance(verdict, str)}
    unmeasured: dict[str, str] = {}
    for said in run.processes.told("what layers normalise over", json.dumps(mine).encode()):
        unmeasured |= json.loads(said)
    turned = {name: v for name, v in found.items() if isinstance(v, TrackingNorm)}
    measured = tuple(
        turned.get(norm.name, norm) for norm in subject.norms if norm.name not in unmeasured
    )
    if not measured:
        raise BncheckError(
            f"no layer can be measured: {next(iter(unmeasured))} {OTHER_INPUT}",
            "nothing is concluded of such layers; inspect the file without --data",
        )
    own = {name: v for name, v in found.items() if isinstance(v, OwnUpdate)}
    return replace(subject, norms=measured, own=own, unmeasured=unmeasured)


def _verdicts(
    subject: Instrumented, doubtful: Sequence[TrackingNorm], data: Batches, run: Run
) -> Verdicts:
    """Every layer normalises with the batch meanwhile, so none sees another's wrong statistics."""
    import torch

    first = next((b for b in replace(data, max_samples=_SAMPLES) if b.size), None)
    found: Verdicts = {}
    if first is None:
        return found
    names = {norm.name for norm in doubtful}
    plain = Collector([norm for norm in subject.norms if norm.name not in names], True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(in_eval_mode(subject.model))
        stack.enter_context(spare_statistics(subject.norms))
        stack.enter_context(plain.attached())
        for norm in doubtful:
            hook = _hook(norm, found)
            handle = norm.module.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        with contextlib.suppress(SingleValueError):  # the cascade tells whether that matters
            forward(subject.model, prepared(subject.model, first, 0, run.device), 0)
    return found


def _hook(norm: TrackingNorm, found: Verdicts) -> Any:
    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            seen = _seen(norm, input_of(args, kwargs))
        except BncheckError:  # its statistics are not one for each channel of the input
            found[norm.name] = OTHER_INPUT
            return
        if seen.values < 2:
            return
        verdict: OwnUpdate | TrackingNorm | str | None = own_update(norm, args, kwargs, seen)
        if verdict is not None:
            turned = replace(norm, last=True)
            along = _seen(turned, input_of(args, kwargs))
            if own_update(turned, args, kwargs, along) is None:
                verdict, seen = turned, along
        if found.get(norm.name) is None:
            found[norm.name] = verdict
        mean, var = seen.mean, seen.var
        if isinstance(verdict, OwnUpdate):
            mean, var = verdict.statistics(args, kwargs)
        norm.mean.copy_(mean)
        norm.var.copy_(var)

    return before


def _seen(norm: TrackingNorm, x: Tensor) -> Seen:
    images = channels_second(norm.name, norm.channels, x.detach(), norm.last).double()
    if norm.kind is NormKind.INSTANCE:
        var = images.var(dim=2, correction=0).mean(dim=0)
    else:
        var = images.var(dim=(0, 2), correction=0)
    return Seen(images.mean(dim=(0, 2)), var, images.shape[0] * images.shape[2])
