"""What the C library does with memory that is freed: by default it is given back and comes again page by page.

A training step on a CPU frees and takes the same megabytes over and over. glibc hands large blocks to the system as
soon as they are free, and the next tensor pays for every page once more, to be zeroed: a quarter of the processor time
of drawing 32 images of 64 px forward and backward, and a thirtieth of a whole training step.
"""

from __future__ import annotations

import ctypes

# Of mallopt(3), in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEEP = 2**31 - 1  # bytes free at the end of the heap before any go back; the most an int says


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for what it needs next; its peak stays about the same.

    Returns:
        Whether the C library is one that can be told so, glibc; others are left as they are.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # others have a mallopt with other numbers
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # No block from the system directly, however large: the threshold for that cannot be set beyond 32 MB.
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEEP)) and bool(mallopt(_M_MMAP_MAX, 0))
