"""Decode media files in processes that may crash, hang or run out of memory without harm to anyone else.

Small files travel several at a time; if their process dies or takes too long, they are tried again one by one, so that
only the file at fault is refused.
"""

import atexit
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from data_contracts.contract import Column
from data_contracts.errors import MediaRefused
from data_contracts.settings import get_settings
from tasks.decode_worker import (
    Decoded,
    MediaLimits,
    MediaModality,
    confine,
    decode_audio,
    decode_chunk,
    decode_image,
    decode_video,
    refused,
)

__all__ = [
    "Decoded",
    "MediaLimits",
    "MediaModality",
    "check_media",
    "decode_audio",
    "decode_image",
    "decode_many",
    "decode_video",
    "limits_of",
]

CHUNK_FILES = 16
CHUNK_BYTES = 4 * 1024**2
AHEAD = 2
"""Chunks in flight for each process."""


def limits_of(column: Column) -> MediaLimits:
    """Return what a file of `column` may cost: the contract's limits where it has them, and the settings' time."""
    given = {
        "max_bytes": column.rules.max_bytes,
        "max_pixels": column.rules.max_pixels,
        "max_duration_s": column.rules.max_duration_s,
        "timeout_s": get_settings().decode_timeout_s,
    }
    return MediaLimits(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def check_media(
    files: Iterable[bytes], modality: MediaModality, limits: MediaLimits
) -> Iterator[Decoded | MediaRefused]:
    """Decode every file and yield what each is, without its content, or why it is refused, in order.

    Beyond the codes of `decode_worker.decode`, a refusal's `code` may be timeout or crashed.
    """
    return _in_workers(files, modality, limits, keep=False)


def decode_many(
    refs: Iterable[tuple[str, bytes]], modality: MediaModality, limits: MediaLimits
) -> Iterator[np.ndarray[Any, Any] | MediaRefused]:
    """Yield the decoded content of each (name, file), in order, or why it is refused.

    Pictures are [height, width, 3] of RGB bytes, clips mono samples at 16 kHz, videos [frame, height, width, 3]; large
    pictures and frames are averaged down (`decode_worker.reduce_picture`).
    """
    for outcome in _in_workers((content for _, content in refs), modality, limits, keep=True):
        yield outcome if isinstance(outcome, MediaRefused) else np.asarray(outcome.content)


def _in_workers(
    files: Iterable[bytes], modality: MediaModality, limits: MediaLimits, *, keep: bool
) -> Iterator[Decoded | MediaRefused]:
    """Keep a few chunks in flight and yield outcomes in the order of `files`."""
    pool = _pool(os.getpid())

    def start(chunk: Sequence[bytes]) -> Any:
        keywords = {"keep": keep}
        return pool.schedule(decode_chunk, (chunk, modality, limits), keywords, timeout=limits.timeout_s)

    chunks = _chunks(files)
    running = deque((chunk, start(chunk)) for chunk in islice(chunks, AHEAD * get_settings().decode_workers))
    while running:
        chunk, future = running.popleft()
        outcomes = _outcomes(chunk, future, start, limits)
        running.extend((following, start(following)) for following in islice(chunks, 1))
        yield from outcomes


def _outcomes(
    chunk: Sequence[bytes], future: Any, start: Callable[[Sequence[bytes]], Any], limits: MediaLimits
) -> list[Decoded | MediaRefused]:
    """Wait for a chunk; if its process died, find the file at fault by trying each on its own."""
    from pebble import ProcessExpired

    try:
        outcomes: list[Decoded | MediaRefused] = future.result()
    except TimeoutError:
        fault = refused("timeout", f"takes longer than {limits.timeout_s:g} s to decode")
    except ProcessExpired as exc:
        fault = refused("crashed", f"ended its decoder ({exc})")
    except MemoryError:
        fault = refused("out_of_memory", "needs more memory than a decoder may use")
    else:
        return outcomes
    if len(chunk) == 1:
        return [fault]
    return [outcome for file in chunk for outcome in _outcomes([file], start([file]), start, limits)]


def _chunks(files: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for file in files:
        if chunk and (len(chunk) == CHUNK_FILES or size + len(file) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(file)
        size += len(file)
    if chunk:
        yield chunk


@cache
def _pool(pid: int) -> Any:
    """Return this process's decoders, started on first use; they end with it. A forked process gets its own."""
    from pebble import ProcessPool

    settings = get_settings()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tasks.decode_worker"])
    pool = ProcessPool(
        max_workers=settings.decode_workers,
        initializer=confine,
        initargs=(settings.decode_memory_bytes,),
        context=context,
    )
    atexit.register(_stop, pool, pid)
    return pool


def _stop(pool: Any, pid: int) -> None:
    if pid == os.getpid():
        pool.stop()
        pool.join()
