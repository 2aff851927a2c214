"""Which CUDA compiler is used: the one that is installed, or another one for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from gluonlstm.errors import InvalidArgumentError, MissingDependencyError

from .compiler import Compiler
from .nvcc import NVCC
from .nvrtc import NVRTC

VARIABLE = "GLUONLSTM_CUDA_COMPILER"
_KINDS = {"nvcc": NVCC, "nvrtc": NVRTC}

_chosen: ContextVar[Compiler | None] = ContextVar("compiler", default=None)


@contextmanager
def using(compiler: Compiler) -> Iterator[None]:
    """Compile with this compiler in the body, in the current thread."""
    token = _chosen.set(compiler)
    try:
        yield
    finally:
        _chosen.reset(token)


def find_compiler() -> Compiler:
    """Return the compiler to use.

    It is nvcc of a CUDA toolkit if there is one (see :mod:`.nvcc` for where it is looked for), else
    NVRTC from PyPI's wheels (see :mod:`.nvrtc`). The environment variable GLUONLSTM_CUDA_COMPILER
    may name one of the two, or the path of an nvcc. Raises MissingDependencyError if there is none.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    wanted = os.environ.get(VARIABLE, "")
    if os.sep in wanted:
        return NVCC(wanted)
    if wanted and wanted not in _KINDS:
        raise InvalidArgumentError(
            f"the environment variable {VARIABLE}={wanted!r} must be one of {tuple(_KINDS)} or the "
            "path of an nvcc."
        )
    reasons = []
    for name, kind in _KINDS.items():
        if wanted in ("", name):
            try:
                return kind.find()
            except MissingDependencyError as error:
                reasons.append(str(error))
    raise MissingDependencyError(
        f"compiling for CUDA needs a CUDA compiler: {'; '.join(reasons)}. Install a CUDA toolkit, "
        "or run: pip install 'gluonlstm[cuda]'"
    )
