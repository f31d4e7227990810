"""What ends a search and is no user's mistake."""


class TooManyFailuresError(Exception):
    """Evaluations failed one after the other; `first` is what the first of them said, a traceback as a rule."""

    def __init__(self, num: int, first: str) -> None:
        super().__init__(f"{num} evaluations in a row failed; what is finished is kept; the first failed so:\n{first}")
        self.num = num
        self.first = first
