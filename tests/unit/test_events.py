"""Events: values that JSON carries under their own names."""

import inspect
from datetime import UTC, datetime
from functools import reduce
from operator import or_

import msgspec
import pytest

from sidestage import events
from sidestage.events import Event, StepPublished

NOW = datetime(2013, 1, 1, 12, 30, tzinfo=UTC)
KINDS = [
    value
    for value in vars(events).values()
    if inspect.isclass(value) and issubclass(value, Event) and value is not Event
]
SAMPLES = {datetime: NOW, str: "x", int: 3, float: 1.5, bool: True, dict[str, int]: {"a": 1}}


@pytest.mark.parametrize("kind", KINDS)
def test_json_and_back(kind):
    event = kind(**{field.name: SAMPLES[field.type] for field in msgspec.structs.fields(kind)})
    text = msgspec.json.encode(event)
    assert msgspec.json.decode(text)["type"] == kind.__name__
    assert msgspec.json.decode(text, type=reduce(or_, KINDS)) == event


def test_events_do_not_change():
    event = StepPublished(NOW, "1", "a@b", "v1", 3, 0.5)
    with pytest.raises(AttributeError):
        event.rows = 4  # type: ignore[misc]
