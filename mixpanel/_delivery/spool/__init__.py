"""Keep accepted messages in a file until they are settled, so that they outlive the process.

A memory buffer loses what it holds when a process is killed. With a spool, messages are written to
an SQLite database before they are sent, and deleted after the server has confirmed them.

The path of a message:

    put -> staged -> one transaction of a group -> unsent -> in flight -> settled -> deleted
                     (the writer's thread)   \\-> on disk only, read back in pages -/

- `track` does no I/O: it appends to `staged`. The writer, a thread of its own, commits what is
  staged as one *block* per endpoint, at most `GROUP_WINDOW` seconds later, or at once when
  `commit()` or `track(durable=True)` waits. A message that was committed survives `kill -9`
  (`durability="process"`), and with `"power"`, which syncs each commit, a power failure as well.
- A message is sent only after it was committed. So everything that could be sent, and everything
  that was sent, is in the file until it is settled.
- A block is many messages in one row. One statement writes it, so the writer needs the
  interpreter's lock only a few times for each group, however many messages it has.
- Up to `LOADED` messages of an endpoint are in memory. The others are on disk only, and come back
  in pages, in order; new messages of that endpoint line up behind them on disk. So memory does not
  grow with the backlog, and opening a file reads counts (kept by triggers) instead of messages.
- Events, and updates that may be repeated, are sent again after a crash: servers recognize copies
  by the key that was frozen when the message was tracked. `$add`, `$append` and `$remove` have no
  such key. They are marked as attempted, and that mark is committed, *before* the request leaves.
  After a crash a marked update counts as ambiguous, and goes to the dead letters instead of the
  server. The mark is removed when a response proves that nothing was applied.
- A message that is rejected, ambiguous or expired moves to the dead letters in the transaction
  that deletes it from the queue. They are bounded; `mp spool` shows, exports and retries them.

Files. Each sender has one file and one connection to it, used by its writer's thread alone: SQLite
before 3.51.3 can corrupt a WAL file that several connections write. The folder of a spool has a
folder for each destination (server and credentials), so that a message is sent only to the
destination that it was tracked for. In there, `<random>.v1.db` is a file of format 1, and
`<random>.lock` is locked with `flock` while a process owns it. The kernel releases the lock when
the owner ends. Its file is then an orphan: the next process that starts adopts it, or a running one
does within `ADOPT_EVERY` seconds. It sends the messages, moves the dead letters to its own file,
and removes the orphan. It writes no new messages to it: damage of an old file, which may be found
late, takes only what the old process left. `locking_mode` stays NORMAL: with EXCLUSIVE, a forked
child that closes its copy of the connection deletes the WAL of its parent. A forked child closes
its copy of the lock, leaves the connection alone, and opens a file of its own.

What can fail:

- Disk full, no free space above the floor, read-only, I/O errors: the spool is *degraded*. Messages
  stay in memory, bounded by `Limits`, and are written when the disk works again. `on_error` is
  called once, `health()` shows it, `commit()` raises. Updates that must not be repeated
  wait if they are in the file, because their mark cannot be written. Where a start finds no space
  for a file of its own, it adopts an orphan all the same: sending what is there makes space.
- A file that is not a database, or is damaged: it is renamed to `<name>.corrupt-<time>` and kept, a
  new one is started, and what memory holds is written again. What only the damaged file had is
  counted as dropped (`corrupt`). Each block has a checksum. One that does not match is deleted,
  counted in the same way, and leaves a dead letter with the number of its messages.
- A clock that jumps: the age of a message in this process is measured with the monotonic clock. The
  wall clock is used only after a restart, and an implausible age (negative, or a clock before
  2020) counts as zero: it is better to keep a message for too long than to drop it.
"""
