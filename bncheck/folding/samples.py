"""Samples of the user's data on which a fold is compared, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bncheck.errors import BncheckError

if TYPE_CHECKING:
    from bncheck.data import Batch, Batches

#: Parity is checked on so many samples of the data.
SAMPLES: Final = 64


def first_samples(data: Batches, most: int) -> Batch:
    """The first batch, cut to so many samples."""
    from bncheck.data import Batches

    cut = Batches(data.source, data.name, data.total, most)
    batch = next((batch for batch in cut if batch.size), None)
    if batch is None:
        raise BncheckError("gives no samples", "check the data", data.name)
    return batch
