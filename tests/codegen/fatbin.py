"""Read the images that CUDA compilers make: which GPUs they hold code for."""

from __future__ import annotations

import struct

MAGIC = 0xBA55ED50
KINDS = {1: "ptx", 2: "machine code"}


def contents(image: bytes) -> list[tuple[str, int]]:
    """Return (kind, arch) of every entry of a fatbin, sorted."""
    magic, _, header, size = struct.unpack_from("<IHHQ", image)
    assert magic == MAGIC
    assert header + size <= len(image)
    found, position = [], header
    while position < header + size:
        kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", image, position)
        (arch,) = struct.unpack_from("<I", image, position + 28)
        found.append((KINDS[kind], arch))
        position += entry_header + entry_size
    return sorted(found)
