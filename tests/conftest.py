"""Shared fixtures, and one rule: a test that needs an absent optional part skips and says why."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

OPTIONAL = {"mxnet": "mxnet", "tvm": "tvm", "torch": "torch"}  # marker -> module it needs

settings.register_profile(
    "default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
# CI judges a change, not the luck of a draw: the same examples every time there.
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden/")


def pytest_collection_modifyitems(items):
    for item in items:
        for marker, module in OPTIONAL.items():
            if item.get_closest_marker(marker) and importlib.util.find_spec(module) is None:
                reason = f"{module} is not installed"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def golden(request):
    """Compare text with tests/golden/<test file>/<test name>.txt; --update-golden rewrites it."""
    here = Path(__file__).parent
    path = here / "golden" / request.path.stem / f"{request.node.name}.txt"

    def check(actual: str) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(actual)
        if not path.exists():
            pytest.fail(f"no golden file {path}; run pytest --update-golden and review the diff")
        assert actual == path.read_text()

    return check
