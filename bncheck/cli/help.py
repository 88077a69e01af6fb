"""`--help`: the options under headings, examples, and what each exit code means.

typer's own panels need rich, which doubles the time that help takes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final

from typer.core import TyperCommand, TyperGroup


class Heading(StrEnum):
    """What options are listed under, in this order: an option's `rich_help_panel`."""

    OPTIONS = "Options"
    MODEL = "Model"
    DATA = "Data"
    JUDGING = "Judging"
    REPORTS = "Reports"


#: Longer lines are hard to read, and in shorter ones no option fits.
_WIDEST: Final = 100
_NARROWEST: Final = 30


@dataclass(frozen=True)
class Told:
    """What the help of a command tells beside its options."""

    examples: tuple[str, ...]
    #: What it means that the exit code is 0 and 1.
    done: str = "nothing found at or above --fail-on"
    failed: str | None = "findings at or above --fail-on"

    @property
    def exit_codes(self) -> list[tuple[str, str]]:
        """Each code with its meaning."""
        codes = [("0", self.done), ("1", self.failed), ("2", "could not be done: stderr says why")]
        codes += [("130", "interrupted (Ctrl-C); 143 terminated")]
        return [(code, meaning) for code, meaning in codes if meaning is not None]


class _Helpful:
    """The parts of a command's help that differ from typer's."""

    told: ClassVar[Told]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options under their headings."""
        for heading, parameters in headed(self.get_params(ctx)):  # type: ignore[attr-defined]
            records = [found for p in parameters if (found := p.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=min(30, formatter.width // 3))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, each on a line that can be copied, and the exit codes."""
        with formatter.section("Examples"):
            for example in self.told.examples:
                formatter.write(f"  {example}\n")
        with formatter.section("Exit codes"):
            formatter.write_dl(self.told.exit_codes)


def headed(parameters: list[Any]) -> list[tuple[str, list[Any]]]:
    """The parameters of a command by heading: what it takes first, then its options."""
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    options = [p for p in parameters if p.param_type_name == "option"]
    by_heading = [
        (heading.value, [p for p in options if (p.rich_help_panel or Heading.OPTIONS) == heading])
        for heading in Heading
    ]
    return [("Arguments", arguments), *by_heading]


def command_class(told: Told) -> type[TyperCommand]:
    """A command with such a help."""
    return type("Command", (_Helpful, TyperCommand), {"told": told})


class Root(_Helpful, TyperGroup):
    """`bncheck` itself: the commands first, its few options last."""

    told = Told(
        (
            "bncheck inspect model.pt",
            "bncheck inspect model.pt --model nets.py:build --data data.py:loader",
            "bncheck export model.pt --model nets.py:build --input 3,224,224 -o model.onnx",
        )
    )

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        records = [found for p in self.get_params(ctx) if (found := p.get_help_record(ctx))]
        with formatter.section(Heading.OPTIONS.value):
            formatter.write_dl(records)


def width() -> int:
    """Of the help, in characters: the terminal's, within what can be read."""
    return max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDEST) - 2)
