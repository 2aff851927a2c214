"""Attribute strings of every MXNet version -> Python values, or a reason why not."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="tvm is not installed")

from gluonlstm.codegen.frontend.attributes import Attributes, Unsupported

pytestmark = pytest.mark.tvm


def of(text):
    return Attributes({"key": text})


@pytest.mark.parametrize("text", ["True", "true", "TRUE", "1", " true "])
def test_true(text):
    assert of(text).boolean("key") is True


@pytest.mark.parametrize("text", ["False", "false", "0"])
def test_false(text):
    assert of(text).boolean("key") is False


@given(st.lists(st.integers(-(10**9), 10**9), max_size=5), st.data())
def test_shapes_in_every_spelling(sizes, data):
    left, right = data.draw(st.sampled_from(["()", "[]"]))
    suffix = data.draw(st.sampled_from(["", "L"]))
    gap = data.draw(st.sampled_from(["", " "]))
    text = f",{gap}".join(f"{size}{suffix}" for size in sizes)
    trailing = "," if len(sizes) == 1 and data.draw(st.booleans()) else ""
    assert of(f"{left}{text}{trailing}{right}").shape("key") == tuple(sizes)


@given(st.integers(-(10**17), 10**17))
def test_integers(value):
    assert of(str(value)).integer("key") == value
    assert of(f"{value}L").integer("key") == value
    assert of(str(value)).shape("key") == (value,)


@given(st.floats(allow_nan=False))
def test_numbers(value):
    assert of(repr(value)).number("key") == value


@given(st.text(max_size=12))
def test_any_text_gives_a_value_or_the_one_error(text):
    for read in ("integer", "number", "boolean", "shape"):
        with contextlib.suppress(Unsupported):
            getattr(of(text), read)("key")


@pytest.mark.parametrize("attrs", [{}, {"key": "None"}])
def test_defaults(attrs):
    attributes = Attributes(attrs)
    assert attributes.integer("key", 7) == 7
    assert attributes.integer("key", None) is None
    assert attributes.number("key", 0.5) == 0.5
    assert attributes.boolean("key", True) is True
    assert attributes.shape("key", None) is None
    assert attributes.word("key", ("a", "b"), "b") == "b"
    for read in (attributes.integer, attributes.number, attributes.boolean, attributes.shape):
        with pytest.raises(Unsupported, match="lacks the attribute key"):
            read("key")
    with pytest.raises(Unsupported, match="lacks the attribute key"):
        attributes.word("key", ("a",))


@pytest.mark.parametrize("text", ["1.5", "1e3", "1_0", "", "(1,)", "٣", "9" * 40])
def test_what_is_no_integer(text):
    with pytest.raises(Unsupported, match="must be an integer"):
        of(text).integer("key")


@pytest.mark.parametrize("text", ["(1,,2)", "(1", "1.0", "(a)", "(1, 2, x)", str((1,) * 33)])
def test_what_is_no_shape(text):
    with pytest.raises(Unsupported, match="must be a tuple"):
        of(text).shape("key")


def test_attributes_that_nobody_read_are_refused():
    attributes = Attributes({"b": "2", "a": "1", "c": "3", "__shape__": "(1,)", "d": "4"})
    attributes.integer("c")
    attributes.ignore("d", "absent")
    with pytest.raises(Unsupported, match=r"unknown attribute\(s\) a='1', b='2'$"):
        attributes.finish()
    attributes.ignore("a", "b")
    attributes.finish()
