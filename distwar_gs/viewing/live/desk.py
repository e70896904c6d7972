"""What the network's thread and the one that renders hand each other. Every place on the desk is bounded."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from distwar_gs.viewing.live.orders import Command, Look

MOST_COMMANDS = 32
"""Buttons that were pressed and not yet heard."""


class Desk:
    """Wishes of pages, one each, and commands. `is_due` is what a training asks at every step: two comparisons."""

    def __init__(self, fps: float, clock: Callable[[], float] = time.perf_counter) -> None:
        """fps: pictures a second, at most, for all pages together."""
        self._interval, self._clock = 1.0 / fps, clock
        self._lock, self._news = threading.Lock(), threading.Event()
        self._looks: dict[int, Look] = {}  # by page; the newest
        self._on_the_way: set[int] = set()  # pages whose last picture they have not taken yet
        self._served: dict[int, float] = {}
        self._commands: deque[Command] = deque()
        self._has_looks, self._not_before = False, 0.0

    # ---------------------------------------------------------------------------------------- the network's thread

    def ask(self, page: int, look: Look) -> None:
        """A page's newest wish takes the place of the one before."""
        with self._lock:
            self._looks[page] = look
            self._update()

    def order(self, command: Command) -> bool:
        """A command; False, and nothing is done, where too many wait."""
        with self._lock:
            if len(self._commands) >= MOST_COMMANDS:
                return False
            self._commands.append(command)
        self._news.set()
        return True

    def taken(self, page: int) -> None:
        """A page has taken its picture: the next one may be made."""
        with self._lock:
            self._on_the_way.discard(page)
            self._update()

    def forget(self, page: int) -> None:
        """A page is gone."""
        with self._lock:
            self._looks.pop(page, None)
            self._served.pop(page, None)
            self._on_the_way.discard(page)
            self._update()

    # ------------------------------------------------------------------------------------- the thread that renders

    def is_due(self) -> bool:
        """Whether a command waits, or a wish for which it is time."""
        return bool(self._commands) or (self._has_looks and self._clock() >= self._not_before)

    def wait(self, seconds: float) -> None:
        """Until something may be due, or so long."""
        if not self._commands:
            soon = self._not_before - self._clock()
            if self._has_looks and soon > 0.0:
                time.sleep(min(soon, seconds))
            elif not self._has_looks:
                self._news.wait(seconds)
        self._news.clear()

    def next_command(self) -> Command | None:
        """The oldest."""
        with self._lock:
            return self._commands.popleft() if self._commands else None

    def next_look(self) -> tuple[int, Look] | None:
        """The wish of the page that has waited longest since its last picture, if it is time; with its page."""
        with self._lock:
            pages = self._looks.keys() - self._on_the_way
            if not pages or self._clock() < self._not_before:
                return None
            page = min(pages, key=lambda page: (self._served.get(page, 0.0), page))
            self._served[page] = self._clock()
            self._on_the_way.add(page)
            look = self._looks.pop(page)
            self._update()
            return page, look

    def spent(self, seconds: float, *, others_wait: bool = True) -> None:
        """A picture took so long. Where others wait, a training, pictures take half of the time at most."""
        pause = max(self._interval - seconds, seconds if others_wait else 0.0)
        self._not_before = self._clock() + pause

    def _update(self) -> None:
        self._has_looks = any(page not in self._on_the_way for page in self._looks)
        if self._has_looks:
            self._news.set()
