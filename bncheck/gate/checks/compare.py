"""Is a file that is shipped the same function?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bncheck.gate.check import Check
from bncheck.gate.declared import Declared, located

if TYPE_CHECKING:
    from bncheck.shipping.report import CompareReport


def _run(declared: Declared) -> CompareReport:
    from bncheck.reading.downloading import downloaded
    from bncheck.shipping.compare import CompareRequest, run

    assert declared.model.compare is not None
    with downloaded(declared.path) as source:
        return run(
            CompareRequest(
                source,
                located(declared.configuration, declared.model.compare),
                declared.measuring(data=not declared.inputs),
                declared.inputs,
                declared.model.key,
            )
        )


compare = Check("compare", lambda model: model.compare is not None, _run)
