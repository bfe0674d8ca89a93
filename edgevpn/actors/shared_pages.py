"""Prepares a process to be forked, so that its children share its memory for long.

Parent and child share a page until one of them writes to it. Three habits of the interpreter write to many pages for
nothing; `settle` takes their occasion away, in some 30 ms:

- the garbage collector writes into the head of each object it looks at: everything is put out of its sight (gc.freeze);
- the cache of looked-up attributes holds references to names of modules long imported, and a child, filling the cache
  anew, gives back one here and one there: it is emptied;
- imports leave gaps, and what a child allocates first goes into the gaps, one page after the other, where it would
  fit into a tenth of the pages: the gaps are filled, with some 700 KB of nothing, so that a child begins on fresh
  pages. (CPython's allocator serves up to 512 bytes from pools, of one size each; glibc's malloc serves the rest from
  its heap. With another allocator the fillings do nothing.)

Not done because it brought nothing: laying the code of functions side by side (most of a module never runs).
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable

_LARGEST_IN_POOLS = 512
_STEP = 16  # sizes in pools are multiples of it, and so are malloc's
_PAGE = 4096
_POOL_HEAD = 48  # bytes before the first object of a pool
_IN_A_ROW = 3  # objects side by side from the start of a pool: the pool is fresh
_MOST_OBJECTS = 20_000  # of one size
_MOST_CHUNKS = 50_000
_LARGEST_CHUNK = 64 * 1024  # well below what malloc takes from elsewhere
_BYTES_HEAD = sys.getsizeof(b"")

_fillings: list[object] = []  # for ever


def settle() -> None:
    """Call it in a process with one thread that will do nothing any more but fork; again after further imports."""
    gc.collect()
    _fill_pools()
    _fill_heap()
    # The name since 3.13, and the one before.
    clear = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)
    if clear is not None:
        clear()
    gc.freeze()


def _fill_pools() -> None:
    for size in range(_STEP, _LARGEST_IN_POOLS + 1, _STEP):
        _fillings.extend(_fill_pools_of(size))


def _fill_pools_of(size: int) -> list[object]:
    """Objects of `size` bytes in all pools that have room; nothing when there is no end of it."""
    make = _maker(size)
    filling: list[object] = []
    address = in_a_row = 0
    while len(filling) < _MOST_OBJECTS:
        filling.append(make())
        before, address = address, id(filling[-1])
        if address % _PAGE == _POOL_HEAD:
            in_a_row = 1
        elif in_a_row and address == before + size:
            in_a_row += 1
            if in_a_row == _IN_A_ROW:
                return filling
        else:
            in_a_row = 0
    return []


def _maker(size: int) -> Callable[[], object]:
    """What makes an object of `size` bytes, and none of that size beside it."""
    if size == 16:
        return object
    if size == 32:  # no string of bytes is so short; a number is
        half = 0.5
        return lambda: half + half
    length = size - _BYTES_HEAD
    return lambda: bytes(length)


def _fill_heap() -> None:
    """Take every free chunk of malloc's heap, the large ones first; they are never given back."""
    libc = ctypes.CDLL(None)
    if not all(hasattr(libc, name) for name in ("malloc", "free", "malloc_trim", "sbrk")):
        return
    malloc, sbrk = libc.malloc, libc.sbrk
    malloc.restype = sbrk.restype = ctypes.c_void_p
    malloc.argtypes, sbrk.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_ssize_t], [ctypes.c_void_p]
    libc.malloc_trim(0)  # the heap's end is where the kernel has it, to a page
    end = int(sbrk(0) or 0) - 2 * _PAGE
    size, taken = _LARGEST_CHUNK, 0
    while size >= _STEP and taken < _MOST_CHUNKS:
        chunk = int(malloc(size) or 0)
        if chunk > 0 and chunk + size < end:
            taken += 1
            continue
        libc.free(chunk)  # it is beyond what was in use: no gap of this size is left
        size = size - _STEP if size <= 1024 + _STEP else size * 7 // 8
