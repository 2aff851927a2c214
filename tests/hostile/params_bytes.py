"""NDArray-list files that are wrong in one place each, made from their parts."""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAGIC, V1, V2, V3 = 0x112, 0xF993FAC8, 0xF993FAC9, 0xF993FACA
CPU = struct.pack("<ii", 1, 0)
FLOAT32, INT64, BFLOAT16 = 0, 6, 12


@dataclass(frozen=True)
class Hostile:
    """Bytes that must be refused at ``offset`` with a reason that matches ``reason``."""

    id: str
    data: bytes
    offset: int
    reason: str


def head(count: int) -> bytes:
    return struct.pack("<QQQ", MAGIC, 0, count)


def names(*items: bytes) -> bytes:
    return struct.pack("<Q", len(items)) + b"".join(struct.pack("<Q", len(i)) + i for i in items)


def shape(*sizes: int) -> bytes:
    return struct.pack(f"<i{len(sizes)}q", len(sizes), *sizes)


def dense(*sizes: int, data: bytes, type_: int = FLOAT32, magic: int = V2) -> bytes:
    return struct.pack("<Ii", magic, 0) + shape(*sizes) + CPU + struct.pack("<i", type_) + data


def sparse(storage: int, stored: tuple, full: tuple, aux: list[tuple], data: bytes) -> bytes:
    record = struct.pack("<Ii", V2, storage) + shape(*stored) + shape(*full) + CPU
    record += struct.pack("<i", FLOAT32)
    for type_, sizes in aux:
        record += struct.pack("<i", type_) + shape(*sizes)
    return record + data


FOUR = struct.pack("<4f", 1, 2, 3, 4)
GOOD = dense(2, 2, data=FOUR)  # 56 bytes
BODY = 24  # where the first array begins
ONE, TWO = BODY + len(GOOD), BODY + 2 * len(GOOD)  # where the names begin
DATA = BODY + 8 + 20 + 8 + 4  # where the values of GOOD begin


def _row_sparse(*indices: int, rows: int = 4) -> bytes:
    data = FOUR[: 8 * len(indices)] + struct.pack(f"<{len(indices)}q", *indices)
    stored, count = (len(indices), 2), (len(indices),)
    return sparse(1, stored, (rows, 2), [(INT64, count)], data)


def _csr(indptr: tuple, indices: tuple, full: tuple = (2, 3)) -> bytes:
    data = FOUR[: 4 * len(indices)]
    data += struct.pack(f"<{len(indptr)}q", *indptr) + struct.pack(f"<{len(indices)}q", *indices)
    aux = [(INT64, (len(indptr),)), (INT64, (len(indices),))]
    return sparse(2, (len(indices),), full, aux, data)


def _one(record: bytes, tail: bytes | None = None) -> bytes:
    return head(1) + record + (names() if tail is None else tail)


HUGE = 2**62
CASES = [
    Hostile("empty", b"", 0, "header"),
    Hostile("wrong magic", b"\x13" + _one(GOOD)[1:], 0, "0x113"),
    Hostile("text", b"Hello, this is no checkpoint.", 0, "not an NDArray list"),
    Hostile("more arrays than bytes", head(2**63) + GOOD, 16, "cannot fit"),
    Hostile("one array too many", head(3) + GOOD + GOOD + names(), TWO + 4, "only 4 are left"),
    Hostile("unknown record magic", _one(b"\xef\xbe\xad\xde" + GOOD[4:]), BODY, "0xdeadbeef"),
    Hostile("rank of V0 too large", _one(struct.pack("<I", 33) + GOOD), BODY, "0x21"),
    Hostile("unknown storage", _one(struct.pack("<Ii", V2, 3) + GOOD[8:]), BODY + 4, "type 3"),
    Hostile("storage -1", _one(struct.pack("<Ii", V2, -1) + GOOD[8:]), BODY + 4, "type -1"),
    Hostile("sparse V3", _one(struct.pack("<Ii", V3, 1) + GOOD[8:]), BODY + 4, "V3"),
    Hostile("huge rank", _one(GOOD[:8] + struct.pack("<i", 2**31 - 1)), BODY + 8, "dimensions"),
    Hostile("negative rank", _one(GOOD[:8] + struct.pack("<i", -1)), BODY + 8, "-1 dimensions"),
    Hostile("rank -2 of V3", _one(dense(data=b"", magic=V3)[:8] + b"\xfe" + b"\xff" * 3), 32, "-2"),
    Hostile("negative size", _one(dense(2, -2, data=FOUR)), BODY + 12, "negative"),
    Hostile("size beyond the file", _one(dense(2, 1000, data=FOUR)), DATA, "8000 bytes"),
    Hostile("size overflows", _one(dense(HUGE, 4, data=FOUR)), DATA, "too large"),
    Hostile("size overflows to 0", _one(dense(2**32, 2**32, data=FOUR)), DATA, "too large"),
    Hostile("empty but too large", _one(dense(HUGE, HUGE, 0, data=b"")), DATA + 8, "too large"),
    Hostile(
        "V0 beyond the file", _one(struct.pack("<II", 1, 2**32 - 1) + CPU + bytes(4)), 44, "1717"
    ),
    Hostile("unknown type", _one(dense(2, 2, data=FOUR, type_=13)), DATA - 4, "type 13"),
    Hostile("negative type", _one(dense(2, 2, data=FOUR, type_=-1)), DATA - 4, "type -1"),
    Hostile("fewer names", head(2) + GOOD + GOOD + names(b"a"), TWO, "1 names for 2"),
    Hostile("more names", _one(GOOD, names(b"a", b"b")), ONE, "2 names for 1"),
    Hostile("names of nothing", head(0) + names(b"a"), 24, "1 names for 0"),
    Hostile("names beyond the file", _one(GOOD, struct.pack("<QQ", 2**60, 0)), ONE, "cannot fit"),
    Hostile("name too long", _one(GOOD, struct.pack("<QQ", 1, 2**63) + b"a"), ONE + 16, "a name"),
    Hostile("name not UTF-8", _one(GOOD, names(b"ab\xff")), ONE + 18, "UTF-8"),
    Hostile("name twice", head(2) + GOOD + GOOD + names(b"w", b"w"), TWO + 25, "'w' occurs twice"),
    Hostile("trailing bytes", _one(GOOD) + b"\0", ONE + 8, "1 bytes follow"),
    Hostile(
        "float indices", _one(sparse(1, (1, 2), (4, 2), [(0, (1,))], FOUR[:12])), 84, "integers"
    ),
    Hostile("row beyond the end", _one(_row_sparse(1, 4)), BODY, "within the rows"),
    Hostile("negative row", _one(_row_sparse(-1, 3)), BODY, "within the rows"),
    Hostile("row twice", _one(_row_sparse(3, 3)), BODY, "ascend"),
    Hostile(
        "row data of other width",
        _one(sparse(1, (1, 3), (4, 2), [(INT64, (1,))], FOUR[:12] + bytes(8))),
        *(BODY, "must be"),
    ),
    Hostile(
        "indices of rank 2", _one(sparse(1, (1, 2), (4, 2), [(6, (1, 1))], bytes(16))), 24, "vector"
    ),
    Hostile("csr column beyond", _one(_csr((0, 1, 2), (0, 3))), BODY, "within the columns"),
    Hostile("csr negative column", _one(_csr((0, 1, 2), (0, -1))), BODY, "within the columns"),
    Hostile("csr indptr short", _one(_csr((0, 2), (0, 1))), BODY, "instead of 3"),
    Hostile("csr indptr descends", _one(_csr((0, 3, 2), (0, 1))), BODY, "ascend"),
    Hostile("csr indptr too far", _one(_csr((0, 1, 9), (0, 1))), BODY, "from 0 to 2"),
    Hostile("csr of rank 3", _one(_csr((0, 1, 2), (0, 1), (2, 3, 1))), BODY, "2 dimensions"),
    Hostile(
        "many nothings", head(70_000) + bytes(4 * 70_000) + names(), 24 + 4 * 2**16, "no shape"
    ),
]
