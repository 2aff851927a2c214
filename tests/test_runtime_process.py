"""The runtime in processes of its own: what it loads, threads, forks, memory and the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import artifact_cases as cases

pytestmark = pytest.mark.tvm

PREPARE = """
import gc, os, sys, threading, time
from pathlib import Path
import numpy as np
import gluonlstm

x = np.ones((3, 2, 8), "float32")
wanted = x + np.arange(8, dtype="float32")

def loaded(*names):
    maps = Path("/proc/self/maps").read_text()
    return [name for name in names if name in maps]

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    cases.stub_lstm(folder / "layer.so")
    cases.busy(folder / "busy.so")
    return folder


def run(folder, code, **environment):
    """Run code in a new interpreter; return what it printed. Any warning or crash is a failure."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-c", PREPARE + code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


def installed_library() -> Path:
    import tvm

    return Path(tvm.__file__).parent / "lib" / "libtvm_runtime.so"


# --- what is loaded -----------------------------------------------------------------------------


def test_neither_mxnet_nor_the_compiler_nor_torch_is_loaded(folder):
    out = run(folder, """
model = gluonlstm.load("layer.so")
assert (model(x) == wanted).all()
print(sorted({"mxnet", "tvm", "torch"} & sys.modules.keys()))
print(loaded("libtvm_compiler", "libmxnet", "libtorch", "libtvm_runtime", "libtvm_ffi"))
""")  # fmt: skip
    assert out.splitlines() == ["[]", "['libtvm_runtime', 'libtvm_ffi']"]


USE_TVM = """
import tvm
maps = Path("/proc/self/maps").read_text().splitlines()
assert len({line.split()[-1] for line in maps if "libtvm_runtime.so" in line}) == 1
assert "libtvm_compiler.so" in str(maps)
"""


@pytest.mark.parametrize("first", ["runtime", "tvm"])
def test_tvm_may_be_imported_before_and_after(folder, first):
    load = "model = gluonlstm.load('layer.so')\n"
    use = """
assert (model(x) == wanted).all()
assert isinstance(model(x, results="dlpack"), tvm.runtime.Tensor)
"""
    run(folder, (load + USE_TVM if first == "runtime" else USE_TVM + load) + use)


@pytest.mark.torch
def test_torch_may_be_imported_later(folder):
    code = """
model = gluonlstm.load("layer.so")
assert (model(x) == wanted).all()
import torch
for result in (model(torch.from_numpy(x)), model(x, results="torch")):
    assert isinstance(result, torch.Tensor) and (result.numpy() == wanted).all()
"""
    run(folder, code)


def test_results_of_torch_without_torch(folder):
    run(folder, """
model = gluonlstm.load("layer.so")
try:
    model(x, results="torch")
except ImportError as error:
    assert "import it first" in str(error) and isinstance(error, gluonlstm.GluonLSTMError)
else:
    raise AssertionError
assert (model(x) == wanted).all()
""")  # fmt: skip


# --- where the library is found ------------------------------------------------------------------


def test_the_variable_names_the_library(folder, tmp_path):
    copy = Path(shutil.copy(installed_library(), tmp_path))
    code = (
        f"""
model = gluonlstm.load("layer.so")
assert (model(x) == wanted).all()
assert loaded({str(copy)!r})
"""
        + USE_TVM
    )  # a later import of tvm must not load the installed copy, too
    run(folder, code, GLUONLSTM_TVM_RUNTIME=str(copy))


def test_the_library_next_to_the_model(folder, tmp_path):
    copy = Path(shutil.copy(installed_library(), tmp_path))
    shutil.copy(folder / "layer.so", tmp_path)
    run(tmp_path, f"gluonlstm.load('layer.so')(x)\nassert loaded({str(copy)!r})")


def test_a_library_that_is_loaded_is_not_looked_for(folder):
    code = f"""
import ctypes, tvm_ffi
ctypes.CDLL({str(installed_library())!r}, ctypes.RTLD_GLOBAL)
gluonlstm.load("layer.so")(x)
"""
    run(folder, code, GLUONLSTM_TVM_RUNTIME="/nowhere")


REFUSED = """
try:
    gluonlstm.load("layer.so")
except gluonlstm.GluonLSTMError as error:
    assert isinstance(error, ImportError)
    print(error)
"""


def test_a_wrong_variable_is_named(folder, tmp_path):
    out = run(folder, REFUSED, GLUONLSTM_TVM_RUNTIME="/nowhere/at/all")
    assert "GLUONLSTM_TVM_RUNTIME leads to /nowhere/at/all, which is not a file" in out
    (tmp_path / "libtvm_runtime.so").write_text("not a library")
    out = run(folder, REFUSED, GLUONLSTM_TVM_RUNTIME=str(tmp_path))
    assert "cannot be loaded" in out


def test_missing_parts_are_named(folder):
    hide_tvm = """
import importlib.metadata

def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

importlib.metadata.distribution = missing
sys.modules["tvm"] = None
"""
    out = run(folder, hide_tvm + REFUSED)
    assert "libtvm_runtime.so was not found; looked for next to the model" in out
    assert "pip install 'gluonlstm[compile]'" in out
    out = run(folder, "sys.modules['tvm_ffi'] = None" + REFUSED)
    assert "pip install 'gluonlstm[runtime]'" in out


# --- threads ------------------------------------------------------------------------------------


def test_threads_share_a_model(folder):
    run(folder, """
model = gluonlstm.load("layer.so")
wrong = []

def work(seed):
    generator = np.random.default_rng(seed)
    for _ in range(300):
        steps, rows = generator.integers(0, 9, 2)
        data = generator.normal(size=(steps, rows, 8)).astype("float32")
        lengths = generator.integers(0, steps + 1, rows)
        h, c = generator.normal(size=(2, 2, rows, 4)).astype("float32")
        y, states = model(data, (h, c), lengths)
        good = (y == data + np.arange(8, dtype="float32")).all() and (states[1] == c).all()
        good &= np.allclose(states[0], h + 1 + lengths[:, None], atol=1e-5)
        if not good:
            wrong.append(seed)

threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not wrong
""")  # fmt: skip


def test_calls_run_at_the_same_time(folder, tmp_path):
    """Two calls meet inside the compiled code, which they could not if one waited for the other."""
    cases.meeting(tmp_path / "meeting.so")
    run(tmp_path, """
import tvm_ffi
barrier = threading.Barrier(2, timeout=30)

@tvm_ffi.register_global_func("gluonlstm.test.meet")
def meet(array):
    barrier.wait()
    return array

model = gluonlstm.load("meeting.so")
results = []
threads = [threading.Thread(target=lambda: results.append(model(np.ones(3, "float32"))))
           for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert [result.tolist() for result in results] == [[1, 1, 1]] * 2
""")  # fmt: skip


@pytest.mark.parametrize("default", ["0", "1"])
def test_other_threads_run_during_a_call(folder, default):
    """The interpreter's lock is not held, whatever the environment says."""
    run(folder, """
model = gluonlstm.load("busy.so", num_threads=1)
rows = 64
while True:  # as many as take 0.3 s here
    started = time.perf_counter()
    model(np.ones(rows, "float32"))
    if time.perf_counter() - started > 0.3:
        break
    rows *= 2
ticks, stop = [], threading.Event()

def tick():
    while not stop.is_set():
        ticks.append(time.perf_counter())
        time.sleep(0.001)

thread = threading.Thread(target=tick)
thread.start()
started = time.perf_counter()
model(np.ones(rows, "float32"))
ended = time.perf_counter()
stop.set()
thread.join()
during = [moment for moment in ticks if started < moment < ended]
assert len(during) > 10, (ended - started, len(during))
""", TVM_FFI_RELEASE_GIL_BY_DEFAULT=default)  # fmt: skip


def test_number_of_threads(folder):
    run(folder, """
data = np.ones(64, "float32")
before = os.sched_getaffinity(0)

def tasks():
    return len(os.listdir("/proc/self/task"))

one = gluonlstm.load("busy.so", num_threads=1)
three = gluonlstm.load("busy.so", num_threads=3)
assert gluonlstm.load("busy.so").num_threads == 2  # of the environment
start = tasks()
three(data)
assert tasks() == start + 2  # and the calling thread
one(data)
three(data)
assert tasks() == start + 2
assert os.sched_getaffinity(0) == before  # TVM by itself would pin this thread
""", GLUONLSTM_NUM_THREADS="2")  # fmt: skip


def test_one_thread_starts_no_workers(folder):
    run(folder, """
model = gluonlstm.load("busy.so")
start = len(os.listdir("/proc/self/task"))
model(np.ones(64, "float32"))
assert len(os.listdir("/proc/self/task")) == start
""", OMP_NUM_THREADS="1")  # fmt: skip


# --- forks, memory, the end ---------------------------------------------------------------------


def test_a_forked_process_can_call(folder):
    """A parallel loop in the child would wait for ever for workers that only the parent has."""
    out = run(folder, """
import signal, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forking with threads
model = gluonlstm.load("busy.so", num_threads=2)
data = np.arange(8, dtype="float32")
wanted = model(data)
child = os.fork()
if child == 0:
    signal.alarm(60)
    good = [np.array_equal(model(data), wanted)]
    thread = threading.Thread(target=lambda: good.append(np.array_equal(model(data), wanted)))
    thread.start()
    thread.join()
    good.append(gluonlstm.load("layer.so")(x).shape == x.shape)
    print(good, flush=True)
    os._exit(0 if good == [True] * 3 else 1)
_, status = os.waitpid(child, 0)
assert np.array_equal(model(data), wanted)
print(os.waitstatus_to_exitcode(status))
""")  # fmt: skip
    assert out.splitlines() == ["[True, True, True]", "0"]


def test_memory_does_not_grow(folder):
    out = run(folder, """
model = gluonlstm.load("layer.so")
generator = np.random.default_rng(0)
states = [np.ones((2, 2, 4), "float32")] * 2

def calls(count):
    for _ in range(count):
        model(x, states, [1, 2])
        model(x, results="dlpack")
        model(np.ones((generator.integers(50), generator.integers(50), 8), "float32"))
        try:
            model(x[0])
        except ValueError:
            pass

def sizes(count):  # an allocator that keeps every buffer by its size would need 60 MB
    for rows in generator.integers(20_000, size=count):
        model(np.ones((1, rows, 8), "float32"))

def loads(count):
    for _ in range(count):
        gluonlstm.load("layer.so")(x)

def threads(count):
    for _ in range(count):
        thread = threading.Thread(target=model, args=(x,))
        thread.start()
        thread.join()

for work, few, many in ((calls, 500, 3500), (sizes, 20, 200), (loads, 50, 300), (threads, 50, 300)):
    work(few)
    before = resident()
    work(many)
    print(work.__name__, resident() - before)
assert loaded("memfd:gluonlstm")
del model
gc.collect()
assert not loaded("memfd:gluonlstm")  # the code, too
""", GLUONLSTM_NUM_THREADS="1")  # fmt: skip
    for line in out.splitlines():
        growth = int(line.split()[1])
        assert growth < 4e6, out  # one array of each call, or the code of each load: over 10 MB


ENDINGS = {
    "model in a global": "model = gluonlstm.load('layer.so'); y = model(x)",
    "results alone": "y = gluonlstm.load('layer.so')(x)",
    "dlpack results alone": "y = gluonlstm.load('layer.so')(x, results='dlpack')",
    "part of the model": "f = gluonlstm.load('layer.so')._engine.borrow()",
    "a cycle": "a = [gluonlstm.load('layer.so')]; a.append(a); a.append(a[0](x)); del a",
    "in a module": "gluonlstm.kept = gluonlstm.load('layer.so'); sys.kept = gluonlstm.kept(x)",
    "in an exit handler": "import atexit; m = gluonlstm.load('layer.so'); atexit.register(m, x)",
    "an error kept": "m = gluonlstm.load('layer.so')\n"
    "try:\n m(x[0])\nexcept ValueError as e:\n sys.kept = e",
    "workers": "m = gluonlstm.load('busy.so', num_threads=3); y = m(np.ones(9, 'float32'))",
    "workers of a thread": "m = gluonlstm.load('busy.so', num_threads=3)\n"
    "t = threading.Thread(target=m, args=(np.ones(9, 'float32'),)); t.start(); t.join()",
    "a call that goes on": "m = gluonlstm.load('busy.so', num_threads=2)\n"
    "def forever():\n while True: m(np.ones(999, 'float32'))\n"
    "threading.Thread(target=forever, daemon=True).start(); time.sleep(0.2)",
    "deleted, then used": "m = gluonlstm.load('layer.so'); y = m(x, results='dlpack'); del m\n"
    "gc.collect(); assert (np.from_dlpack(y) == wanted).all()",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_ends_cleanly(folder, ending):
    run(folder, ENDINGS[ending])
