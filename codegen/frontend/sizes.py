"""Sizes of dimensions while they are being inferred: equal ones are joined, known ones fixed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias


class Size:
    """A size that is not known yet.

    ``letter`` is what it is called if it stays free; without one it takes that of a size that it
    is joined with.
    """

    __slots__ = ("_link", "letter")

    def __init__(self, letter: str = "") -> None:
        self.letter = letter
        self._link: Size | int | None = None  # what this one turned out to equal

    def __repr__(self) -> str:
        end = resolve(self)
        return str(end) if isinstance(end, int) else end.letter or "?"


ANONYMOUS = "S"  # what a free size is called that has no letter

SizeLike: TypeAlias = Size | int
Shape: TypeAlias = tuple[SizeLike, ...]


def resolve(size: SizeLike) -> SizeLike:
    """Return the number that a size turned out to be, or the one Size that stands for its class."""
    while isinstance(size, Size) and size._link is not None:
        size = size._link
    return size


def unify(left: SizeLike, right: SizeLike) -> bool:
    """Make two sizes equal from now on; False if they are different numbers."""
    left, right = resolve(left), resolve(right)
    if left is right:
        return True
    if not isinstance(left, Size):
        left, right = right, left
    if not isinstance(left, Size):
        return left == right
    if isinstance(right, Size) and not right.letter:
        right.letter = left.letter
    left._link = right
    return True


def unify_shapes(left: Sequence[SizeLike], right: Sequence[SizeLike]) -> bool:
    """Make two shapes equal from now on; False if their ranks or known sizes differ."""
    return len(left) == len(right) and all(unify(a, b) for a, b in zip(left, right, strict=True))


class Letters:
    """Names for the sizes that stay free: the hint, numbered where another size has it already."""

    def __init__(self) -> None:
        self._names: dict[Size, str] = {}

    def shape(self, sizes: Iterable[SizeLike]) -> tuple[int | str, ...]:
        """Return a shape whose free sizes are letters; equal letters are equal sizes."""
        return tuple(self._name(size) for size in sizes)

    def _name(self, size: SizeLike) -> int | str:
        size = resolve(size)
        if isinstance(size, int):
            return size
        if size not in self._names:
            letter = size.letter or ANONYMOUS
            taken, name, number = set(self._names.values()), letter, 2
            while name in taken:
                name, number = f"{letter}{number}", number + 1
            self._names[size] = name
        return self._names[size]
