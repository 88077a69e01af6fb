"""Run the checks; one failing model does not hide the others."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bncheck.core.errors import REPORT_IT, BncheckError, quoted
from bncheck.core.extras import explained
from bncheck.core.words import nearest
from bncheck.gate.checks import CHECKS
from bncheck.gate.declared import Declared, code_of, files_of, refuse_several
from bncheck.gate.regression import Previous
from bncheck.gate.report import CheckReport, CheckResult, GateReport, ModelResult
from bncheck.policy.config.load import Configuration
from bncheck.policy.config.settings import Model
from bncheck.policy.policy import Policy

#: Applies the policy to the report of one check of a model.
Count = Callable[[CheckReport, str], CheckReport]


@dataclass(frozen=True)
class Gate:
    """The configuration, how findings are judged, and who is told what.

    `say` is told what will be imported and run, before it is.
    """

    configuration: Configuration
    policy: Policy
    count: Count
    say: Callable[[str], None]
    previous: Previous | None = None

    def models(self, names: Sequence[str]) -> dict[str, Model]:
        """The declared models, or those named. Raises BncheckError."""
        declared = self.configuration.settings.models
        if not declared:
            raise BncheckError(
                "no model is declared",
                "`bncheck gate --init` writes a starter [tool.bncheck.models.NAME]",
                str(self.configuration.file),
            )
        for name in names:
            if name not in declared:
                near = nearest(name, declared)
                hint = f"did you mean {near}?" if near else f"choose from {', '.join(declared)}"
                raise BncheckError(
                    f"no model {quoted(name)} is declared", hint, str(self.configuration.file)
                )
        return {name: model for name, model in declared.items() if not names or name in names}

    def run(self, names: Sequence[str] = ()) -> GateReport:
        """Check the models."""
        models = self.models(names)
        self._say_code(models)
        if self.previous is not None and not names:
            for name in (n for n in self.previous.reports if n not in models):
                self.say(f"{self.previous.path}: holds {name}, which is not declared now")
        with _importing_from(self.configuration.resolve(".")):
            return GateReport(tuple(self._model(name, model) for name, model in models.items()))

    def _say_code(self, models: Mapping[str, Model]) -> None:
        for name, model in models.items():
            if code := code_of(model):
                self.say(f"{name} runs the code of {' and '.join(code)}")

    def _model(self, name: str, model: Model) -> ModelResult:
        results: list[CheckResult] = []
        errors: list[BncheckError] = []
        try:
            paths = list(files_of(self.configuration, name, model.checkpoint, "checkpoint"))
            refuse_several(self.configuration, name, paths)
        except BncheckError as error:
            return ModelResult(name, (), (error,))
        for path in paths:
            declared = Declared(name, model, path, self.configuration, self.policy, self.say)
            for check in CHECKS:
                if not check.wanted(model):
                    continue
                try:
                    report = check.run(declared)
                    results.append(CheckResult(check.name, str(path), self._counted(report, name)))
                    errors += check.errors(report)
                except Exception as error:
                    errors.append(_said(error, path))
                    if check is CHECKS[0]:  # what cannot be read cannot be folded, either
                        break
        if self.previous is not None and not errors:
            errors += self._uncompared(self.previous, name, results)
        return ModelResult(name, tuple(results), tuple(errors))

    def _uncompared(
        self, previous: Previous, name: str, results: Sequence[CheckResult]
    ) -> Iterator[BncheckError]:
        """A comparison of nothing must not pass."""
        try:
            told = previous.uncompared(name, [result.report.to_dict() for result in results])
        except BncheckError as error:
            yield error
        else:
            if told is not None:
                self.say(told)

    def _counted(self, report: Any, name: str) -> CheckReport:
        if self.previous is not None:
            worse = self.previous.regressions(name, report.to_dict())
            report = replace(report, findings=(*report.findings, *worse))
        return self.count(report, name)


def _said(error: Exception, path: Path) -> BncheckError:
    """What stopped one check, our own bugs included: they must not hide the other models."""
    if isinstance(error, BncheckError):
        return error if error.subject else error.about(str(path))
    if isinstance(error, ImportError) and (known := explained(error)) is not None:
        return known.about(str(path))
    if os.environ.get("BNCHECK_DEBUG"):
        raise error
    sentence = f"this is a bug in bncheck ({type(error).__name__}: {error})"
    return BncheckError(sentence, f"{REPORT_IT}; BNCHECK_DEBUG=1 shows where", str(path))


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Dotted modules of the configuration are found from its folder, wherever we are."""
    before = list(sys.path)
    sys.path.insert(0, os.path.abspath(folder))
    try:
        yield
    finally:
        sys.path[:] = before
