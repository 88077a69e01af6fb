"""What a program says to inputs that it does not take."""


class RefusedError(RuntimeError):
    """The program does not take such inputs: their sizes or values, which need not show in it.

    `hint` says what to give instead, where that is known.
    """

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.hint = hint
