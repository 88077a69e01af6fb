"""The one error type that users see, and the exit codes."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

#: Where bugs are reported.
ISSUES: Final = "https://github.com/bncheck/bncheck/issues"
#: Where the documentation lies; each rule has a page in it.
DOCS: Final = "https://bncheck.github.io/bncheck/"
#: The next step after an error of our own.
REPORT_IT: Final = f"please report it at {ISSUES}"


class ExitCode(IntEnum):
    """What the process returns; scripts rely on these."""

    OK = 0
    FINDINGS = 1
    ERROR = 2
    INTERRUPTED = 130
    TERMINATED = 143


def quoted(word: object, longest: int = 60) -> str:
    """A word of a file in quotes; the beginning of one that is longer than names are."""
    text = str(word)
    return repr(text if len(text) <= longest else f"{text[: longest - 1]}…")


class BncheckError(Exception):
    """Something cannot be done: a sentence that says what, and a hint that says what to do next.

    `subject` is the file or option that the sentence is about. Code deep inside a reader does
    not know the path that the user typed, so `about` adds it on the way out.
    """

    def __init__(self, sentence: str, hint: str = "", subject: str = "") -> None:
        super().__init__(sentence, hint, subject)
        self.sentence = sentence
        self.hint = hint
        self.subject = subject

    def about(self, subject: str) -> BncheckError:
        """The same error with its subject; an inner subject is kept in the sentence."""
        if self.subject == subject:
            return self
        sentence = f"{self.subject} {self.sentence}" if self.subject else self.sentence
        return BncheckError(sentence, self.hint, subject)

    @property
    def message(self) -> str:
        """The sentence and the hint."""
        return f"{self.sentence}; {self.hint}" if self.hint else self.sentence

    def to_dict(self) -> dict[str, object]:
        """As the reports hold it: what could not be read, and why."""
        return {"path": self.subject, "message": self.message}

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}" if self.subject else self.message


class OtherFileError(BncheckError):
    """A file is something else than a checkpoint: not a broken one."""

    def about(self, subject: str) -> OtherFileError:
        """The same error with its subject, still about another file."""
        return OtherFileError(*super().about(subject).args)


class TerminatedError(BaseException):
    """SIGTERM, which is cleaned up after as Ctrl-C is; of that typer makes a 130 by itself."""
