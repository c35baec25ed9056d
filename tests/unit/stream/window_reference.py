"""Windows, done in the plainest way: one item at a time, every value kept, everything computed anew."""

import math

from sidestage.stream.windows.plan import Session, Sliding, Tumbling


class Reference:
    """Takes (time, key, value) tuples. ``compute`` makes a result of the values of a window."""

    def __init__(self, plan, compute):
        self.plan, self.compute = plan, compute
        self.tops, self.seen, self.idle = {}, {}, set()
        self.watermark = -math.inf
        self.stamp = -math.inf
        self.windows = {}  # key -> list of dict(start, end, values, shown, revision, ended), sessions and others
        self.emitted, self.late, self.early, self.failed = [], [], [], []
        self.early_at = None
        self.births = 0

    def batch(self, items, wall, mono, partition=0):
        time = self.plan.time
        self.stamp = max(self.stamp, wall)
        self.seen[partition] = mono
        self.tops.setdefault(partition, -math.inf)
        if time.idle is not None:
            self.idle = {name for name, at in self.seen.items() if at < mono - time.idle}
        self.raise_watermark()
        every = self.plan.sooner.every_seconds
        if every is not None:
            if self.early_at is None:
                self.early_at = mono
            elif mono - self.early_at >= every:
                self.early_at = mono
                for window in self.in_order():
                    if window["end"] > self.watermark and window["shown"] != len(window["values"]):
                        self.emit(window, "early")
        for item in items:
            self.item(item, partition)

    def item(self, item, partition):
        at, key, value = item
        time = self.plan.time
        if at is None or not -2e11 < at < 2e11:
            self.failed.append(item)
            return
        if time.ahead is not None and at > self.stamp + time.ahead:
            if time.beyond == "aside":
                self.early.append(item)
                return
            at = self.stamp
        self.advance_to(at, partition)  # a good time counts, whatever becomes of the item
        if key != key:  # noqa: PLR0124 - only nan differs from itself
            self.failed.append(item)
        else:
            self.place(item, at, key, value)

    def advance_to(self, at, partition):
        self.tops[partition] = max(self.tops[partition], at)
        self.raise_watermark()

    def raise_watermark(self):
        holding = [top for name, top in self.tops.items() if name not in self.idle]
        self.watermark = max(self.watermark, min(holding) - self.plan.time.disorder)
        lateness = self.plan.lateness
        for window in self.in_order():
            if not window["ended"] and window["end"] <= self.watermark:
                self.emit(window, "late update" if window["again"] else "on time")
                window["ended"] = window["again"] = True
        for window in self.in_order():
            if window["end"] + lateness <= self.watermark:
                if window["shown"] != len(window["values"]):
                    self.emit(window, "late update")
                self.windows[window["key"]].remove(window)

    def in_order(self):
        alive = [window for several in self.windows.values() for window in several]
        return sorted(alive, key=lambda window: (window["end"], window["birth"]))

    def spans(self, at):
        match self.plan.windows:
            case Tumbling(size, offset):
                number = math.floor((at - offset) / size)
                return [(number * size + offset, (number + 1) * size + offset)]
            case Sliding(size, every):
                last = math.floor(at / every)
                numbers = range(last - math.ceil(size / every) - 1, last + 1)
                return [(n * every, n * every + size) for n in numbers if n * every <= at < n * every + size]

    def place(self, item, at, key, value):
        if isinstance(self.plan.windows, Session):
            self.place_in_session(item, at, key, value)
            return
        spans = [span for span in self.spans(at) if span[1] + self.plan.lateness > self.watermark]
        if not spans:
            self.late.append(item)
        elif value is None:
            self.failed.append(item)
            return
        for start, end in spans:
            several = self.windows.setdefault(key, [])
            window = next((window for window in several if window["start"] == start), None)
            if window is None:
                window = self.new(key, start, end)
                several.append(window)
            window["values"].append(value)
            self.show(window)

    def show(self, window):
        if window["end"] <= self.watermark:
            window["ended"] = window["again"] = True
            if self.plan.updates == "each":
                self.emit(window, "late update")
        elif self.plan.sooner.every_items and len(window["values"]) % self.plan.sooner.every_items == 0:
            self.emit(window, "early")

    def new(self, key, start, end):
        self.births += 1
        return {
            "key": key,
            "start": start,
            "end": end,
            "values": [],
            "shown": None,
            "revision": 0,
            "ended": False,
            "again": False,
            "birth": self.births,
        }

    def place_in_session(self, item, at, key, value):
        gap = self.plan.windows.gap
        several = self.windows.setdefault(key, [])
        near = [window for window in several if window["start"] < at + gap and at < window["end"]]
        near.sort(key=lambda window: window["start"])
        if not near and at + gap + self.plan.lateness <= self.watermark:
            self.late.append(item)
            return
        if value is None:
            self.failed.append(item)
            return
        if not near:
            window = self.new(key, at, at + gap)
            several.append(window)
            window["values"].append(value)
            self.show(window)
            return
        first, others = near[0], near[1:]
        end = max(at + gap, near[-1]["end"])
        for other in [*others, first] if at < first["start"] else others:
            if other["shown"] is not None:
                self.emitted.append(
                    (key, other["start"], other["end"], None, 0, "withdrawn", other["revision"])
                )
                other["shown"] = None
        for other in others:
            first["values"] += other["values"]
            several.remove(other)
        if at < first["start"]:
            first.update(start=at, revision=0, again=False)
        first["values"].append(value)
        if end > first["end"]:
            first["end"] = end
            first["ended"] = False
            if first["shown"] is not None:
                first["shown"] = -1  # other bounds were shown
        self.show(first)

    def emit(self, window, kind):
        result = self.compute(window["values"])
        count = len(window["values"])
        row = (window["key"], window["start"], window["end"], result, count, kind, window["revision"])
        self.emitted.append(row)
        window["shown"] = count
        window["revision"] += 1

    def drain(self):
        for window in self.in_order():
            if window["end"] > self.watermark:
                self.emit(window, "drained")
            elif window["shown"] != len(window["values"]):
                self.emit(window, "late update")
        self.windows = {}
