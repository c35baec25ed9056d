"""Sidestage: data pipelines in which every pipeline has an understudy.

The public face. Names are loaded when they are first used, so that importing the package costs next to
nothing; everything not listed here may change without notice.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidestage.data.calendar import Daily as Daily
    from sidestage.data.calendar import Hourly as Hourly
    from sidestage.data.calendar import Monthly as Monthly
    from sidestage.data.calendar import Weekly as Weekly
    from sidestage.data.dataset import Dataset as Dataset
    from sidestage.data.dataset import Value as Value
    from sidestage.data.dataset import all_of as all_of
    from sidestage.data.dataset import fixed as fixed
    from sidestage.data.dataset import latest as latest
    from sidestage.data.dataset import same as same
    from sidestage.data.dataset import window as window
    from sidestage.data.keyed import Product as Product
    from sidestage.data.keyed import Single as Single
    from sidestage.data.keyed import Static as Static
    from sidestage.data.partition import Partition as Partition
    from sidestage.errors import SidestageError as SidestageError
    from sidestage.pipeline.pipeline import Pipeline as Pipeline
    from sidestage.pipeline.playbook import Playbook as Playbook
    from sidestage.pipeline.service import ServiceContext as ServiceContext
    from sidestage.pipeline.terms import Terms as Terms
    from sidestage.pipeline.trigger import Cron as Cron
    from sidestage.pipeline.trigger import Every as Every
    from sidestage.plan.world import Selection as Selection
    from sidestage.policy.limits import Limits as Limits
    from sidestage.policy.retry import Retry as Retry
    from sidestage.project.project import Project as Project
    from sidestage.run.current import Cancelled as Cancelled
    from sidestage.run.current import current_attempt as current_attempt
    from sidestage.stream.stream import Stream as Stream

from sidestage.about import VERSION

__version__ = VERSION

_HOMES = {
    "Cancelled": "sidestage.run.current",
    "Cron": "sidestage.pipeline.trigger",
    "Daily": "sidestage.data.calendar",
    "Dataset": "sidestage.data.dataset",
    "Every": "sidestage.pipeline.trigger",
    "Hourly": "sidestage.data.calendar",
    "Limits": "sidestage.policy.limits",
    "Monthly": "sidestage.data.calendar",
    "Partition": "sidestage.data.partition",
    "Pipeline": "sidestage.pipeline.pipeline",
    "Playbook": "sidestage.pipeline.playbook",
    "Product": "sidestage.data.keyed",
    "Project": "sidestage.project.project",
    "Retry": "sidestage.policy.retry",
    "Selection": "sidestage.plan.world",
    "ServiceContext": "sidestage.pipeline.service",
    "SidestageError": "sidestage.errors",
    "Single": "sidestage.data.keyed",
    "Static": "sidestage.data.keyed",
    "Stream": "sidestage.stream.stream",
    "Terms": "sidestage.pipeline.terms",
    "Value": "sidestage.data.dataset",
    "Weekly": "sidestage.data.calendar",
    "all_of": "sidestage.data.dataset",
    "current_attempt": "sidestage.run.current",
    "fixed": "sidestage.data.dataset",
    "latest": "sidestage.data.dataset",
    "same": "sidestage.data.dataset",
    "window": "sidestage.data.dataset",
}

__all__ = [  # noqa: PLE0604  # one list of names, not two
    *_HOMES
]


# Hidden from type checkers, which would otherwise believe that every name exists.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'sidestage' has no attribute {name!r}")
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*_HOMES, "__version__"})
