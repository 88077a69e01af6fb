"""What every command's report is beside its data: three lines, a page in a notebook, a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Silenced

if TYPE_CHECKING:
    import pandas as pd


class Views(Protocol):
    """What people see of a report: `bncheck.reporting.notebook`."""

    def lines(self, report: Any) -> str:
        """Three lines."""

    def fragment(self, report: Any) -> str | None:
        """HTML; None where a library for it is missing."""


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """A report of a command. Those below are frozen dataclasses with `findings`.

    `silenced` are the findings that the project's exceptions and baseline left out of these.
    """

    silenced: tuple[Silenced, ...] = field(default=(), kw_only=True)

    #: The command that makes such a report.
    command: ClassVar[str]
    #: How the codes of the rules begin that it answers: of no other can it say that it is gone.
    asks: ClassVar[tuple[str, ...]] = ()
    #: Set by the package itself: reports know nothing of how they are shown.
    views: ClassVar[Callable[[], Views]]

    @property
    def asked(self) -> tuple[str, ...]:
        """The rules of `asks` that were asked this time."""
        return self.asks

    @property
    def layer_names(self) -> Iterable[str]:
        """The layers that it knows, whether anything was found in them or not."""
        return ()

    def to_dict(self) -> dict[str, object]:
        """The report as plain data: that of the command's JSON."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """What `to_pandas` makes a table of: a layer a row, where there are layers."""
        raise NotImplementedError

    def to_pandas(self) -> pd.DataFrame:
        """The layers as rows; numbers within numbers are columns such as running_var.max.

        Raises BncheckError where pandas is not installed.
        """
        from bncheck.core.extras import need

        need("pandas")
        import pandas as pd

        return pd.json_normalize(self.rows())

    def __repr__(self) -> str:
        try:
            return type(self).views().lines(self)
        except BncheckError as error:  # a file that has gone since
            return f"<{type(self).__name__}: {error}>"

    def _repr_html_(self) -> str | None:
        return type(self).views().fragment(self)
