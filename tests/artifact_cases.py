"""Artifacts for tests: metadata and weights drawn at random, and small compiled models."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from gluonlstm.artifact import InputInfo, ModelInfo, OutputInfo
from gluonlstm.bfloat16 import STRUCTURED
from gluonlstm.model_info import DTYPES
from gluonlstm.spec import LSTMSpec

ELF = b"\x7fELF"

names = st.text(min_size=1, max_size=8)
sizes = st.one_of(st.integers(0, 2**40), st.sampled_from(["T", "N", "rows"]))
shapes = st.lists(sizes, max_size=4).map(tuple)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # JSON cannot hold a lone surrogate as UTF-8.
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
json_objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)


@st.composite
def inputs(draw):
    role = draw(st.sampled_from(["data", "hidden", "cell", "lengths"]))
    optional = role != "data" and draw(st.booleans())
    return InputInfo(draw(names), draw(shapes), draw(st.sampled_from(DTYPES)), role, optional)


outputs = st.builds(OutputInfo, names, shapes, st.sampled_from(DTYPES))


@st.composite
def model_infos(draw):
    returns = draw(st.sampled_from(["heads", "layer", "torch"]))
    count = {"min_size": 3, "max_size": 3} if returns != "heads" else {"min_size": 1, "max_size": 3}
    spec = LSTMSpec(
        draw(st.integers(1, 9)), draw(st.integers(1, 3)), bidirectional=draw(st.booleans())
    )
    return ModelInfo(
        inputs=tuple(draw(st.lists(inputs(), min_size=1, max_size=4, unique_by=lambda i: i.name))),
        outputs=tuple(draw(st.lists(outputs, **count))),
        returns=returns,
        target={**draw(json_objects), "kind": "llvm", "cpu_features": ["sse2"]},
        spec=draw(st.none() | st.just(spec)),
        plan=tuple(draw(st.lists(json_objects, max_size=2))),
        version=draw(names),
    )


@st.composite
def weights(draw):
    dtype = draw(
        st.sampled_from([np.dtype(name) for name in DTYPES if name != "bfloat16"] + [STRUCTURED])
    )
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=4)))
    size = int(np.prod(shape)) * dtype.itemsize
    array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)
    return draw(
        st.sampled_from([array, np.asfortranarray(array), array[..., ::-1] if shape else array])
    )


codes = st.binary(max_size=200).map(ELF.__add__)


def simple_info(**changes) -> ModelInfo:
    """Return the metadata of a model with one input and one output."""
    fields = {
        "inputs": (InputInfo("x", ("T", "N", 8), "float32"),),
        "outputs": (OutputInfo("y", ("T", "N", 8), "float32"),),
        "returns": "heads",
        "target": {"kind": "llvm", "cpu_features": []},
    }
    return ModelInfo(**{**fields, **changes})
