"""The folder of a run: one training at a time in it, and there to the end of the run.

A training holds `training.lock`, which says who it is: process, the moment that process began, host. While it lives no
other may begin there. The operating system's lock on the file goes with its holder, whatever ends it; where a file
system has none, or another host holds it, the file's age tells, because its holder touches it every BEAT_S seconds.
"""

import contextlib
import fcntl
import json
import logging
import os
import platform
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from distwar_gs.config import ConfigError

log = logging.getLogger(__name__)

LOCK = "training.lock"
BEAT_S = 15.0
"""Between two signs of life."""
STALE_S = 90.0
"""Without a sign for so long, a holder that cannot be asked is taken for gone. More than the minute for which NFS may
show an old time."""
_LOOK_S = 1.0


@dataclass(frozen=True)
class Holder:
    """Who trains in a folder."""

    process: int
    began: str
    """When the process began, in ticks since the system did: numbers of processes come again. Empty: unknown."""
    host: str
    boot: str
    """Of this start of the host's kernel. Empty: unknown."""
    namespace: str
    """In which the process has its number: a container has its own."""
    since: str

    @classmethod
    def me(cls) -> Self:
        """This process."""
        boot = _text(Path("/proc/sys/kernel/random/boot_id"))
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(os.getpid(), _began(os.getpid()), platform.node(), boot, _namespace(), since)

    @classmethod
    def read(cls, handle: int) -> Self | None:
        """The holder that a lock file names; None if it names none."""
        try:
            values = json.loads(os.pread(handle, 10_000, 0))
            return cls(**values) if isinstance(values["process"], int) else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def is_alive(self) -> bool | None:
        """Whether its process is there; None: it is of another host or container, where we cannot look."""
        mine = Holder.me()
        if not self.boot or (self.host, self.boot, self.namespace) != (mine.host, mine.boot, mine.namespace):
            return None
        return bool(self.began) and _began(self.process) == self.began

    @property
    def shares_our_kernel(self) -> bool:
        """Whether locks of this kernel are its holder's, too: it may be in another container."""
        mine = Holder.me()
        return (self.boot or self.host) == (mine.boot or mine.host)


class RunFolder:
    """A folder that a run holds while entered. What else is in it is the run's own business."""

    def __init__(self, path: Path) -> None:
        """Makes the folder. Raises ConfigError if it cannot be written, or if another training holds it."""
        self.path = path
        self._handle: int | None = None
        self._ended = threading.Event()
        _make(path)
        with contextlib.suppress(OSError), self._opened() as handle:
            self._refuse(handle, fcntl.LOCK_SH)

    def __enter__(self) -> Self:
        """Takes the lock. Raises ConfigError if another training has it."""
        self._take()
        self._ended.clear()
        threading.Thread(target=self._live, name="signs of life", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Gives the lock back."""
        self._ended.set()
        if self.is_held:
            with contextlib.suppress(OSError):
                (self.path / LOCK).unlink()
        self._let_go()

    @property
    def is_held(self) -> bool:
        """Whether the lock that lies in the folder is ours: not if the folder was deleted or renamed meanwhile."""
        return self._handle is not None and _is_same(self.path / LOCK, self._handle)

    def come_back(self) -> bool:
        """Makes the folder again, if it was deleted or renamed while it was ours, and holds it as before; whether that
        was so. If another training has begun in it by now, that one keeps it, and `path` becomes another."""
        if self._handle is None or self.is_held:
            return False
        try:
            _make(self.path)
        except ConfigError:  # its disk is gone, say: what is written there says so, and it is tried again
            return False
        self._let_go()
        try:
            self._take()
        except ConfigError as held:
            log.warning("%s", held)
            self._take_another()
        return True

    # ------------------------------------------------------------------------------------------------ the lock

    def _take_another(self) -> None:
        other = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with contextlib.suppress(ConfigError):
            _make(other)
            self.path = other
            self._take()

    def _take(self) -> None:
        try:
            while self._handle is None:
                handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
                try:
                    self._refuse(handle, fcntl.LOCK_EX)
                    if _is_same(self.path / LOCK, handle):  # else its last holder has just removed it
                        handle, self._handle = -1, handle
                finally:
                    if handle >= 0:
                        os.close(handle)
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, json.dumps(asdict(Holder.me())).encode(), 0)
        except OSError as error:
            reason = error.strerror or error
            log.warning("%s: cannot be held (%s); take care that only one training runs there", self.path, reason)

    def _refuse(self, handle: int, kind: int) -> None:
        """Raises ConfigError if a training that lives holds the lock file; else has the system's lock, where it can."""
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ConfigError(f"{self.path / LOCK}: not a file; remove it, or choose another folder with -m")
        holder, locked = Holder.read(handle), _lock(handle, kind)
        if locked is False:
            raise self._in_use(holder)
        if holder is None or (locked and holder.shares_our_kernel):
            return
        alive = self._shows_life(holder) if (alive := holder.is_alive()) is None else alive
        if alive and holder.process != os.getpid():
            raise self._in_use(holder)

    def _shows_life(self, holder: Holder) -> bool:
        """Whether a holder that cannot be asked has touched its lock file lately, or does so while we wait."""
        first = self._last_sign()
        with tempfile.TemporaryFile(dir=self.path) as file:  # by the clock of whoever keeps the files
            age = os.fstat(file.fileno()).st_mtime - first
        left = STALE_S - max(age, 0.0)
        if left > 0.0:
            log.warning(
                "%s: process %d on %s was training there %.0f s ago; waiting up to %.0f s to see whether it still is",
                self.path, holder.process, holder.host, max(age, 0.0), left,
            )  # fmt: skip
        end = time.monotonic() + left
        while time.monotonic() < end:
            time.sleep(min(_LOOK_S, left))
            try:
                if self._last_sign() != first:
                    return True
            except FileNotFoundError:
                return False
        return False

    def _last_sign(self) -> float:
        with self._opened() as handle:  # opening makes NFS ask for the time anew
            return os.fstat(handle).st_mtime

    def _in_use(self, holder: Holder | None) -> ConfigError:
        who = f"process {holder.process} on {holder.host} trains there since {holder.since}" if holder else "in use"
        return ConfigError(
            f"{self.path}: {who}; wait for its end, or choose another folder with -m (if it has ended, remove {LOCK})"
        )

    def _let_go(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def _live(self) -> None:
        """Shows that this process lives, until it has ended."""
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(OSError, TypeError):  # the lock may just be taken again
                os.utime(self._handle)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        handle = os.open(self.path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            yield handle
        finally:
            os.close(handle)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # one that is there may be somebody else's
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be the run folder ({error.strerror}); choose another with -m") from error


def _lock(handle: int, kind: int) -> bool | None:
    """Asks for the system's lock on a file, twice, since somebody may just be looking; whether we have it. None: the
    file system has no locks."""
    for pause in (0.1, 0.0):
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            time.sleep(pause)
        except OSError:
            return None
    return False


def _is_same(path: Path, handle: int) -> bool:
    """Whether the path leads to the file that is open."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except OSError:
        return False


def _began(process: int) -> str:
    """Field 22 of its stat (proc(5)); the name before may hold spaces and brackets. Empty if there is no such process,
    or it has ended and waits for its parent (a zombie)."""
    fields = _text(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
