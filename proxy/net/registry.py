"""Brings the streams' questions to the registry and the answers back.

One thread of its own holds the registry.  It takes whatever is queued into one
transaction, so that logins that come together share a commit; nobody waits for
others to come.  What cannot be answered in time is ``Unavailable``: no login
goes on without an answer (DIR-11), and whoever is logged in notices nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from ..errors import Fault, StoreFault
from ..gate.admission import READING, Prepared, about, answer, prepare, reads
from ..gate.questions import Answer, Question, Unavailable
from ..keys.registry import Interrupted, Registry

BATCH: Final = 128
MOST_WAITING: Final = 2_000
SECONDS: Final = 4.0
"""After which a question is given up (REL-29: login fails within 5 s)."""
_SWEEP: Final = 0.25
_PRUNE_MS: Final = 10 * 60 * 1000
_BUSY: Final = Unavailable("the gate has too much to do: try again in a while")
_LATE: Final = Unavailable("the gate's database does not answer: try again later")
_BROKEN: Final = Unavailable("the gate could not answer: its operator's log says why")

_log = Logger()


def wall_clock() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True, eq=False)
class _Asked:
    question: Question
    waiting: Deferred[Answer]
    deadline: float
    over: bool = field(default=False)


class RegistryWorker:
    """Asks the registry for everybody in this process.

    :param open_registry: called in the thread, again after each failure.
    :param clock: Unix milliseconds.
    """

    def __init__(
        self,
        reactor: Any,
        open_registry: Callable[[], Registry],
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        self._reactor = reactor
        self._open = open_registry
        self._clock = clock
        self._queue: deque[_Asked] = deque()
        self._unanswered: deque[_Asked] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._sweeping: Any = None
        self._registry: Registry | None = None
        self._pruned = 0
        self._down = False
        self._thread = threading.Thread(target=self._work, name="registry", daemon=True)
        self._gone: Deferred[None] = Deferred()

    def start(self) -> None:
        self._thread.start()
        self._sweep()

    def stop(self) -> Deferred[None]:
        """Answer what is queued, close the registry; fires when that is done."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        return self._gone

    @property
    def waiting(self) -> int:
        """Questions without an answer yet."""
        return sum(not one.over for one in self._unanswered)

    def ask(self, question: Question) -> Deferred[Answer]:
        """The answer, which is ``Unavailable`` after :data:`SECONDS` at the latest.

        Never fails but for a bug of ours.
        """
        asked = _Asked(question, Deferred(), time.monotonic() + SECONDS)
        with self._wake:
            if self._stopping or len(self._queue) >= MOST_WAITING:
                return succeed(_BUSY)
            self._queue.append(asked)
            self._wake.notify()
        self._unanswered.append(asked)
        return asked.waiting

    # -- on the reactor -----------------------------------------------------

    def _sweep(self) -> None:
        now = time.monotonic()
        while self._unanswered and (
            self._unanswered[0].over or self._unanswered[0].deadline <= now
        ):
            self._tell(self._unanswered.popleft(), _LATE)
        self._sweeping = self._reactor.callLater(_SWEEP, self._sweep)

    def _tell(self, asked: _Asked, said: Answer) -> None:
        if not asked.over:
            asked.over = True
            asked.waiting.callback(said)

    def _tell_all(self, answers: Sequence[tuple[_Asked, Answer]]) -> None:
        for asked, said in answers:
            self._tell(asked, said)
        while self._unanswered and self._unanswered[0].over:
            self._unanswered.popleft()

    def _ended(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        for asked in self._unanswered:
            self._tell(asked, _LATE)
        self._gone.callback(None)

    # -- in the thread ------------------------------------------------------

    def _work(self) -> None:
        while batch := self._next():
            answers = self._answers(batch)
            self._reactor.callFromThread(self._tell_all, answers)
        self._close()
        self._reactor.callFromThread(self._ended)

    def _next(self) -> list[_Asked]:
        """What is to be answered next; empty when there will be nothing more."""
        with self._wake:
            while True:
                batch: list[_Asked] = []
                while self._queue and len(batch) < BATCH:
                    asked = self._queue.popleft()
                    # whoever asked has been told that it took too long
                    if not asked.over:
                        batch.append(asked)
                if batch or (self._stopping and not self._queue):
                    return batch
                self._wake.wait()

    def _answers(self, batch: list[_Asked]) -> list[tuple[_Asked, Answer]]:
        ready: list[tuple[_Asked, Prepared]] = []
        answers: list[tuple[_Asked, Answer]] = []
        for asked in batch:
            try:
                ready.append((asked, prepare(asked.question)))
            except Exception as error:
                answers.append((asked, self._bug(error)))
        # Locks are taken in the order of accounts, so that two gates never wait
        # for each other; what is asked of one account stays in its order.
        ready.sort(key=lambda one: about(one[1].question) or "")
        if ready:
            answers += self._tried(ready)
        return answers

    def _tried(
        self, ready: list[tuple[_Asked, Prepared]]
    ) -> list[tuple[_Asked, Answer]]:
        try:
            said = self._transacted(ready)
        except StoreFault as fault:
            self._failed(fault)
            return [(asked, _LATE) for asked, _ in ready]
        except Exception as error:
            if len(ready) > 1:
                # one question's fault must not be everybody's
                return [found for one in ready for found in self._tried([one])]
            return [(ready[0][0], self._bug(error))]
        self._works()
        return [(asked, one) for (asked, _), one in zip(ready, said, strict=True)]

    def _transacted(self, ready: list[tuple[_Asked, Prepared]]) -> list[Answer]:
        """One transaction, run once more where it was cut off (DIR-13)."""
        try:
            return self._once(ready)
        except Interrupted:
            self._close()
            return self._once(ready)

    def _once(self, ready: list[tuple[_Asked, Prepared]]) -> list[Answer]:
        if self._registry is None:
            self._registry = self._open()
        registry, now = self._registry, self._clock()
        asked = [one for _, one in ready]
        writing = not all(isinstance(one.question, READING) for one in asked)
        with registry.transaction(writing=writing):
            registry.expect(
                {name for one in asked if (name := reads(one.question)) is not None}
            )
            answers = []
            for one in asked:
                # others wait for this to end, and nobody for what it does
                if all(who.over for who, _ in ready):
                    raise StoreFault("the database is too slow")
                answers.append(answer(one, registry, now))
            if writing and now - self._pruned > _PRUNE_MS:
                registry.prune(now)
                self._pruned = now
        return answers

    def _failed(self, fault: Fault) -> None:
        self._close()
        if not self._down:
            self._down = True
            _log.error("no logins: {text}", text=fault.text)

    def _works(self) -> None:
        if self._down:
            self._down = False
            _log.info("the gate's database answers again")

    def _bug(self, error: Exception) -> Answer:
        _log.failure("a question to the registry failed")
        return _BROKEN

    def _close(self) -> None:
        registry, self._registry = self._registry, None
        if registry is not None:
            try:
                registry.close()
            except Fault as fault:
                _log.warn("closing the registry: {text}", text=fault.text)
