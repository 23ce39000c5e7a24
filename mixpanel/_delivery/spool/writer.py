"""The thread that writes and reads the files of one spool."""

from __future__ import annotations

import errno
import json
import os
import socket
import sqlite3
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from mixpanel._delivery.spool.blocks import (
    FIRST_PLACE,
    Block,
    Credentials,
    Source,
    age_of,
    by_block,
    dead_letter,
    key_of,
    new_blocks,
    restored,
)
from mixpanel._delivery.spool.folder import (
    claim_orphan,
    create_file,
    destination_folder,
    free_bytes,
    orphans,
    quarantine,
    remove_file,
)
from mixpanel._delivery.spool.store import (
    ATTEMPTED,
    WAITING,
    DeadLetter,
    NewBlock,
    SpoolStore,
    is_damage,
    is_full,
    now,
    place_of,
)
from mixpanel._runtime import fork, native_threads
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import AmbiguousDeliveryError, ConfigurationError, SpoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from mixpanel._delivery.spool.options import SpoolOptions
    from mixpanel._delivery.spool.store import StoredBlock
    from mixpanel._records.record import Record

__all__ = ["SpoolWriter"]

T = TypeVar("T")

GROUP_WINDOW = 0.005  # seconds in which messages gather before they are committed
ADOPT_EVERY = 30.0  # seconds between two searches for files of processes that have ended
MAX_ADOPTED = 16  # of their files that are open at a time
RETRY_EVERY = 1.0  # seconds between attempts to write to a disk that failed
QUIET = 60.0  # seconds without a failure after which the next one is reported again
CHECK_SPACE_EVERY = 1.0  # seconds
PAGE_MESSAGES = 10_000  # that are read back at a time
PAGE_BYTES = 4 * 1024 * 1024
PAGE_LETTERS = 200  # dead letters that are moved from an adopted file at a time
SHRINK_PAGES = 2000  # unused pages of a file that are returned at a time
FORK_TIMEOUT = 5.0  # seconds that a fork waits for a commit
CLOSED = "the client is closed, and its spool with it: make a new client to track more messages"

# Files of the parent process, which a forked child keeps alive: if its garbage collector closed the
# connection, SQLite could remove the WAL that the parent still writes.
_inherited: list[object] = []
_writers: weakref.WeakSet[SpoolWriter] = weakref.WeakSet()


class _Changes:
    """Changes of messages in files that are not written yet."""

    def __init__(self) -> None:
        self.touched: dict[Block, None] = {}
        self.finished: dict[Block, None] = {}
        self.dead: list[DeadLetter] = []

    def __bool__(self) -> bool:
        return bool(self.touched or self.finished or self.dead)


class _Files:
    """The open files, apart from the writer: they are closed when it is collected."""

    def __init__(self) -> None:
        self.own: Source | None = None
        self.adopted: list[Source] = []  # of earlier processes, the oldest first

    def all(self) -> list[Source]:
        """Return the open files, in the order of their messages."""
        return self.adopted if self.own is None else [*self.adopted, self.own]

    def close(self) -> None:
        for source in self.all():
            with suppress(Exception):
                source.close()
        self.own, self.adopted = None, []


class SpoolWriter:
    """Commit what a buffer stages, delete what is settled, and read what was left on disk.

    All work on files happens in one thread, which starts when it is first needed. Other threads
    add to queues here and call `wake`.
    """

    def __init__(self, buffer: Any, options: SpoolOptions) -> None:
        self._buffer = weakref.ref(buffer)  # the buffer owns the writer
        self.options = options
        self.credentials = Credentials()
        self.error: SpoolError | None = None  # while the spool is degraded
        self.quarantined = 0
        self.dead_letters = 0
        self.folder: Path | None = None
        self.file_bytes = 0
        self._wakeup = native_threads.new_lock()
        self._wakeup.acquire()
        self._io = native_threads.new_rlock()  # held while files are used; a fork waits for it
        self._start_lock = native_threads.new_lock()
        self._thread: Any = None
        self._thread_id = 0
        self._pid = os.getpid()
        self._at_once = False
        self._closing = False
        self._closed: Future[None] = native_threads.new_future()
        self._reports: list[Callable[[], object]] = []
        self._waiters: deque[Future[None]] = deque()
        self._retired: deque[tuple[Sequence[Record], str, Sequence[str]]] = deque()
        self._marks: deque[tuple[Sequence[Record], int, Future[None] | None]] = deque()
        self._changes = _Changes()
        self._files = _Files()
        self._retry_at = 0.0
        self._quiet_until = 0.0
        self._adopt_at = 0.0
        self._space_at = 0.0
        self._unusable: set[Path] = set()  # orphans that could not be opened
        # Not at exit: `close` was called then, or the thread still uses the files.
        weakref.finalize(self, _release, self._files, self._wakeup).atexit = False
        _writers.add(self)

    # ---- from any thread ------------------------------------------------------------------------

    def wake(self, *, at_once: bool = False) -> None:
        """Let the thread do what is due, and start it if it does not run."""
        if at_once:
            self._at_once = True
        if self._thread is None or not self._thread.is_alive():
            self._start()
        with suppress(RuntimeError):  # it is released already
            self._wakeup.release()

    def _start(self) -> None:
        # Never wait: a signal handler may have interrupted this thread while it has the lock.
        if not self._start_lock.acquire(blocking=False):
            return
        try:
            if (self._thread is None or not self._thread.is_alive()) and not self._closed.done():
                reference: weakref.ref[SpoolWriter] = weakref.ref(self)
                wakeup = self._wakeup
                with suppress(RuntimeError):  # at the end of the interpreter no thread starts
                    self._thread = native_threads.start_thread(
                        lambda: _run(reference, wakeup), "mixpanel-spool"
                    )
        finally:
            self._start_lock.release()

    def request_commit(self) -> Future[None]:
        """Return a future that is done when everything accepted so far is on disk."""
        return self._new_waiter(self._waiters.append)

    def _new_waiter(self, enqueue: Callable[[Future[None]], object]) -> Future[None]:
        future: Future[None] = native_threads.new_future()
        if native_threads.get_ident() == self._thread_id:
            error = (
                "a callback that the spool calls cannot wait for the spool: do it in another thread"
            )
            future.set_exception(SpoolError(error))
            return future
        enqueue(future)
        self.wake(at_once=True)
        if self._closed.done():
            self._fail_waiters(SpoolError(CLOSED))
        return future

    def retire(
        self, records: Sequence[Record], reason: str = "", texts: Sequence[str] = ()
    ) -> None:
        """Delete settled messages; with a reason, keep them as dead letters."""
        self._retired.append((records, reason, texts))
        self.wake()

    def mark(self, records: Sequence[Record]) -> Future[None]:
        """Write that updates are about to be sent; return a future that is done when it is."""
        unsafe = [record for record in records if not record.repeatable]
        return self._new_waiter(lambda future: self._marks.append((unsafe, ATTEMPTED, future)))

    def unmark(self, records: Sequence[Record]) -> None:
        """Write that updates were not applied."""
        if records:
            self._marks.append((records, WAITING, None))
            self.wake()

    def close(self, timeout: float) -> None:
        """Write what is staged, and close the files; wait for up to `timeout` seconds."""
        self._closing = True
        if self._thread is not None and self._thread.is_alive():
            self.wake(at_once=True)
            with suppress(TimeoutError):
                native_threads.wait_for(self._closed, timeout)
        elif self._files.all() or self._has_work():
            self._cycle_and_close()
        _resolve(self._closed, None)

    def _has_work(self) -> bool:
        buffer = self._buffer()
        return buffer is not None and (buffer.unspooled > 0 or bool(self._retired))

    # ---- the thread -----------------------------------------------------------------------------

    def wait_seconds(self) -> float:
        """Return how many seconds the thread waits to be woken."""
        return RETRY_EVERY if self.error is not None else ADOPT_EVERY

    def gather(self) -> None:
        """Wait for more messages of the same commit, unless a caller waits for it."""
        end = time.monotonic() + GROUP_WINDOW
        while not (self._at_once or self._closing):
            left = end - time.monotonic()
            if left <= 0:
                return
            self._wakeup.acquire(timeout=left)

    def run_cycle(self) -> bool:
        """Do all work that is due; return False when the writer is closed."""
        self._thread_id = native_threads.get_ident()
        if self._closing:
            self._cycle_and_close()
            return False
        self._cycle()
        return True

    def _cycle_and_close(self) -> None:
        try:
            self._cycle()
        finally:
            with self._io:
                self._close_files()
            _resolve(self._closed, None)
            self._fail_waiters(SpoolError(CLOSED))

    def _cycle(self) -> None:
        self._at_once = False
        buffer = self._buffer()
        if buffer is None:
            return
        # Before the staged records are taken: what these callers wait for is in this commit.
        waiters = _drain(self._waiters)
        moved = False
        try:
            with self._io:
                if os.getpid() != self._pid:
                    return
                moved = self._work(buffer)
        except Exception as error:
            logger.exception("the spool failed")
            self._degrade(buffer, error)
            buffer.not_written()
        finally:
            failure = self.error
            if failure is None and buffer.memory_only:
                failure = SpoolError(
                    f"{buffer.memory_only:,} message(s) are in memory only, because the disk "
                    "failed when they were tracked"
                )
            for future in waiters:
                _resolve(future, failure)
        reports, self._reports = self._reports, []
        for report in reports:  # they call the user's code, so not while files are in use
            report()
        if moved:
            buffer.notify()
            buffer.on_ready()

    def _work(self, buffer: Any) -> bool:
        """Write, read and adopt; return True if there is more to send than before."""
        if self.error is not None and time.monotonic() < self._retry_at and not self._closing:
            self._keep_in_memory(buffer)
            return True
        try:
            try:
                self._open(buffer)
                self._check_space()
                moved = self._write(buffer)
                self._recovered(buffer)
            except (sqlite3.OperationalError, OSError) as error:
                if not is_full(error):
                    raise
                # What is on disk is still sent and deleted: only that makes space.
                self._degrade(buffer, error)
                self._keep_in_memory(buffer)
                moved = True
                with suppress(sqlite3.OperationalError):
                    self._write_changes(buffer)
            if not self._closing:
                self._adopt(buffer)
                moved = self._read_pages(buffer) or moved
                self._finish_adopted(buffer)
                self._tidy(buffer)
        except (sqlite3.Error, OSError, ConfigurationError) as error:
            if is_damage(error) and self._files.own is not None:
                self._set_aside(buffer, self._files.own, error)
                self.wake()
            else:
                self._degrade(buffer, error)
            self._keep_in_memory(buffer)
            return True
        return moved

    def _write_changes(self, buffer: Any) -> None:
        """Write what was settled, without new messages."""
        marked = self._collect()
        failure: SpoolError | None = self.error
        try:
            if self._files.own is not None:
                self._commit(self._files.own, [])
            failure = self._commit_adopted(buffer)
        finally:
            for future in marked:
                _resolve(future, failure)

    def _keep_in_memory(self, buffer: Any) -> None:
        """Keep in memory what cannot be written, and fail the marks: their updates wait."""
        if not _is_writing(buffer):
            buffer.take_staged(respool=False)
        buffer.not_written()
        for _, _, future in _drain(self._marks):
            if future is not None:
                _resolve(
                    future, self.error or SpoolError("the spool is starting a new file: try again")
                )

    # ---- opening --------------------------------------------------------------------------------

    def _open(self, buffer: Any) -> None:
        own = self._files.own
        if own is not None:
            self._check_still_there(buffer, own)
        if self._files.own is not None:
            return
        self.folder = folder = destination_folder(self.options.folder, self.options.destination)
        try:
            self._files.own = own = self._new_file(folder)
        except (sqlite3.OperationalError, OSError) as error:
            if is_full(error):
                self._adopt(buffer)  # sending what is on disk makes space
            raise
        try:
            own.store.set_meta(
                pid=str(os.getpid()), host=socket.gethostname(), opened=str(round(now(), 3)),
                durability=self.options.durability,
            )  # fmt: skip
        except sqlite3.OperationalError as error:
            if not is_full(error):
                raise
        # Before new messages are written: they line up behind those of earlier processes. At the
        # end there is no time for it.
        if not self._closing:
            self._adopt(buffer)

    def _new_file(self, folder: Path) -> Source:
        path, lock = create_file(folder)
        try:
            return Source(SpoolStore(path, self.options.durability), lock)
        except BaseException:
            remove_file(path)
            lock.release()
            raise

    def _check_still_there(self, buffer: Any, own: Source) -> None:
        """Start a new file when this one was removed."""
        if own.store.is_there():
            return
        logger.warning("the spool file %s is gone; a new one is started", own.store.path)
        self._set_aside(buffer, own, SpoolError("the file was removed"), gone=True)

    def _count(self, source: Source, buffer: Any) -> None:
        """Count the messages of a file as accepted by this process."""
        totals = source.store.totals()
        for endpoint in buffer.queues:
            count, size = totals.get(endpoint, (0, 0))
            if not count:
                continue
            created = None
            # Messages whose age cannot be read are counted all the same, and read later.
            with suppress(sqlite3.DatabaseError):
                created = source.store.oldest([endpoint])
                source.oldest = min(source.oldest, created or 0.0)
            age = 0.0 if created is None else age_of(created)
            source.left[endpoint] = count
            buffer.adopted(endpoint, count, size, age)

    def _claim(self, path: Path, buffer: Any) -> Source | None:
        """Return the file of a process that has ended, locked and open; None if it is in use."""
        try:
            lock = claim_orphan(path)
        except OSError as error:
            if not is_full(error):
                self._unusable.add(path)
            logger.warning("the spool file %s cannot be used: %s", path, error)
            return None
        if lock is None:
            return None
        source = None
        try:
            store = SpoolStore(path, self.options.durability)
            source = Source(store, lock, is_adopted=True)
            source.dead = store.dead_totals()[0]
            self._count(source, buffer)
            return source
        except BaseException as error:
            try:
                if source is not None:
                    source.store.close()
                if not is_damage(error):
                    raise
                self._quarantine(path, error, buffer)
            finally:
                lock.release()
            return None

    def _check_space(self) -> None:
        """Check the free space of the disk once a second.

        :raises OSError: ENOSPC, if it is below the floor.
        """
        if time.monotonic() < self._space_at and self.error is None:
            return
        self._space_at = time.monotonic() + CHECK_SPACE_EVERY
        floor = self.options.limits.min_free_bytes
        assert self.folder is not None
        free = free_bytes(self.folder)
        if free is not None and free < floor:
            problem = f"only {free:,} bytes are free, and {floor:,} must stay free"
            raise OSError(errno.ENOSPC, problem)

    # ---- writing --------------------------------------------------------------------------------

    def _write(self, buffer: Any) -> bool:
        own, codec = self._files.own, self.options.codec
        assert own is not None
        marked = self._collect()
        staged = buffer.take_staged(respool=True)
        runs: list[tuple[str, NewBlock, list[Record]]] = [
            (endpoint, new, part)
            for endpoint, records in staged.items()
            for new, part in new_blocks(own, endpoint, records, codec, self.credentials)
        ]
        failure: SpoolError | None = None
        try:
            self._commit(own, [new for _, new, _ in runs])
            own.store.check_there()
            self._make_available(buffer, own, runs)
            failure = self._commit_adopted(buffer)
        except BaseException as error:
            failure = _as_spool_error(error)
            raise
        finally:
            # Not before all commits: the updates are sent as soon as their marks are resolved.
            for future in marked:
                _resolve(future, failure)
        return bool(runs)

    def _make_available(
        self, buffer: Any, own: Source, runs: list[tuple[str, NewBlock, list[Record]]]
    ) -> None:
        """Let senders take messages that were committed."""
        by_endpoint: dict[str, list[tuple[Block, list[Record]]]] = {}
        for endpoint, new, part in runs:
            block = _block_of(own, new)
            # Before `written` makes them available to senders, whose outcomes refer to the block.
            for index, record in enumerate(part):
                record.block = block
                record.index = index
            by_endpoint.setdefault(endpoint, []).append((block, part))
        for endpoint, pairs in by_endpoint.items():
            buffer.written(endpoint, pairs)
        if buffer.memory_only:
            self._write_in_flight(buffer, own)

    def _write_in_flight(self, buffer: Any, own: Source) -> None:
        """Write messages of failed writes that are being sent now."""
        refused = buffer.refused_in_flight()
        for endpoint, records in refused.items():
            codec = self.options.codec
            for new, part in new_blocks(own, endpoint, records, codec, self.credentials):
                block = _block_of(own, new)
                # An update that is being sent counts as attempted until its outcome is known.
                for index, record in enumerate(part):
                    block.state[index] = WAITING if record.repeatable else ATTEMPTED
                with own.store.transaction():
                    own.store.add(new)
                    own.store.set_state(block.id, bytes(block.state), len(part))
                settled = buffer.respooled(endpoint, block, part)
                if block.settle(settled):
                    self._changes.finished[block] = None
                elif settled:
                    self._changes.touched[block] = None
        if refused:
            self.wake()

    def _collect(self) -> list[Future[None]]:
        """Apply the queues of other threads to the changes; return the futures that wait."""
        changes = self._changes
        # Settled messages before marks: a mark of a settled message has no effect.
        for records, reason, texts in _drain(self._retired):
            if reason:
                self._add_dead(records, reason, texts)
            for block, run in by_block(records):
                if block.settle(run):
                    changes.touched.pop(block, None)
                    changes.finished[block] = None
                else:
                    changes.touched[block] = None
        waiting = []
        for records, state, future in _drain(self._marks):
            for block, run in by_block(records):
                block.mark(run, state)
                if block.remaining:
                    changes.touched[block] = None
            if future is not None:
                waiting.append(future)
        return waiting

    def _add_dead(self, records: Sequence[Record], reason: str, texts: Sequence[str]) -> None:
        codec = self.options.codec
        self._changes.dead += [
            dead_letter(record, getattr(record, "block", None), reason, text, codec)
            for record, text in zip(records, texts, strict=True)
        ]

    def _commit(self, own: Source, blocks: list[NewBlock]) -> None:
        """Write blocks and changes in one transaction, then remove them from the changes."""
        changes = self._changes
        if not blocks and not changes:
            return
        mine = [block for block in changes.finished if block.source is own]
        parts = [block for block in changes.touched if block.source is own]
        store = own.store
        if len(blocks) + bool(mine) + len(parts) + len(changes.dead) == 1 and blocks:
            store.add(blocks[0])  # one statement is a transaction of its own
        else:
            with store.transaction():
                for block in blocks:
                    store.add(block)
                if changes.dead:
                    store.add_dead(changes.dead, self.options.limits.max_dead_letter_bytes)
                if mine:
                    store.remove([block.id for block in mine])
                for part in parts:
                    store.set_state(part.id, bytes(part.state), part.remaining)
            if changes.dead:
                changes.dead.clear()
                self._count_dead(own)
        for each in mine:
            del changes.finished[each]
        for each in parts:
            del changes.touched[each]

    def _commit_adopted(self, buffer: Any) -> SpoolError | None:
        """Write changes to adopted files; return an error if one had to be set aside."""
        changes, files = self._changes, self._files
        before = files.adopted
        for each in before:
            self._use(buffer, each, self._commit, each, [])
        for blocks in (changes.finished, changes.touched):
            # Files that were closed or set aside cannot be written.
            for block in [each for each in blocks if each.source not in files.all()]:
                del blocks[block]
        if len(files.adopted) < len(before):
            return SpoolError("the file of an earlier process is damaged: try again")
        return None

    def _use(self, buffer: Any, source: Source, call: Callable[..., T], *args: Any) -> T | None:
        """Make a call that uses a file; if that proves to be damaged, set it aside, return None."""
        try:
            return call(*args)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self._set_aside(buffer, source, error)
            self.wake()
            return None

    # ---- reading --------------------------------------------------------------------------------

    def _adopt(self, buffer: Any) -> None:
        """Adopt the files of processes that have ended; look for them every `ADOPT_EVERY`."""
        files = self._files
        if self.folder is None or time.monotonic() < self._adopt_at:
            return
        self._adopt_at = time.monotonic() + ADOPT_EVERY
        taken = {each.store.path for each in files.all()}
        for path in orphans(self.folder, exclude=frozenset(taken | self._unusable)):
            if len(files.adopted) >= MAX_ADOPTED:
                break
            source = self._claim(path, buffer)
            if source is not None:
                files.adopted = sorted([*files.adopted, source], key=_oldest)
                logger.debug("the spool adopted %s", path)
        self._sum_dead()

    def _read_pages(self, buffer: Any) -> bool:
        """Read at most one page per endpoint, so that settled messages are deleted in between."""
        moved = False
        for endpoint, queue in buffer.queues.items():
            for source in self._files.all():
                if not source.left.get(endpoint, 0):
                    continue
                if queue.has_space():
                    moved = self._read_page(buffer, source, endpoint) or moved
                    self.wake()  # there may be space for another
                break
        return moved

    def _read_page(self, buffer: Any, source: Source, endpoint: str) -> bool:
        place, read = source.position.get(endpoint, 0), source.store.read
        found = self._use(buffer, source, read, endpoint, place, PAGE_MESSAGES, PAGE_BYTES)
        if found is None:
            return True  # what memory has of the damaged file is sent, and written to another
        if not found:
            # The counts of the file are higher than what it has.
            buffer.lost(endpoint, source.left[endpoint], "corrupt", on_disk=True)
            source.left[endpoint] = 0
            return False
        for stored in found:
            self._load(buffer, source, endpoint, stored)
        return True

    def _load(self, buffer: Any, source: Source, endpoint: str, stored: StoredBlock) -> None:
        place = place_of(stored.id)
        source.position[endpoint] = place
        source.left[endpoint] = max(0, source.left[endpoint] - stored.remaining)
        state = bytearray(stored.state or bytes(stored.messages))
        block = Block(source, stored.id, stored.created, stored.auth, stored.remaining, state)
        records: list[Record] = []
        reason, text = "", ""
        try:
            auth = self.credentials.load(stored.auth)
        except LookupError:
            auth = None
            if not self.options.has_credentials:
                reason = "no_credentials"
                text = (
                    "the API secret of a message is not known after a restart, as secrets are not "
                    "written to disk: use a service account, then run `mp spool retry`"
                )
        if stored.bodies is None:
            self._drop_damaged(buffer, endpoint, block, stored)
            return
        try:
            records = restored(block, stored, endpoint, self.options.codec, auth)
        except (ValueError, KeyError, TypeError, IndexError):
            self._drop_damaged(buffer, endpoint, block, stored)
            return
        enqueued = buffer.clock() - age_of(stored.created)
        sequence = 0 if source.is_adopted else max(0, place - FIRST_PLACE)
        for record in records:
            record.enqueued_at = enqueued
            record.sequence = sequence
        given_up: list[Record] = []
        if reason:
            given_up, records = records, []
        elif not self.options.repeat_ambiguous:
            given_up = [record for record in records if state[record.index] == ATTEMPTED]
            records = [record for record in records if state[record.index] != ATTEMPTED]
        if given_up and not reason:
            reason = "ambiguous"
            text = (
                f"{len(given_up)} update(s) were being sent when their process ended; they may "
                "have been applied and are not safe to repeat"
            )
        buffer.loaded(endpoint, stored.remaining - len(given_up), stored.size, records)
        if given_up:
            buffer.lost(endpoint, len(given_up), reason, on_disk=True)
            error = AmbiguousDeliveryError(text, endpoint=endpoint)
            self._reports.append(lambda: buffer.announce(given_up, "dropped", reason, error))

    def _drop_damaged(self, buffer: Any, endpoint: str, block: Block, stored: StoredBlock) -> None:
        """Drop a block whose checksum does not match; a dead letter has its number of messages."""
        key = f"{key_of(block)}-damaged"
        text = f"{stored.remaining} message(s) whose checksum does not match"
        self._changes.dead.append(
            DeadLetter(
                key, now(), endpoint, "corrupt", text, stored.created, repeatable=True, auth=None,
                extra=None, body=json.dumps({"damaged": stored.remaining}).encode(),
            )
        )  # fmt: skip
        block.remaining = 0
        self._changes.finished[block] = None
        buffer.lost(endpoint, stored.remaining, "corrupt", on_disk=True, size=stored.size)
        self._report(
            buffer,
            SpoolError(f"a block of the spool is damaged: {endpoint}: {text}; they are dropped"),
        )
        self.wake()

    def _finish_adopted(self, buffer: Any) -> None:
        """Remove adopted files in which everything is settled, and whose dead letters moved."""
        files = self._files
        for each in files.adopted:
            if any(each.left.values()):
                continue
            rest = self._use(buffer, each, _rest_of, each.store)
            if rest is None or rest[0]:
                continue
            if letters := rest[1]:
                if files.own is not None:
                    self._move_dead(buffer, letters, files.own, each)
                continue
            self._forget(buffer, each)
            each.store.close()
            remove_file(each.store.path)
            each.lock.release()
            self._adopt_at = 0.0  # there may be more than `MAX_ADOPTED`
            self.wake()

    def _forget(self, buffer: Any, source: Source) -> None:
        files = self._files
        files.adopted = [each for each in files.adopted if each is not source]
        if not files.adopted:
            buffer.adopted_bytes = 0

    def _move_dead(
        self, buffer: Any, letters: Sequence[DeadLetter], own: Source, adopted: Source
    ) -> None:
        # A crash in between leaves copies, not a loss; `key` then keeps one of each.
        with own.store.transaction():
            own.store.add_dead(letters, self.options.limits.max_dead_letter_bytes)
        self._count_dead(own)
        moved = [letter.id for letter in letters]
        self._use(buffer, adopted, adopted.store.remove_dead, moved)
        adopted.dead -= len(moved)
        self._sum_dead()
        self.wake()

    def _count_dead(self, source: Source) -> None:
        source.dead = source.store.dead_totals()[0]
        self._sum_dead()

    def _sum_dead(self) -> None:
        self.dead_letters = sum([each.dead for each in self._files.all()])

    def _tidy(self, buffer: Any) -> None:
        own, files = self._files.own, self._files.all()
        self.file_bytes = sum([each.store.file_bytes() for each in files])
        # On a full disk, adopted files have to make space for one of this process.
        sources, unused = ([own], SHRINK_PAGES) if own is not None else (files, 0)
        for each in sources:
            if not any(each.left.values()) and each.store.free_pages() > unused:
                self._use(buffer, each, each.store.shrink, SHRINK_PAGES)

    # ---- failures -------------------------------------------------------------------------------

    def _degrade(self, buffer: Any, error: BaseException) -> None:
        """Keep messages in memory from now on, and report it unless that was done recently."""
        self._retry_at = time.monotonic() + RETRY_EVERY
        is_new = self.error is None and time.monotonic() >= self._quiet_until
        self._quiet_until = time.monotonic() + QUIET
        self.error = _as_spool_error(error)
        if is_new:
            self.error.needs_attention = True
            self._report(buffer, self.error)

    def _recovered(self, buffer: Any) -> None:
        """End the degraded state if the disk accepts a write, and all messages are on disk."""
        if self.error is None or buffer.memory_only:
            return
        assert self._files.own is not None
        self._files.own.store.set_meta(recovered=str(round(now(), 3)))
        self.error = None
        logger.warning("the spool can be written again")

    def _set_aside(
        self, buffer: Any, source: Source, error: BaseException, *, gone: bool = False
    ) -> None:
        """Close a damaged file and rename it; what memory holds is written to a new one."""
        with suppress(Exception):
            source.store.close()
        if not gone:
            self._quarantine(source.store.path, error, buffer)
        source.lock.release()
        for endpoint, left in source.left.items():
            if left:
                buffer.lost(endpoint, left, "corrupt", on_disk=True)
        if source is self._files.own:
            self._files.own = None
        else:
            self._forget(buffer, source)
        buffer.forget_blocks(source)

    def _quarantine(self, path: Path, error: BaseException, buffer: Any) -> None:
        kept = path
        with suppress(OSError):
            kept = quarantine(path)
        self.quarantined += 1
        found = SpoolError(f"the spool file {path.name} is damaged ({error}); kept as {kept.name}")
        found.needs_attention = True
        self._report(buffer, found)

    def _report(self, buffer: Any, error: SpoolError) -> None:
        self._reports.append(lambda: buffer.stats.report(error, []))

    # ---- the end --------------------------------------------------------------------------------

    def _close_files(self) -> None:
        for source in self._files.all():
            empty = False
            with suppress(sqlite3.Error):
                empty = source.store.is_empty()
            with suppress(sqlite3.Error):
                source.store.close()
            if empty:
                with suppress(OSError):
                    remove_file(source.store.path)
            source.lock.release()
        self._files.own, self._files.adopted = None, []

    def _fail_waiters(self, error: SpoolError) -> None:
        for future in _drain(self._waiters):
            _resolve(future, error)
        for _, _, marked in _drain(self._marks):
            if marked is not None:
                _resolve(marked, error)

    def leave_to_parent(self) -> None:
        """Forget the files in a forked child, without closing them: they are the parent's."""
        _inherited.append((self._files.all(), self._files))
        self._files.own, self._files.adopted = None, []


def _release(files: _Files, wakeup: Any) -> None:
    """Close the files of a collected writer, and let its thread end."""
    files.close()
    with suppress(RuntimeError):
        wakeup.release()


def _run(reference: Callable[[], SpoolWriter | None], wakeup: Any) -> None:
    """Work until the writer is closed or collected: the thread only has a weak reference to it."""
    seconds = 0.0
    while True:
        if seconds:
            wakeup.acquire(timeout=seconds)
        writer = reference()
        if writer is None:
            return
        writer.gather()
        if not writer.run_cycle():
            return
        seconds = writer.wait_seconds()
        del writer


def _block_of(source: Source, new: NewBlock) -> Block:
    count = len(new.bodies)
    return Block(source, new.id, new.created, new.auth, count, bytearray(count))


def _oldest(source: Source) -> float:
    return source.oldest


def _rest_of(store: SpoolStore) -> tuple[bool, list[DeadLetter]]:
    """Return whether a file has messages, and its first dead letters."""
    return bool(store.totals()), store.dead(limit=PAGE_LETTERS)


def _is_writing(buffer: Any) -> bool:
    return any(queue.writing for queue in buffer.queues.values())


def _drain(queue: deque[Any]) -> list[Any]:
    found = []
    while queue:
        try:
            found.append(queue.popleft())
        except IndexError:
            break
    return found


def _resolve(future: Future[None], error: SpoolError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _as_spool_error(error: BaseException) -> SpoolError:
    text = getattr(error, "strerror", None) or str(error)
    return SpoolError(
        f"the spool cannot be written ({text}): messages are kept in memory until it can"
    )


# ---- fork ---------------------------------------------------------------------------------------

_held: list[Any] = []


def _before_fork() -> None:
    # A commit that is in progress would leave SQLite's own locks held in the child.
    locks = [writer._io for writer in list(_writers)]
    _held.extend(lock for lock in locks if lock.acquire(timeout=FORK_TIMEOUT))


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().release()


def _after_fork_in_child() -> None:
    # Not released: each client of the child gets a writer of its own, with locks of its own.
    _held.clear()
    for writer in list(_writers):
        writer.leave_to_parent()


fork.register(
    fork.Order.LOCKS,
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
