"""The threads that compiled code uses, and those that are inside it when the process forks or ends.

TVM gives every thread that calls compiled code worker threads of its own, by default one for every
second logical CPU, and pins the calling thread and its workers to cores. Here the number is a
setting, and nothing is pinned.

TVM's workers also spin before they sleep, 300 000 times, even when the thread they belong to has
ended: on a busy machine, threads that end leave spinning workers behind for minutes. Here they spin
50 times, which serves calls one after another as well (45 us each for a small LSTM, 62 us without
spinning); after a pause of 1 ms, waking them takes about 25 us more.

A forked process has none of its parent's workers. Models work in it all the same, but a child whose
parent had called a model with several threads must end with ``os._exit``, as those that
``multiprocessing`` forks do: at a normal exit TVM waits for the workers that are not there.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import Any

from gluonlstm.errors import InvalidArgumentError
from gluonlstm.machine import available_cores, available_cpus

VARIABLES = ("GLUONLSTM_NUM_THREADS", "TVM_NUM_THREADS", "OMP_NUM_THREADS")
_ENVIRONMENT = {"TVM_BIND_THREADS": "0", "TVM_THREAD_POOL_SPIN_COUNT": "50"}
_SHARE_ALL_CORES = -3  # TVM's affinity mode: any worker on any of the cores

_LONGEST_WAIT_S = 10

_thread = threading.local()
_forks = 0
_running: list[None] = []  # one item for each call of a model; its methods are atomic
_ending = False


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
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    atexit.register(_wait_for_calls)
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
    # A parallel loop would wait for workers that the parent alone has, so the thread that forked
    # goes on alone; threads started since have workers of their own.
    alone = _thread.pool_forks != _forks
    cpus = [str(cpu) for cpu in available_cpus()]
    cpus = (cpus * -(-_thread.pool_size // len(cpus)))[: _thread.pool_size]
    configure = tvm_ffi.get_global_func("runtime.config_threadpool")
    configure(_SHARE_ALL_CORES, 1 if alone else min(count, _thread.pool_size), cpus)
    _thread.setting = wanted


def enter() -> None:
    """Note that the calling thread begins a call of a model; it must :func:`leave` afterwards.

    Python ends daemon threads when they come back to it after it has begun to end, by unwinding
    their stack. On the way out of C++ that aborts the process (before Python 3.14). So the end
    waits for calls that run (all of a call, since tensors are converted in C++ too), and a daemon
    thread that would begin one then stops here instead.
    """
    _running.append(None)
    if _ending and threading.current_thread().daemon:
        leave()
        threading.Event().wait()


def leave() -> None:
    """Note that the calling thread is back."""
    _running.pop()


def _wait_for_calls() -> None:
    global _ending
    _ending = True
    deadline = time.monotonic() + _LONGEST_WAIT_S
    while _running and time.monotonic() < deadline:
        time.sleep(0.001)


def _after_fork() -> None:
    global _forks
    _forks += 1
    _running.clear()  # of the threads that the child does not have
