"""What `[tool.bncheck]` may hold. These dataclasses are the schema: pydantic reads their types.

pydantic itself is imported by `load` alone, and only where there is a configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Final, TypeAlias

from annotated_types import Ge, Gt, Le

from bncheck.core.findings import FailOn, Severity
from bncheck.core.thresholds import Thresholds

Positive: TypeAlias = Annotated[float, Gt(0)]
Count: TypeAlias = Annotated[int, Ge(1)]
Words: TypeAlias = "str | tuple[str, ...]"


def kebab(name: str) -> str:
    """fail_on -> fail-on: keys are spelt like the options."""
    return name.replace("_", "-")


#: pydantic's settings for each of the tables.
TABLE: Final[dict[str, Any]] = {
    "extra": "forbid",
    "alias_generator": kebab,
    "use_attribute_docstrings": True,
}


@dataclass(frozen=True)
class Limits:
    """W2 from which a finding is a warning, and from which an error."""

    __pydantic_config__: ClassVar[dict[str, Any]] = TABLE

    w2_warning: Positive | None = None
    """Default: 0.20."""
    w2_error: Positive | None = None
    """Default: 0.40."""

    def over(self, base: Thresholds) -> Thresholds:
        """These where they are set, `base` for the rest; an error is a warning before."""
        error = base.w2_error if self.w2_error is None else self.w2_error
        warning = min(base.w2_warning, error) if self.w2_warning is None else self.w2_warning
        return replace(base, w2_warning=warning, w2_error=error)


@dataclass(frozen=True)
class Ignored:
    """A rule that is ignored for some layers."""

    __pydantic_config__: ClassVar[dict[str, Any]] = TABLE

    rule: str
    """A code, a name, or the start of a code."""
    layers: str
    """A pattern of layer names: 'aux.*'; '*' for all."""
    reason: str
    """Why; for those who read this file later."""
    models: str = "*"
    """A pattern of the names of models that `gate` checks; other commands match only '*'."""


@dataclass(frozen=True)
class Fold:
    """Every BatchNorm that can be folded is, on a trial basis; nothing is written."""

    __pydantic_config__: ClassVar[dict[str, Any]] = TABLE

    fail_unfolded: bool = False
    """Fail if a BatchNorm is not folded."""
    keep: tuple[str, ...] = ()
    """Patterns of BatchNorms not to fold."""
    tolerance: Positive | None = None
    """Largest relative error allowed (default: by dtype)."""


@dataclass(frozen=True)
class Against:
    """What `--against` allows a model to be worse than it was."""

    __pydantic_config__: ClassVar[dict[str, Any]] = TABLE

    w2_growth: Annotated[float, Ge(0)] = 0.05
    """How much a layer's W2 may grow."""


@dataclass(frozen=True)
class Model:
    """One model, and what is to be checked of it. Paths are relative to the file's folder."""

    __pydantic_config__: ClassVar[dict[str, Any]] = TABLE

    checkpoint: Words
    """A file, a pattern like 'runs/*.pt', or a list of them."""
    key: str | None = None
    """Which part of the checkpoint: ema, state_dict."""
    model: str | None = None
    """TARGET:CALLABLE; imported and called, which runs its code."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the callable; '@net.yaml' is the content of a file."""
    data: str | None = None
    """A file, a folder of images, or TARGET:CALLABLE."""
    samples: Count | None = None
    """Use at most this many samples."""
    batch_size: Count | None = None
    """For files and folders."""
    scale: Positive | None = None
    """Divide raw values by this."""
    mean: tuple[float, ...] = ()
    """Then subtract this, per channel."""
    std: tuple[float, ...] = ()
    """Then divide by this, per channel."""
    size: tuple[int, ...] = ()
    """Resize the images of a folder to this size."""
    grey: bool = False
    """Read the images of a folder in grey: one channel."""
    input: Words = ()
    """One sample's shape without the batch: '3,224,224'."""
    eps: Annotated[float, Ge(0)] | None = None
    """eps of layers for which neither file nor model has one."""
    momentum: Annotated[float, Ge(0), Le(1)] | None = None
    """In PyTorch's convention, if the file has none."""
    train_batch_size: Count | None = None
    """Training batch size per device."""
    inspect: Limits = Limits()
    """Thresholds of this model."""
    fold: Fold | None = None
    """Try a fold."""
    export: str | None = None
    """Export to this ONNX file, which is replaced, and compare it with the model."""
    compare: str | None = None
    """Compare this file with the model."""
    drift: Words = ()
    """Earlier snapshots, files or patterns, oldest first."""


@dataclass(frozen=True)
class Settings:
    """All of `[tool.bncheck]`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = TABLE

    select: tuple[str, ...] = ()
    """Only these rules: codes, names, or the start of a code."""
    ignore: tuple[str | Ignored, ...] = ()
    """Rules to ignore; or tables, to ignore a rule for some layers only."""
    severity: Mapping[str, Severity] = field(default_factory=dict)
    """Severity of a rule: BN109 = 'warning'."""
    thresholds: Limits = Limits()
    """The W2 from which a finding is a warning or an error."""
    fail_on: FailOn | None = None
    """Lowest severity that makes the exit code 1; default 'error'."""
    baseline: str | None = None
    """Findings in this file are known and do not fail."""
    docs_url: str | None = None
    """Where your copy of the documentation lies; reports link to its page of each rule."""
    against: Against = Against()
    """What --against allows."""
    models: Mapping[str, Model] = field(default_factory=dict)
    """What `bncheck gate` checks, by name."""

    @property
    def ignored_rules(self) -> tuple[str, ...]:
        """The rules that are left out altogether."""
        return tuple(entry for entry in self.ignore if isinstance(entry, str))

    @property
    def exceptions(self) -> tuple[Ignored, ...]:
        """The rules that are left out for some layers."""
        return tuple(entry for entry in self.ignore if isinstance(entry, Ignored))


def words(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """One word or several, as several."""
    return (value,) if isinstance(value, str) else value
