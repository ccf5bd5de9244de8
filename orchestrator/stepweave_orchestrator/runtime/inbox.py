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
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Work]:
        yield from self._again
        for lane in self._lanes.values():
            yield from lane

    def append(self, work: Work) -> None:
        """Take a command in."""
        namespace = _namespace_of(work)
        lane = self._lanes.get(namespace)
        if lane is None:
            lane = self._lanes[namespace] = deque()
        lane.append(work)
        self._count += 1

    def put_back(self, works: Iterable[Work]) -> None:
        """These are the next ones, in this order."""
        returned = list(works)
        self._again.extendleft(reversed(returned))
        self._count += len(returned)

    def peek(self) -> Work:
        """The next command; raises `IndexError` where there is none."""
        if self._again:
            return self._again[0]
        for lane in self._lanes.values():
            return lane[0]
        raise IndexError("no command waits")

    def popleft(self) -> Work:
        """Take the next command out; raises `IndexError` where there is none."""
        if self._again:
            self._count -= 1
            return self._again.popleft()
        for namespace, lane in self._lanes.items():
            self._count -= 1
            work = lane.popleft()
            if not lane:
                del self._lanes[namespace]
            elif len(self._lanes) > 1:
                self._lanes.move_to_end(namespace)
            return work
        raise IndexError("no command waits")

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
            self._count -= len(gone)
        return gone


def _namespace_of(work: Work) -> str:
    if work.namespace is not None:
        return work.namespace
    return work.seed.ref.namespace if isinstance(work.seed, Plan) else ""
