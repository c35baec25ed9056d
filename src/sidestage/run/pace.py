"""How far ahead a process is given work: never idle between tiny attempts, nothing behind long ones."""

_AHEAD_SECONDS = 0.03
_MOST = 32
_WEIGHT = 0.2


class Pace:
    """The pace of recent attempts.

    What a process was given ahead waits behind what it runs, while another worker might be idle; so the
    estimate falls slowly and rises at once.
    """

    def __init__(self) -> None:
        self._seconds: float | None = None

    def took(self, seconds: float) -> None:
        """Note what an attempt took."""
        before = self._seconds
        if before is None or seconds > before:
            self._seconds = seconds
        else:
            self._seconds = before + _WEIGHT * (seconds - before)

    @property
    def ahead(self) -> int:
        """How many requests a process may hold: the one it runs, and those that wait."""
        if self._seconds is None:
            return 1
        return 1 + min(_MOST, int(_AHEAD_SECONDS / max(self._seconds, 1e-6)))
