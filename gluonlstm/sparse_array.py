"""SparseArray: the row_sparse and csr arrays of MXNet files, kept as they are stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gluonlstm.errors import InvalidArgumentError

# A file of a few bytes can declare any dense shape, so making it dense is bounded.
MAX_DENSE_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class SparseArray:
    """One sparse array, as ``mx.nd.sparse`` arrays are laid out.

    ``row_sparse``: ``data`` (n, *shape[1:]) are the rows numbered ``indices`` (n,), ascending; all
    others are zero. ``csr``: row r of a matrix has the values ``data[indptr[r]:indptr[r + 1]]`` in
    the columns ``indices[indptr[r]:indptr[r + 1]]``. Raises InvalidArgumentError when the parts
    contradict each other.
    """

    storage: Literal["row_sparse", "csr"]
    shape: tuple[int, ...]
    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check every part, so that no later use can go out of bounds."""
        problem = self._problem()
        if problem:
            raise InvalidArgumentError(f"a {self.storage} array of shape {self.shape}: {problem}.")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.data.dtype

    def todense(self, max_bytes: int = MAX_DENSE_BYTES) -> np.ndarray:
        """Return the dense array; InvalidArgumentError if it takes more than ``max_bytes``."""
        size = math.prod(self.shape) * self.dtype.itemsize
        if size > max_bytes:
            raise InvalidArgumentError(
                f"a {self.storage} array of shape {self.shape} takes {size} bytes when dense, more "
                f"than max_bytes={max_bytes}; call todense with a larger max_bytes."
            )
        dense = np.zeros(self.shape, self.dtype)
        if self.storage == "row_sparse":
            dense[self.indices] = self.data
        else:
            assert self.indptr is not None  # checked by __post_init__
            rows = np.repeat(np.arange(self.shape[0]), np.diff(self.indptr.astype(np.int64)))
            dense[rows, self.indices] = self.data
        return dense

    def _problem(self) -> str:
        if self.storage not in ("row_sparse", "csr"):
            return "storage must be 'row_sparse' or 'csr'"
        if not self.shape or min(self.shape) < 0:
            return "the shape must have dimensions, none of them negative"
        for name, part in (("indices", self.indices), ("indptr", self.indptr)):
            if part is not None and (part.ndim != 1 or part.dtype.kind not in "iu"):
                return f"{name} must be a vector of integers"
        return self._row_problem() if self.storage == "row_sparse" else self._csr_problem()

    def _row_problem(self) -> str:
        expected = (len(self.indices), *self.shape[1:])
        if self.indptr is not None or self.data.shape != expected:
            return f"data of shape {self.data.shape} must be {expected}, and indptr None"
        if not _within(self.indices, self.shape[0]) or not _ascends(self.indices, strictly=True):
            return "indices must ascend within the rows"
        return ""

    def _csr_problem(self) -> str:
        if len(self.shape) != 2 or self.indptr is None:
            return "must have 2 dimensions and indptr"
        if self.data.shape != self.indices.shape:
            return f"data of shape {self.data.shape} must be like indices {self.indices.shape}"
        if len(self.indptr) != self.shape[0] + 1:
            return f"indptr has {len(self.indptr)} entries instead of {self.shape[0] + 1}"
        bounds = (int(self.indptr[0]), int(self.indptr[-1]))
        if bounds != (0, len(self.indices)) or not _ascends(self.indptr, strictly=False):
            return f"indptr must ascend from 0 to {len(self.indices)}"
        if not _within(self.indices, self.shape[1]):
            return "indices must lie within the columns"
        return ""


def _within(indices: np.ndarray, size: int) -> bool:
    return not len(indices) or (int(indices.min()) >= 0 and int(indices.max()) < size)


def _ascends(values: np.ndarray, *, strictly: bool) -> bool:
    # Compared, not subtracted: a difference of unsigned or extreme values wraps around.
    later, earlier = values[1:], values[:-1]
    return bool(np.all(later > earlier if strictly else later >= earlier))
