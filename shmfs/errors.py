"""The one exception whose message is meant for the person at the terminal."""


class ShmfsError(Exception):
    """An expected failure: one sentence of what is wrong, with which value, and what to do.

    `status` is the exit status that a command ends with (2 for wrong usage, as click does).
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
