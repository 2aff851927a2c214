"""Operator attributes: the strings of a symbol file -> Python values, as MXNet's parser takes them.

Every version of MXNet that wrote a file is read: booleans as ``True``, ``true`` or ``1``, tuples
with parentheses or brackets and Python 2's ``L``, absent optional values as ``None``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from gluonlstm.symbol import is_hidden

T = TypeVar("T")

MAX_RANK = 32
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}L?", re.ASCII)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_REQUIRED: Any = object()


class Unsupported(Exception):
    """Why one node cannot be lowered; the importer adds the node's name and reports all at once."""


class Attributes:
    """The attributes of one node, read by name; :meth:`finish` refuses what nobody read.

    A method without a ``default`` requires its attribute. All raise Unsupported for a value that
    MXNet would not accept either.
    """

    def __init__(self, attrs: Mapping[str, str]) -> None:
        """Take the file's strings; annotations (``__shape__``) are no operator attributes."""
        self._attrs = {key: value for key, value in attrs.items() if not is_hidden(key)}
        self._read: set[str] = set()

    def integer(self, key: str, default: T = _REQUIRED, least: int | None = None) -> int | T:
        """Read an integer of at least ``least``."""
        text = self._text(key, default)
        if text is None:
            return default
        value = _to_integer(text)
        if value is None or (least is not None and value < least):
            bound = "" if least is None else f" of at least {least}"
            raise Unsupported(f"{key}={text!r} must be an integer{bound}")
        return value

    def number(self, key: str, default: T = _REQUIRED) -> float | T:
        """Read a number; NaN is refused."""
        text = self._text(key, default)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isnan(value):
            raise Unsupported(f"{key}={text!r} must be a number")
        return value

    def boolean(self, key: str, default: bool = _REQUIRED) -> bool:
        """Read a truth value in any of its spellings."""
        text = self._text(key, default)
        if text is None:
            return default
        if text.lower() not in _BOOLEANS:
            raise Unsupported(f"{key}={text!r} must be True or False")
        return _BOOLEANS[text.lower()]

    def word(self, key: str, choices: Sequence[str], default: str = _REQUIRED) -> str:
        """Read one of ``choices``."""
        text = self._text(key, default)
        value = default if text is None else text
        if value not in choices:
            raise Unsupported(f"{key}={value!r} is not supported, only {' or '.join(choices)}")
        return value

    def shape(self, key: str, default: T = _REQUIRED) -> tuple[int, ...] | T:
        """Read a tuple of integers; a bare integer is a tuple of one."""
        text = self._text(key, default)
        if text is None:
            return default
        inner = text
        for left, right in ("()", "[]"):
            if text.startswith(left) and text.endswith(right):
                inner = text[1:-1].strip()
        items = [item.strip() for item in inner.removesuffix(",").split(",")] if inner else []
        values = [_to_integer(item) for item in items[: MAX_RANK + 1]]
        if None in values or len(values) > MAX_RANK:
            raise Unsupported(f"{key}={text!r} must be a tuple of at most {MAX_RANK} integers")
        return tuple(value for value in values if value is not None)

    def ignore(self, *keys: str) -> None:
        """Accept attributes that make no difference at inference."""
        self._read.update(keys)

    def finish(self) -> None:
        """Refuse attributes that were not read: a meaning we don't know can't be honoured."""
        unknown = sorted(self._attrs.keys() - self._read)
        if unknown:
            shown = ", ".join(f"{key}={self._attrs[key]!r}" for key in unknown)
            raise Unsupported(f"has unknown attribute(s) {shown}")

    def _text(self, key: str, default: object) -> str | None:
        """Return the stripped text, or None where the default holds (absent, or ``None``)."""
        self._read.add(key)
        text = self._attrs.get(key, "None").strip()
        if text != "None":
            return text
        if default is _REQUIRED:
            raise Unsupported(f"lacks the attribute {key}")
        return None


def _to_integer(text: str) -> int | None:
    if not _INTEGER.fullmatch(text):
        return None
    return int(text.removesuffix("L"))
