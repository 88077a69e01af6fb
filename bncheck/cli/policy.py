"""The options about findings that every command has, and what the configuration adds to them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from bncheck.cli import console
from bncheck.cli.completion import rule_lists
from bncheck.cli.help import Heading
from bncheck.cli.options import exit_code
from bncheck.core.errors import BncheckError, ExitCode
from bncheck.core.findings import FailOn, Finding, Severity

if TYPE_CHECKING:
    from bncheck.policy.baseline import Baseline, Known
    from bncheck.policy.config.load import Configuration
    from bncheck.policy.policy import Policy, SortedFindings

#: A frozen report with a field `findings`.
Report = TypeVar("Report", bound=Any)


_option = partial(typer.Option, rich_help_panel=Heading.JUDGING)


@dataclass(frozen=True)
class PolicyOptions:
    """Which rules count, and what makes the exit code 1."""

    select: Annotated[
        list[str] | None,
        _option(
            "--select",
            metavar="RULES",
            help="Only these rules: BN101,BN102 or BN1.",
            autocompletion=rule_lists,
        ),
    ] = None
    ignore: Annotated[
        list[str] | None,
        _option(
            "--ignore", metavar="RULES", help="All but these rules.", autocompletion=rule_lists
        ),
    ] = None
    fail_on: Annotated[
        FailOn | None,
        _option("--fail-on", help="Lowest severity that makes the exit code 1 (default: error)."),
    ] = None
    baseline: Annotated[
        Path | None,
        _option(
            "--baseline", metavar="FILE", help="Findings in this file are known and do not count."
        ),
    ] = None
    write_baseline: Annotated[
        Path | None,
        _option("--write-baseline", metavar="FILE", help="Write the current findings as known."),
    ] = None
    config: Annotated[
        Path | None,
        _option(
            "--config", metavar="FILE", help="Configuration file (default: nearest pyproject.toml)."
        ),
    ] = None
    isolated: Annotated[
        bool,
        _option("--isolated", help="Ignore every pyproject.toml."),
    ] = False

    def tally(self) -> Tally:
        """An empty tally; these options override the configuration. Raises BncheckError."""
        from bncheck.policy.config.find import load
        from bncheck.policy.policy import Policy
        from bncheck.rules.choosing import choose_rules

        if self.config is not None and self.isolated:
            raise BncheckError("--config and --isolated exclude each other", "give one of them")
        configuration = load(self.config, self.isolated)
        policy = Policy() if configuration is None else configuration.policy
        policy = replace(
            policy,
            select=tuple(self.select or policy.select),
            ignore=tuple(self.ignore or policy.ignore),
            fail_on=self.fail_on or policy.fail_on,
            baseline=self._baseline(configuration),
        )
        chosen = choose_rules(policy.select, policy.ignore)  # a misspelt rule is said here
        if chosen.ignore and not any(chosen):
            told = ", ".join(chosen.ignore)
            raise BncheckError(f"without {told} there is no rule left", "ignore fewer rules")
        if self.write_baseline is not None:
            from bncheck.writing.atomic import check_target

            check_target(self.write_baseline)
        read = [self.baseline, configuration.file if configuration else None]
        read += [policy.baseline.path if policy.baseline else None]
        files = tuple(path for path in read if path is not None)
        return Tally(policy, configuration, self.write_baseline, files)

    def _baseline(self, configuration: Configuration | None) -> Baseline | None:
        path = self.baseline
        if path is None and configuration is not None:
            path = configuration.baseline
        if path is None or self.write_baseline is not None:  # everything is to be written anew
            return None
        from bncheck.policy.baseline import read_baseline

        return read_baseline(path)


@dataclass
class Tally:
    """Applies the policy to findings and remembers them for the baseline and the exit code.

    `target` is a baseline to write; `files` are the policy's own files; `asked` are the rules that
    were asked, by model.
    """

    policy: Policy
    configuration: Configuration | None
    target: Path | None = None
    files: tuple[Path, ...] = ()
    known: int = 0
    excepted: int = 0
    used: set[int] = field(default_factory=set)
    met: list[Known] = field(default_factory=list)
    counted: list[Known] = field(default_factory=list)
    asked: dict[str | None, set[str]] = field(default_factory=dict)

    @property
    def limit(self) -> Severity | None:
        """The mildest severity that fails."""
        return None if self.target is not None else self.policy.fail_on.limit

    def count(self, report: Report, model: str | None = None, file: Path | None = None) -> Report:
        """The report, reduced to the findings that count; `file` is what it is about."""
        self.asked.setdefault(model, set()).update(report.asked)
        owner = None if file is None else self._owners.get(os.path.realpath(file))
        found = self.count_findings(report.findings, model, report.layer_names, owner)
        return found.applied_to(report)

    @cached_property
    def _owners(self) -> dict[str, str | None]:
        """The declared model of each checkpoint; None of one that several have.

        What is known of one model is not known of the next.
        """
        if self.configuration is None or self.policy.baseline is None:
            return {}
        from bncheck.gate.declared import files_of
        from bncheck.policy.config.settings import words

        found: dict[str, str | None] = {}
        for name, model in self.configuration.settings.models.items():
            with contextlib.suppress(BncheckError):  # a gate says it
                here = tuple(word for word in words(model.checkpoint) if "://" not in word)
                for path in files_of(self.configuration, name, here, "checkpoint"):
                    place = os.path.realpath(path)
                    found[place] = name if found.get(place, name) == name else None
        return found

    def count_findings(
        self,
        findings: Iterable[Finding],
        model: str | None = None,
        layers: Iterable[str] = (),
        owner: str | None = None,
    ) -> SortedFindings:
        """Sort and remember the findings of a network with these layers."""
        sorted_ = self.policy.sort(findings, model, layers, owner)
        self.known += len(sorted_.known)
        self.excepted += len(sorted_.excepted)
        self.used |= sorted_.used
        if self.target is not None or self.policy.baseline is not None:
            self._remember(sorted_, model)
        return sorted_

    def _remember(self, found: SortedFindings, model: str | None) -> None:
        from bncheck.policy.baseline import known_of

        every = (*found.known, *found.findings, *found.excepted)
        self.met += [known_of(finding, model, found.names) for finding in every]
        serious = [f for f in found.findings if f.severity is not Severity.INFO]
        self.counted += [known_of(finding, model, found.names) for finding in serious]

    def finish(
        self,
        findings: Iterable[Finding],
        failed: bool = False,
        checked: Collection[str | None] | None = None,
    ) -> ExitCode:
        """Say what was left out, write the baseline, and choose the exit code.

        With `failed`, something could not be done: no baseline is written. `checked` are the models
        of which everything could be: None stands for all that there is, and is what is meant if
        nothing is given and nothing failed.
        """
        if checked is None:
            checked = () if failed else (None,)
        self._say_left_out(checked)
        if failed:
            if self.target is not None:
                console.note(f"{self.target}: not written, for not everything could be checked")
            return ExitCode.ERROR
        if self.target is None:
            return exit_code(findings, self.policy.fail_on)
        from bncheck.core.words import count
        from bncheck.policy.baseline import render_baseline
        from bncheck.writing.atomic import write_text

        write_text(self.target, render_baseline(self.counted))
        console.note(f"{self.target}: {count(len(set(self.counted)), 'finding')} written as known")
        return ExitCode.OK

    def _was_asked(self, known: Known, checked: Collection[str | None]) -> bool:
        """Whether it would have been found if it were still there."""
        if self._is_undeclared(known.model):
            return True
        every = self.asked.values() if known.model is None else [self.asked.get(known.model, ())]
        asked = any(known.rule.startswith(word) for words in every for word in words)
        return known.model in checked and asked and self.policy.asks(known.rule)

    def _is_undeclared(self, model: str | None) -> bool:
        """Whether a gate ran and will never look at this model."""
        if self.configuration is None or model is None or not any(self.asked):
            return False
        return model not in self.configuration.settings.models

    def _say_left_out(self, checked: Collection[str | None]) -> None:
        from bncheck.core.words import count

        baseline = self.policy.baseline
        if self.excepted:
            console.note(f"{count(self.excepted, 'finding')} left out: [[tool.bncheck.ignore]]")
        if baseline is None:
            return
        if self.known:
            console.note(f"{count(self.known, 'known finding')} left out: {baseline.path}")
        gone = baseline.gone(self.met, lambda known: self._was_asked(known, checked))
        if gone:
            names = ", ".join(known.said for known in gone[:4])
            more = f" and {len(gone) - 4} more" if len(gone) > 4 else ""
            console.note(
                f"{baseline.path}: no longer found: {names}{more}; --write-baseline drops them"
            )
