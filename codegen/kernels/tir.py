"""TVM's vocabulary for building TIR, as the kernels import it.

Its annotations ask for expressions where it takes Python numbers as well, so it is typed as Any.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx as _tirx
from tvm.tirx.script.builder import ir as _ir

T: Any = _ir  # statements and expressions of the function under construction
tirx: Any = _tirx  # nodes
