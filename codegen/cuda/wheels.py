"""Where PyPI's wheels of CUDA put their files."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path


def cuda_folders() -> Iterator[Path]:
    """Yield the folders ``nvidia/cu13`` and the like in site-packages, latest CUDA first."""
    spec = importlib.util.find_spec("nvidia")  # finds, does not import
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(Path(place).glob("cu[0-9]*"), key=_number, reverse=True)


def _number(folder: Path) -> int:
    return int(re.sub(r"\D", "", folder.name))
