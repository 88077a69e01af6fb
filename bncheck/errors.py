"""The one error type that users see, and the exit codes."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns; scripts rely on these."""

    OK = 0
    FINDINGS = 1
    ERROR = 2
    INTERRUPTED = 130
    TERMINATED = 143


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

    def __str__(self) -> str:
        head = f"{self.subject}: {self.sentence}" if self.subject else self.sentence
        return f"{head}; {self.hint}" if self.hint else head
