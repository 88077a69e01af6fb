"""Whether new statistics may be written: where `inspect` recommends them, and they do no worse."""

from __future__ import annotations

from dataclasses import dataclass

from bncheck.core.findings import Finding, Severity
from bncheck.inspecting.advice import Advice
from bncheck.inspecting.diagnosis import Diagnosis
from bncheck.measuring.measurement import Measurement
from bncheck.rules.data.bn208_would_hurt import would_hurt
from bncheck.rules.data.bn218_not_recalibrated import not_recalibrated
from bncheck.rules.data.objection import Objection

#: What to do where `inspect` has nothing to say.
_KEEP = "keep the statistics as they are"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing is to be written, and what to do; `needless` where nothing deviates."""

    why: str
    fix: str = _KEEP
    worse: bool = False
    needless: bool = False

    def finding(self, measurement: Measurement, forced: bool) -> Finding:
        """The refusal as an error; as a warning where it was written all the same."""
        comparison = measurement.comparison
        said = "written by force, though" if forced else "nothing was written:"
        return (would_hurt if self.worse else not_recalibrated).finding(
            Severity.WARNING if forced else Severity.ERROR,
            None,
            f"{said} {self.why}",
            self.fix,
            w2=measurement.w2,
            before=comparison.before if comparison else None,
            after=comparison.after if comparison else None,
        )


def refusal(diagnosis: Diagnosis, measurement: Measurement) -> Refusal | None:
    """Why `inspect` does not recommend to recalibrate what it measured; None where it does."""
    if diagnosis.advice is Advice.RECALIBRATE:
        return None
    if diagnosis.advice is Advice.NOTHING:
        agree = f"the running statistics agree with the data (largest W2 {measurement.w2:.2f})"
        return Refusal(f"{agree}, so there is nothing to repair", needless=True)
    cause = diagnosis.cause
    fix = cause.fix if cause is not None else _KEEP
    if diagnosis.objection is not None:
        return objected(diagnosis.objection, fix)
    if diagnosis.advice is Advice.IF_PROVEN:
        return Refusal("without labels nothing shows that it helps", fix)
    if diagnosis.advice is Advice.IF_DATA_FIT:
        return Refusal(
            "data and statistics disagree, and nothing shows that it is the statistics; --force "
            "writes them, where these data are those of deployment",
            fix,
        )
    named = "" if cause is None else f" ({cause.rule} {cause.name})"
    return Refusal(f"the statistics are not at fault as far as these data show{named}", fix)


def objected(found: Objection | None, fix: str = _KEEP) -> Refusal | None:
    """What speaks against measured statistics, if anything does, as a refusal."""
    return None if found is None else Refusal(found.why, fix, worse=found.worse)
