"""How many threads compiled code uses.

TVM gives every thread that calls compiled code worker threads of its own, by default one for every
second logical CPU, and pins the calling thread and its workers to cores. Neither suits a library
inside somebody's program: here the number is a setting and nothing is pinned.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from gluonlstm.errors import InvalidArgumentError
from gluonlstm.machine import available_cores, available_cpus

VARIABLES = ("GLUONLSTM_NUM_THREADS", "TVM_NUM_THREADS", "OMP_NUM_THREADS")
_SHARE_ALL_CORES = -3  # TVM's affinity mode: any worker on any of the cores

_thread = threading.local()
_forks = 0


def default_threads() -> int:
    """Return the number of threads to use: the first of VARIABLES that is set, else the cores."""
    for variable in VARIABLES:
        text = os.environ.get(variable, "").split(",")[0].strip()  # OMP_NUM_THREADS may be a list
        if text.isdigit() and int(text) > 0:
            return int(text)
    return available_cores()


def check_count(count: Any) -> int:
    """Return a valid number of threads; None is the default."""
    if count is None:
        return default_threads()
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidArgumentError(f"num_threads={count!r} must be a whole number of at least 1.")
    return count


def prepare() -> None:
    """Set what TVM reads from the environment; called once, before its library is loaded."""
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def use(count: int, tvm_ffi: Any) -> None:
    """Let parallel loops in the calling thread's next calls use ``count`` threads."""
    wanted = (count, _forks)
    if getattr(_thread, "setting", None) == wanted:
        return
    if getattr(_thread, "pool_size", None) is None:
        # The number of workers is fixed when a thread's first call starts them.
        _thread.pool_size = max(count, default_threads())
        _thread.pool_forks = _forks
    # A forked process has none of its parent's workers. A parallel loop would wait for them for
    # ever, so the thread that forked goes on alone; threads started since have their own workers.
    alone = _thread.pool_forks != _forks
    cpus = [str(cpu) for cpu in available_cpus()]
    cpus = (cpus * -(-_thread.pool_size // len(cpus)))[: _thread.pool_size]
    configure = tvm_ffi.get_global_func("runtime.config_threadpool")
    configure(_SHARE_ALL_CORES, 1 if alone else min(count, _thread.pool_size), cpus)
    _thread.setting = wanted


def _after_fork() -> None:
    global _forks
    _forks += 1
