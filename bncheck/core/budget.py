"""What reading one checkpoint may take in all, however often its parts are asked for.

Limits on a record or a file do not add up to a limit: a small checkpoint can name one record ten
thousand times, or ten thousand files. So one `Budget` is made for each checkpoint that a command
opens, and travels with its `Source` to every reader, shards and nested files included. It is one a
checkpoint and not one a command, because 500 sound snapshots are not an attack: a command takes at
most so much for each checkpoint that its user names.
"""

from __future__ import annotations

from dataclasses import dataclass

from bncheck.core import limits
from bncheck.core.errors import BncheckError

_ALONE = "save the weights alone, as a state dict"


@dataclass(slots=True)
class Account:
    """What is left of one limit. `sentence` says what has gone beyond `most`."""

    limit: str
    most: int
    sentence: str
    hint: str = _ALONE
    left: int = 0

    def __post_init__(self) -> None:
        self.left = self.most

    def take(self, amount: int) -> None:
        """Count so much. Raises BncheckError, now and from now on, where there was less."""
        self.left -= amount
        if self.left < 0:
            raise self.refusal()

    def refusal(self) -> BncheckError:
        """The error of a checkpoint that needs more."""
        sentence = self.sentence.format(f"{self.most:,}")
        return BncheckError(f"{sentence} (limit {self.limit})", self.hint)


class Budget:
    """What is left for one checkpoint: work, memory, bytes of file, files, and what they hold."""

    def __init__(self) -> None:
        self.operations = Account(
            "MAX_OPERATIONS", limits.MAX_OPERATIONS, "takes more than {} operations to read"
        )
        self.held = Account(
            "MAX_HELD_BYTES", limits.MAX_HELD_BYTES, "takes more than {} bytes of memory to read"
        )
        self.read = Account(
            "MAX_READ_BYTES", limits.MAX_READ_BYTES, "makes bncheck read more than {} bytes"
        )
        self.fetched = Account(
            "MAX_FETCHED_BYTES", limits.MAX_FETCHED_BYTES, "makes bncheck fetch more than {} bytes",
            "download it",
        )  # fmt: skip
        self.files = Account(
            "MAX_FILES", limits.MAX_FILES, "needs more than {} files", "merge its shards"
        )
        self.modules = Account("MAX_MODULES", limits.MAX_MODULES, "describes more than {} modules")
        self.tensors = Account(
            "MAX_TENSORS", limits.MAX_TENSORS, "holds more than {} tensors", "split it"
        )
        self.letters = Account(
            "MAX_NAME_LETTERS", limits.MAX_NAME_LETTERS, "has names of more than {} characters"
        )

        self.computed = Account(
            "MAX_COMPUTED_BYTES",
            limits.MAX_COMPUTED_BYTES,
            "takes more than {} bytes for the constants that it computes",
            "export it again with constant folding",
        )

    def check(self) -> None:
        """Raise BncheckError where one of the limits was hit, however that ended."""
        for account in vars(self).values():
            account.take(0)
