"""Contract of a check, and what a check finds.

A check looks at one version that was written aside, before anybody can see it. It never writes, never
reads another dataset, and answers the same for the same bytes. It may be answered from the digest alone
(no read at all); otherwise it names SQL aggregates, and all checks of a dataset are answered in one scan.
"""

from typing import Protocol, runtime_checkable

import msgspec

from sidestage.data.version import Digest


class Finding(msgspec.Struct, frozen=True):
    """What a check found in one version.

    ``passed`` is the verdict; ``blocking`` whether a failure keeps the version from being published;
    ``observed`` the figure it is based on; ``message`` one sentence for people.
    """

    check: str
    passed: bool
    blocking: bool
    message: str
    observed: str = ""


@runtime_checkable
class Check(Protocol):
    """What must be true of every version of a dataset."""

    @property
    def name(self) -> str:
        """A short name, such as ``unique(carrier)``: the same parameters give the same name."""
        ...

    @property
    def blocking(self) -> bool:
        """Whether a failure keeps the version from being published."""
        ...

    def from_digest(self, digest: Digest) -> Finding | None:
        """Answer from the digest alone, or return None if the data has to be read."""
        ...

    def aggregates(self) -> tuple[str, ...]:
        """SQL aggregate expressions over the relation ``data``, evaluated in one scan for all checks."""
        ...

    def judge(self, values: tuple[object, ...]) -> Finding:
        """Judge the values of ``aggregates``, in their order."""
        ...
