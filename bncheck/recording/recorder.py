"""`Recorder`: a training's BatchNorm layers, recorded and judged while it runs."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.core.words import a_kind

if TYPE_CHECKING:
    from bncheck.recording.session import Session
    from bncheck.recording.sinks import Sink

LOGGER: Final = logging.getLogger("bncheck.recording")
#: What torch says of a batch of one value per channel.
_SINGLE_VALUE: Final = "Expected more than 1 value per channel"

#: Different things that go wrong before nobody is told of another.
_MOST_WARNINGS: Final = 5

OnFinding = Literal["warn", "raise"] | Callable[[Finding], object]


class Recorder:
    """Records the normalisation layers of a model every `every` steps, and says what is wrong.

    Call `step` after every update, in every process of a distributed training. The model is only
    looked at: its weights come out the same to the last bit. Whatever keeps the recorder from
    recording is one warning, and the training goes on.

        recorder = Recorder(model, "runs/a", every=100)
        for x, y in loader:
            ...
            optimizer.step()
            recorder.step(loss=loss, lr=scheduler.get_last_lr()[0])
        recorder.close()

    `path` is the folder of the record; one that is there already is gone on with. `every_epoch`
    records in the second step of each epoch that `step` is told of, instead. At most `keep`
    snapshots are kept, in gaps that grow with their age; None keeps all. `also` are other models of
    the same training by name: an average of the weights, or the discriminator of a GAN. `layers` is
    "norm", or "all" for the outputs of convolutions and linear layers as well. `optimizer` tells
    the learning rate where `step` is not told. `on_finding` is "warn" (the logger
    `bncheck.recording`), "raise" (a BncheckError), or a function that is called with the finding.

    Raises BncheckError for a model without such layers, or a folder that cannot be written.
    """

    def __init__(
        self,
        model: Any,
        path: str | Path,
        *,
        every: int = 100,
        every_epoch: bool = False,
        keep: int | None = 1000,
        also: Mapping[str, Any] | None = None,
        layers: Literal["norm", "all"] = "norm",
        optimizer: Any = None,
        on_finding: OnFinding = "warn",
    ) -> None:
        _check(every, keep, layers, optimizer, on_finding, also or {})
        from bncheck.recording.session import Plan, Session

        plan = Plan(operator.index(every), every_epoch, keep, layers == "all")
        models = {"": model, **(also or {})}
        self._session: Session | None = Session(models, Path(path), plan, optimizer)
        self._on_finding = on_finding
        self._sinks: list[Sink] = []
        self._warned: set[str] = set()

    def step(
        self,
        *,
        loss: Any = None,
        lr: float | None = None,
        epoch: int | None = None,
        step: int | None = None,
    ) -> None:
        """An update was made. `step` counts them from 1; without it the recorder counts itself.

        The same `step` again is one of several batches of an update. `loss` may be a tensor: it is
        only looked at in recorded steps.
        """
        step, epoch = self._whole("step", step), self._whole("epoch", epoch)
        self._guarded(lambda session: session.step(loss, lr, epoch, step))

    def log_to(self, target: Any, *, histograms: bool = False) -> None:
        """Also log scalars of every recorded step under `bncheck/`, and histograms on request.

        `target` is a SummaryWriter, a run of wandb, mlflow, or a function of (scalars, step).
        """
        from bncheck.recording.sinks import sink_for

        self._sinks.append(sink_for(target, histograms))
        if self._session is not None:
            self._session.logs = True

    def close(self) -> None:
        """Record where the training stands now, and leave the model alone."""
        self._guarded(lambda session: session.close())
        self._session = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, ValueError) and _SINGLE_VALUE in str(error):
            self._guarded(lambda session: session.single_value(None), quietly=True)
        if error is None:
            self.close()
            return
        self._guarded(lambda session: session.close(), quietly=True)
        self._session = None

    def _guarded(self, act: Callable[[Session], None], quietly: bool = False) -> None:
        """Do it, and tell what came of it; nothing but a finding that is to raise goes out."""
        session = self._session
        if session is None:
            return
        try:
            act(session)
        except BncheckError as error:
            self._warn(str(error))
        except Exception as error:
            self._warn(f"this is a bug in bncheck ({type(error).__name__}: {error})")
            session.disarm()
            self._session = None
        self._tell(session, quietly)

    def _tell(self, session: Session, quietly: bool) -> None:
        for problem in session.problems():
            self._warn(problem)
        for scalars, arrays, step in session.scalars():
            for sink in self._sinks:
                try:
                    sink.tell(scalars, arrays, step)
                except Exception as error:
                    self._warn(f"cannot log ({type(error).__name__}: {error})")
        for finding in session.findings():
            self._say(finding, quietly)

    def _whole(self, name: str, value: Any) -> int | None:
        """A whole number, or None and a warning: the recorder counts steps itself."""
        if value is None or type(value) is int:
            return value
        if _is_count(value, 0):
            return operator.index(value)
        if isinstance(value, float) and value >= 0:
            return int(value)
        self._warn(f"{name}={value!r}, which is not a whole number")
        return None

    def _say(self, finding: Finding, quietly: bool) -> None:
        if finding.severity is Severity.INFO:
            return
        series = finding.evidence.get("series")
        layer = "/".join(str(part) for part in (series, finding.layer) if part)
        layer = f"{layer}: " if layer else ""
        text = f"step {finding.evidence['step']}: {finding.rule} {layer}{finding.message}"
        if callable(self._on_finding):
            self._on_finding(finding)
        elif self._on_finding == "raise" and not quietly:
            raise BncheckError(text, finding.fix)
        else:
            LOGGER.warning("%s; %s", text, finding.fix)

    def _warn(self, text: str) -> None:
        """Once of each: a disk that is full stays so."""
        if text not in self._warned and len(self._warned) < _MOST_WARNINGS:
            LOGGER.warning("not recorded: %s; the training goes on", text)
            self._warned.add(text)


def _check(
    every: object, keep: object, layers: object, optimizer: Any, on_finding: object,
    also: Mapping[str, Any],
) -> None:  # fmt: skip
    """Refuse what would be misunderstood. Raises BncheckError."""
    rates = optimizer is None or hasattr(optimizer, "param_groups")
    for fits, sentence, hint in (
        (_is_count(every, 1), f"every={every!r} is not a number of steps", "give 1 or more"),
        (
            keep is None or _is_count(keep, 2),
            f"keep={keep!r} is not a number of snapshots", "give 2 or more, or None for all",
        ),
        (layers in ("norm", "all"), f"layers={layers!r} is not known", 'give "norm" or "all"'),
        (
            on_finding in ("warn", "raise") or callable(on_finding),
            f"on_finding={on_finding!r} is not known", 'give "warn", "raise" or a function',
        ),
        (
            rates, f"optimizer is {a_kind(optimizer)}, which has no learning rate",
            "give the torch.optim optimizer, or step(lr=...)",
        ),
        (
            all(isinstance(name, str) and name for name in also),
            "also= has a model without a name", 'give each one: also={"ema": average}',
        ),
    ):  # fmt: skip
        if not fits:
            raise BncheckError(sentence, hint, "Recorder")


def _is_count(value: object, least: int) -> bool:
    """A whole number, be it NumPy's."""
    try:
        return operator.index(value) >= least  # type: ignore[arg-type]
    except TypeError:
        return False
