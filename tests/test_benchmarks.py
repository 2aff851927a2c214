"""The benchmark itself: its timer, cases, costs, limits, report, and one tiny run. No times."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import cases, driver, host, limits, oracle, results, worker
from benchmarks import peers as peers_package
from benchmarks.cases import Case
from benchmarks.limits import Limits
from benchmarks.peers import MODULES, OURS, Prepared
from benchmarks.results import Measurement, Results
from gluonlstm import LSTMSpec, timer
from gluonlstm.bench import random_inputs
from gluonlstm.errors import InvalidArgumentError
from gluonlstm.model_info import InputInfo, ModelInfo, OutputInfo

TINY = Case("tiny", T=3, N=2, C=16, H=16)

times = st.floats(1e-7, 10)


# --- timer -------------------------------------------------------------------------------------


@given(times, times)
def test_schedule_fills_the_budget_within_its_bounds(estimate_s, budget_s):
    plan = timer.schedule(estimate_s, budget_s)
    assert 1 <= plan.warm_ups <= timer.MOST_SAMPLES
    assert timer.FEWEST_SAMPLES <= plan.samples <= timer.MOST_SAMPLES
    if timer.FEWEST_SAMPLES < plan.samples < timer.MOST_SAMPLES:
        assert abs(plan.samples - budget_s / estimate_s) <= 1


def test_measure_calls_as_often_as_scheduled():
    calls = []
    samples = timer.measure(lambda: calls.append(0), budget_s=0.5, estimate_s=0.05)
    assert (len(samples), len(calls)) == (10, 12)  # and two warm-ups
    assert all(sample >= 0 for sample in samples)


def test_estimate_stops_at_its_budget_and_ignores_the_first_call(monkeypatch):
    clock = iter([5.0, 0.1, 0.2, 0.3, 0.4])
    monkeypatch.setattr(timer, "time_once", lambda call: next(clock))
    assert timer.estimate(print, calls=4, budget_s=6) == 0.1
    assert timer.estimate(print, calls=5, budget_s=0.2) == 0.4


@given(st.lists(st.lists(times, min_size=1, max_size=9), min_size=1, max_size=5))
def test_summary(blocks):
    summary = timer.summarise(blocks)
    samples = np.concatenate(blocks)
    assert summary.samples == samples.size
    assert summary.fastest_s == samples.min()
    assert summary.median_s == np.median([np.median(block) for block in blocks])
    np.testing.assert_allclose(
        (summary.low_s, summary.high_s), np.quantile(samples, [0.1, 0.9]), rtol=1e-9
    )


@pytest.mark.parametrize("blocks", [[], [[1.0], []]])
def test_nothing_cannot_be_summarised(blocks):
    with pytest.raises(ValueError, match="samples in every block"):
        timer.summarise(blocks)


def test_geometric_mean():
    assert timer.geometric_mean([2.0, 8.0]) == pytest.approx(4)
    assert math.isnan(timer.geometric_mean([]))


# --- cases and what they cost ------------------------------------------------------------------


def test_grids_are_of_valid_cases_with_names_of_their_own():
    assert len(cases.ten()) == 10
    everything = cases.grid("all")
    assert len({case.name for case in everything}) == len(everything)
    assert all(case.source for case in everything)
    assert {case.H for case in everything} >= {200, 512, 650, 1024, 1500, 2048}
    assert any(case.clip and case.P for case in everything)
    with pytest.raises(ValueError, match="no grid 'none'"):
        cases.grid("none")


@pytest.mark.parametrize("size", [{"T": 0}, {"D": 3}, {"P": -1}, {"clip": -1.0}])
def test_impossible_cases_are_refused(size):
    with pytest.raises(ValueError, match="T="):
        Case(**{"name": "x", "T": 1, "N": 1, "C": 1, "H": 1, **size})


def test_cost_by_hand():
    """T=5, N=3, C=7, H=4, P=2, two directions, two layers."""
    case = Case("hand", T=5, N=3, C=7, H=4, L=2, D=2, P=2)
    first, second = case.layers()
    # 2 directions of (16, 7), then of (16, 4), because a layer's output has D * P = 4 columns.
    assert first.input_weight_bytes == 4 * 2 * 16 * 7 == 896
    assert second.input_weight_bytes == 4 * 2 * 16 * 4 == 512
    assert first.input_flops == 2 * 5 * 3 * 2 * 16 * 7 == 6720
    # 2 directions of (16, 2) and of the projection (2, 4).
    assert first.step_weight_bytes == second.step_weight_bytes == 4 * 2 * (16 * 2 + 2 * 4) == 320
    assert first.step_flops == 2 * 3 * 2 * (16 * 2 + 2 * 4) == 480
    assert case.flops == 6720 + 3840 + 2 * 5 * 480
    assert case.weight_bytes == 896 + 512 + 2 * 320


@given(*[st.integers(1, 9)] * 5, st.integers(1, 2), st.integers(0, 5))
def test_weights_have_the_bytes_that_are_counted(T, N, C, H, L, D, P):
    case = Case("any", T, N, C, H, L, D, P)
    weights = case.weights()
    matrices = [array for array in weights.values() if array.ndim == 2]
    assert case.weight_bytes == sum(array.nbytes for array in matrices)
    assert case.flops == 2 * T * N * sum(array.size for array in matrices)
    assert weights.keys() == {parameter.name for parameter in case.spec.parameters()}
    assert case.data().shape == (T, N, C)


def test_every_process_makes_the_same_values():
    again = Case(**json.loads(json.dumps(TINY.to_dict())))
    np.testing.assert_array_equal(TINY.data(), again.data())
    for name, array in TINY.weights().items():
        np.testing.assert_array_equal(array, again.weights()[name])


# --- limits ------------------------------------------------------------------------------------

ROUND = Limits(2, fma_gflops=100.0, read=((1 << 10, 400.0), (1 << 20, 100.0), (1 << 25, 10.0)))


def test_bandwidth_is_interpolated_over_the_logarithm_of_the_size():
    assert ROUND.read_gb_per_s(1) == ROUND.read_gb_per_s(1 << 10) == 400
    assert ROUND.read_gb_per_s(1 << 15) == pytest.approx(250)  # half-way from 2^10 to 2^20
    assert ROUND.read_gb_per_s(1 << 20) == pytest.approx(100)
    assert ROUND.read_gb_per_s(1 << 30) == 10  # larger than anything measured


def test_roofline_by_hand():
    """One step at a time is limited by reading weights, many rows by multiplying."""
    alone = Case("alone", T=10, N=1, C=256, H=256)
    # 1 MiB of input weights and as much of recurrent ones: 2^19 bytes a thread, so 130 GB/s.
    assert alone.layers()[0].step_weight_bytes == 1 << 20
    assert ROUND.read_gb_per_s(1 << 19) == pytest.approx(130)
    least = limits.bound(alone, ROUND)
    assert least.input_s == pytest.approx(max(2 * 10 * (1 << 18) / 1e11, (1 << 20) / 1.3e11))
    assert least.steps_s == pytest.approx(10 * (1 << 20) / 1.3e11)
    assert least.limit == "weights"
    many = limits.bound(Case("many", T=10, N=64, C=256, H=256), ROUND)
    assert many.steps_s == pytest.approx(10 * 64 * 2 * (1 << 18) / 1e11)
    assert many.total_s == pytest.approx(2 * many.steps_s)
    assert many.limit == "FMA"


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler cc")
def test_limits_are_measured(monkeypatch):
    monkeypatch.setattr(limits, "SIZES_BYTES", (1 << 14, 1 << 18))
    monkeypatch.setattr(limits, "ROUND_MS", 0.5)
    cpus = host.cores()
    alone, all_cores = limits.measure([cpus[:1], cpus])
    assert (alone.threads, all_cores.threads) == (1, len(cpus))
    for found in (alone, all_cores):
        assert found.fma_gflops > 0
        assert [size for size, rate in found.read if rate > 0] == [1 << 14, 1 << 18]


def test_no_compiler_is_an_error_that_says_so():
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        list(limits.measure([[0]], compiler="no-such-compiler"))


def test_what_other_processes_took():
    before = host.Usage(at_s=0, all_s=100, stolen_s=1, own_s=50)
    cpus = host.os.cpu_count()
    after = host.Usage(at_s=10, all_s=100 + 8 * cpus, stolen_s=1 + cpus, own_s=50 + 4 * cpus)
    assert host.others_share(before, after) == pytest.approx(0.5)
    assert host.others_share(None, after) is None
    assert host.others_share_of_block(before, after, own_s=9 * cpus) == pytest.approx(0)
    assert host.others_share_of_block(before, after, own_s=0) == pytest.approx(0.9)
    assert host.others_share_of_block(None, after, own_s=0) is None


# --- checking ----------------------------------------------------------------------------------


def test_largest_error():
    wanted = oracle.Expected({"y": np.ones((2, 3)), "h": np.zeros(2)}, oracle.REFERENCE)
    y = np.ones((2, 3), np.float32)
    assert oracle.largest_error({"y": y}, wanted) == 0
    assert oracle.largest_error({"y": y, "h": np.float32([0, -0.5])}, wanted) == 0.5
    for wrong in ({}, {"y": y[:1]}, {"y": y * np.nan}):
        assert oracle.largest_error(wrong, wanted) == np.inf


@pytest.mark.torch
def test_both_oracles_agree(monkeypatch):
    case = Case("both", T=4, N=3, C=5, H=6, L=2, D=2, P=4)
    right = oracle.expected(case)
    monkeypatch.setattr(oracle, "MOST_REFERENCE_FLOPS", 0)
    other = oracle.expected(case)
    assert (right.oracle, other.oracle) == (oracle.REFERENCE, oracle.TORCH)
    for name, array in right.outputs.items():
        np.testing.assert_allclose(other.outputs[name], array, atol=1e-12)
    assert oracle.choose(Case("clip", 4, 3, 5, 6, clip=1.0)) == oracle.REFERENCE


class FakePeer:
    """A peer that computes y = 2 for every case but those with a projection."""

    def version(self):
        raise ModuleNotFoundError("No module named 'fake'")

    def refuses(self, case):
        return "no projections" if case.P else ""

    def prepare(self, case, weights, data, threads):
        y = np.full((case.T, case.N, case.H), 2, np.float32)
        return Prepared(lambda: y, lambda: {"y": y})


class InProcess:
    """Stands in for a PeerProcess."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(peers_package, "load", lambda name: FakePeer())
        self.peer, self._worker = "fake", worker.Worker("fake", 1)

    def ask(self, op, **request):
        return self._worker.answer(json.loads(json.dumps({"op": op, **request})))


def run_fake(monkeypatch, case, y):
    blocks = []
    wanted = oracle.Expected({"y": y}, "hand")
    [found] = driver.run_case(
        case,
        1,
        {"fake": InProcess(monkeypatch)},
        wanted,
        rounds=2,
        block_s=0.001,
        progress=blocks.append,
    )
    assert blocks == ["fake"] * 3
    return found


def test_a_right_peer_is_timed(monkeypatch):
    found = run_fake(monkeypatch, TINY, np.full((3, 2, 16), 2.0))
    assert (found.error, found.oracle, found.reason) == (0, "hand", "")
    assert len(found.blocks_s) == len(found.others_shares) == 2
    assert all(share is None or 0 <= share <= 1 for share in found.others_shares)
    assert found.summary.samples == sum(map(len, found.blocks_s))


def test_a_wrong_peer_is_not_timed(monkeypatch):
    found = run_fake(monkeypatch, TINY, np.full((3, 2, 16), 2.001))
    assert found.reason.startswith("wrong: off by 1.0e-03")
    assert (found.blocks_s, found.summary) == ([], None)


def test_a_refused_case_is_not_timed(monkeypatch):
    found = run_fake(monkeypatch, Case("p", 1, 1, 1, 1, P=1), np.zeros(1))
    assert (found.reason, found.error, found.blocks_s) == ("no projections", None, [])


def test_a_worker_says_what_failed(monkeypatch):
    peer = InProcess(monkeypatch)
    assert peer.ask("version") == {"error": "ModuleNotFoundError: No module named 'fake'"}
    assert peer.ask("time", budget_s=1) == {"error": "RuntimeError: no case is loaded."}


def test_a_process_that_dies_is_reported():
    with driver.peer_processes(["no-such-peer"], 1) as processes:
        answer = processes["no-such-peer"].ask("version")
    assert answer["error"].startswith("its process ended with 1: KeyError: 'no-such-peer'")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells that a parent has died")
def test_no_worker_is_left_behind(tmp_path):
    """Not even a stopped one, when the driver is killed."""
    script = (
        "import os, pathlib, sys; from benchmarks.driver import PeerProcess;"
        "peer = PeerProcess('torch', 1, pathlib.Path(sys.argv[1]));"
        "peer.ask('time', budget_s=1); print(peer._process.pid, flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    done = subprocess.run(command, cwd=driver.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    process = Path("/proc", done.stdout.strip(), "cmdline")
    for _ in range(200):
        if not process.exists() or not process.read_bytes():  # gone, or a zombie
            return
        time.sleep(0.05)
    pytest.fail(f"process {done.stdout} still runs")


# --- report ------------------------------------------------------------------------------------


def canned() -> Results:
    """Make results by hand: one case that everyone computes, one that some do not."""
    plain = Case("plain", T=10, N=1, C=256, H=256)
    clipped = Case("clipped", T=10, N=4, C=64, H=128, L=2, D=2, P=32, clip=3.0)
    ours = [[90e-6, 100e-6, 130e-6], [100e-6, 110e-6, 120e-6]]

    def times(factor):
        return [[factor * sample for sample in block] for block in ours]

    def right(peer, case, factor):
        shares = [0.01, None if peer == "mxnet" else 0.4]
        return Measurement(peer, case, 2, times(factor), shares, 3e-8, oracle.REFERENCE)

    no_clip = Measurement("torch", clipped, 2, reason="torch.nn.LSTM does not clip states")
    wrong = Measurement("mxnet", clipped, 2, [], [], np.inf, oracle.REFERENCE, reason="wrong: off")
    return Results(
        run={"busy_at_start": True, "load_average_at_start": 3.25, "others_share": 0.4},
        machine={
            "cpu": "Some CPU",
            "cores_used": 2,
            "caches": [{"level": "1", "kind": "Data", "size": "32K", "shared_by_cpus": "0"}],
        },
        peers={
            OURS: {"version": "0.1"},
            "mxnet": {"version": "1.9.1"},
            "torch": {"version": "2.13"},
            "openvino": {"unavailable": "ModuleNotFoundError: No module named 'openvino'"},
        },
        limits=[ROUND],
        measurements=[
            right(OURS, plain, 1),
            right("mxnet", plain, 8),
            right("torch", plain, 0.5),
            right(OURS, clipped, 2),
            wrong,
            no_clip,
        ],
    )


def test_results_survive_json():
    found = canned()
    again = Results.loads(found.dumps())
    assert again == found
    assert json.loads(found.dumps())["measurements"][4]["error"] == "inf"
    with pytest.raises(ValueError, match="format 2, expected 1"):
        Results.loads(found.dumps().replace('"format": 1', '"format": 2'))


@pytest.fixture
def report():
    pytest.importorskip("rich", reason="rich is not installed (pip install gluonlstm[cli])")
    from benchmarks import report

    return report


def printed(renderable) -> str:
    from rich.console import Console

    console = Console(width=140, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(renderable)
    return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def test_report(report, golden):
    golden(printed(report.report(canned())))


def test_ratios(report):
    plain, clipped = report.rows(canned())
    assert plain.best_peer == "torch"
    assert plain.ratio("torch") == pytest.approx(0.5)
    assert plain.ratio("mxnet") == pytest.approx(8)
    assert plain.range == pytest.approx((0.5, 0.5))
    assert plain.share("torch") == pytest.approx(plain.bound.total_s / 52.5e-6)
    assert plain.others == 0.4
    assert (clipped.best_peer, clipped.ratio("mxnet"), clipped.range) == (None, None, None)
    means = report.geometric_means([plain, clipped])
    assert means["best"] == (pytest.approx(0.5), 1)
    assert means["mxnet"] == (pytest.approx(8), 1)


def test_a_quiet_machine_brings_no_warning(report):
    found = canned()
    found.run = {"busy_at_start": False, "load_average_at_start": 0.1, "others_share": 0.01}
    assert report.warnings(found) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5e-6, "2.50 us"), (12.34e-6, "12.3 us"), (0.1234, "123 ms"), (61.5, "61.5 s")],
)
def test_durations(report, seconds, text):
    assert report.duration(seconds) == text


def test_plots(tmp_path, report):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (gluonlstm[bench])")
    from benchmarks import plots

    written = plots.write(canned(), tmp_path)
    assert [path.name for path in written] == ["ratios-2.png", "roofline-2.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


# --- all of it ---------------------------------------------------------------------------------

NEEDS = {"mxnet": "mxnet", "torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}


@pytest.mark.slow
@pytest.mark.tvm
def test_a_tiny_run(tmp_path, report, capsys):
    from benchmarks import cpu

    # Not torch-compile, which takes half a minute to compile anything.
    installed = [name for name, module in NEEDS.items() if importlib.util.find_spec(module)]
    with_onnx = importlib.util.find_spec("onnx") is not None
    command = ["--case", "T=3,N=2,C=16,H=16", "--threads", "1", "--rounds", "1", "--block", "0.001"]
    cpu.main([*command, "--peers", ",".join([OURS, *installed]), "--out", str(tmp_path)])

    found = results.read(tmp_path / "results.json")
    assert [case.name for case in found.cases] == ["T3-N2-C16-H16"]
    timed = {m.peer for m in found.measurements if m.summary and m.oracle == oracle.REFERENCE}
    assert timed == {OURS, *(name for name in installed if with_onnx or not name.startswith("o"))}
    assert statistics.median(found.measurements[0].blocks_s[0]) > 0
    assert found.run["load_average_at_end"] >= 0
    assert "T3-N2-C16-H16" in capsys.readouterr().out


def test_peers_load_without_their_libraries():
    for name in MODULES:
        peer = peers_package.load(name)
        assert peer.refuses(TINY) == ""
    assert peers_package.load("openvino").refuses(Case("p", 1, 1, 1, 1, P=1))


def test_options(report):
    from benchmarks import cpu

    options = cpu._parse(["--shapes", "standard", "--only", "elmo,ds2", "--peers", "torch"])
    assert {case.name.partition("-")[0] for case in options.cases} == {"elmo", "ds2"}
    assert options.peers == [OURS, "torch"]
    assert options.threads[0] == 1
    for wrong in (["--peers", "jax"], ["--threads", "0"], ["--case", "T=1"], ["--only", "nothing"]):
        with pytest.raises(SystemExit):
            cpu._parse(wrong)


# --- gluonlstm bench ---------------------------------------------------------------------------


def model_info(*inputs):
    output = OutputInfo("y", ("T", "N", 4), "float32")
    return ModelInfo(inputs, (output,), "heads", {"kind": "llvm"})


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(["float32", "float64", "int32"]))
def test_random_inputs(steps, batch, dtype):
    info = model_info(
        InputInfo("data", ("T", "N"), dtype),
        InputInfo("h0", (1, "N", 4), "float32", "hidden", optional=True),
        InputInfo("lengths", ("N",), "int32", "lengths", optional=True),
    )
    model = SimpleNamespace(inputs=info.inputs, info=info)
    arrays = random_inputs(model, {"T": steps, "N": batch})
    assert (arrays["data"].shape, str(arrays["data"].dtype)) == ((steps, batch), dtype)
    assert not arrays["h0"].any()
    assert arrays["lengths"].tolist() == [steps] * batch
    for wrong in ({"T": steps}, {"T": 0, "N": 1}, {"T": 1, "N": 1, "S": 1}):
        with pytest.raises(InvalidArgumentError, match="free sizes are N, T, each at least 1"):
            random_inputs(model, wrong)


@pytest.fixture
def command(capsys, report):
    pytest.importorskip("typer", reason="typer is not installed (pip install gluonlstm[cli])")
    from gluonlstm.cli import main

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main(["bench", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


@pytest.mark.tvm
def test_bench_command(tmp_path, command):
    import gluonlstm

    path = tmp_path / "model.so"
    gluonlstm.compile(LSTMSpec(TINY.H, input_size=TINY.C), TINY.weights(), path=path)
    code, out, err = command(path, "--steps", 3, "--batch", 2, "--seconds", 0.01, "--threads", 1)
    assert code == 0, err
    assert "compiled" in out
    assert "MXNet" not in out
    code, _, err = command(path, "--steps", 3)
    assert (code, "free sizes are N, T" in " ".join(err.split())) == (1, True)
    assert command(path, "--symbol", path)[0] == 2
    assert command(path, "--size", "S=x")[0] == 2


@pytest.mark.tvm
@pytest.mark.mxnet
def test_bench_command_beside_mxnet(tmp_path, command):
    import gluonlstm
    from gluonlstm.mxnet_compat import mx

    layer = gluonlstm.LSTM(16, input_size=8)
    layer.initialize()
    layer.hybridize()
    layer(mx.nd.zeros((3, 2, 8)))
    symbol, params = gluonlstm.export(layer, tmp_path / "net")
    path = tmp_path / "model.so"
    gluonlstm.compile(symbol, params, path=path)
    sizes = ("--steps", 3, "--batch", 2, "--seconds", 0.02)
    code, out, err = command(path, *sizes, "--symbol", symbol, "--params", params)
    assert code == 0, err
    assert float(out.rpartition("difference ")[2]) < 1e-6
