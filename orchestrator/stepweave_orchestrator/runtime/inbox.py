"""Commands that wait to be decided: each namespace in turn, so that nobody's flood holds up the others.

The commands of one stream stay in their order, for they are all of one namespace. What was decided and has to be
decided again goes before everything else.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator

from stepweave_orchestrator.core import Plan

from .work import Work


class Inbox:
    """Lanes of commands, one for each namespace; commands that name none have one of their own."""

    def __init__(self) -> None:
        self._again: deque[Work] = deque()
        #: In the order of their turns; none is empty.
        self._lanes: OrderedDict[str, deque[Work]] = OrderedDict()
        #: How many wait.
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Work]:
        yield from self._again
        for lane in self._lanes.values():
            yield from lane

    def append(self, work: Work) -> None:
        """Take a command in."""
        namespace = work.namespace
        if namespace is None:
            namespace = work.seed.ref.namespace if isinstance(work.seed, Plan) else ""
        lane = self._lanes.get(namespace)
        if lane is None:
            lane = self._lanes[namespace] = deque()
        lane.append(work)
        self.count += 1

    def put_back(self, works: Iterable[Work]) -> None:
        """These are the next ones, in this order."""
        returned = list(works)
        self._again.extendleft(reversed(returned))
        self.count += len(returned)

    def take(self) -> Work | None:
        """Take the next command out; `None` where there is none."""
        if not self.count:
            return None
        self.count -= 1
        if self._again:
            return self._again.popleft()
        lanes = self._lanes
        namespace = next(iter(lanes))
        lane = lanes[namespace]
        work = lane.popleft()
        if not lane:
            del lanes[namespace]
        elif len(lanes) > 1:
            lanes.move_to_end(namespace)
        return work

    def remove_shard(self, shard: int) -> list[Work]:
        """Take out all commands for a shard."""
        gone = [work for work in self if work.shard == shard]
        if gone:
            self._again = deque(work for work in self._again if work.shard != shard)
            for namespace, lane in list(self._lanes.items()):
                kept = deque(work for work in lane if work.shard != shard)
                if kept:
                    self._lanes[namespace] = kept
                else:
                    del self._lanes[namespace]
            self.count -= len(gone)
        return gone
