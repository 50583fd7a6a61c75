"""Writes a file on a thread, while the next tensors are merged, with bounded memory and a checksum on the way."""

import errno
import os
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.tensor_files import StoredBytes, as_bytes

PAGE = 4096
FLUSHED = 64 << 20
"""So many bytes are written before the disk is asked to begin with them."""
CHUNK = 8 << 20
NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY)
"""Errors of file systems that cannot copy between these two files."""


class WriteBehind:
    """Writes to places of an open file on a thread, in the order of the calls.

    Args:
        file: the file's descriptor.
        budget: the bytes that may wait to be written. A tensor that is larger waits alone.
    """

    def __init__(self, file: int, budget: int) -> None:
        self._file = file
        self._budget = budget
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._writer, self._flusher = (ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("write", "flush"))
        self._unflushed = 0
        self._flush: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        for pool in (self._writer, self._flusher):
            pool.shutdown(cancel_futures=kind is not None)

    def make_room(self, count: int) -> None:
        """Waits until ``count`` bytes more may wait. Raises the OSError of a write that failed."""
        while self._waiting and sum(size for size, _ in self._waiting) + count > self._budget:
            self._waiting.popleft()[1].result()

    def write(self, data: Tensor, offset: int) -> int:
        """Writes a flat tensor of bytes, which must not be changed any more. Returns its checksum."""
        written = checksum(data)

        def work() -> None:
            write_all(self._file, as_bytes(data), offset)
            if checksum(data) != written:
                raise UserError("a tensor changed in memory while it was written; the memory may be faulty")

        self._submit(work, data.numel())
        return written

    def copy(self, source: StoredBytes, offset: int) -> None:
        """Writes bytes of another file, without taking them into memory where the system can do so."""
        self._submit(lambda: copy_bytes(source, self._file, offset), source.count)

    def finish(self) -> None:
        """Waits for all writes, then for the disk. Raises the OSError of one that failed."""
        self.make_room(self._budget + 1)
        os.fsync(self._file)

    def _submit(self, work: Callable[[], None], count: int) -> None:
        self._waiting.append((count, self._writer.submit(work)))
        self._unflushed += count
        if self._unflushed >= FLUSHED and (self._flush is None or self._flush.done()):
            self._unflushed = 0
            self._flush = self._flusher.submit(self._begin_with_disk)

    def _begin_with_disk(self) -> None:
        with suppress(OSError):  # the last fsync tells it
            getattr(os, "fdatasync", os.fsync)(self._file)


def checksum(data: Tensor) -> int:
    """Returns the CRC-32 of the sums of the 64-bit words of each page, at the speed of memory.

    A changed word changes it, and so does a page in another place. ``data`` is a flat tensor of bytes.
    """
    whole = data.numel() // PAGE * PAGE
    sums = data[:whole].view(torch.int64).view(-1, PAGE // 8).sum(1)
    return zlib.crc32(as_bytes(data[whole:]), zlib.crc32(as_bytes(sums)))


def write_all(file: int, data: memoryview, offset: int) -> None:
    """Writes all bytes to their place."""
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count


def copy_bytes(source: StoredBytes, target: int, offset: int) -> None:
    """Copies bytes of a file to a place of another, as references to its blocks where the file system has them."""
    with source.path.open("rb", buffering=0) as file:
        done = _copied_by_system(file.fileno(), source, target, offset)
        while done < source.count:
            data = os.pread(file.fileno(), min(CHUNK, source.count - done), source.start + done)
            if not data:
                raise source.truncated(source.count - done)
            write_all(target, memoryview(data), offset + done)
            done += len(data)


def _copied_by_system(file: int, source: StoredBytes, target: int, offset: int) -> int:
    """Returns how many of the bytes the system copied. The first copy ends where a block begins in both files."""
    done, head = 0, -source.start % PAGE if (source.start - offset) % PAGE == 0 else 0
    while done < source.count and hasattr(os, "copy_file_range"):
        size = min(head, source.count) - done if done < head else source.count - done
        try:
            count = os.copy_file_range(file, target, size, source.start + done, offset + done)
        except OSError as error:
            if error.errno in NO_COPY:
                return done
            raise
        if not count:
            return done
        done += count
    return done
