"""Look at C++ text without parsing it: strings and comments aside, brackets matched."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_SKIPPED = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | R"(\w*)\(.*?\)\1" | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])+'""",
    re.DOTALL | re.VERBOSE,
)
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def masked(text: str) -> str:
    """The text with all strings, characters and comments blanked; offsets stay the same."""
    return _SKIPPED.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def closing(mask: str, opening: int) -> int:
    """The offset of the bracket that closes the one at `opening`, in masked text."""
    depth = 0
    for match in re.compile(r"[()\[\]{}]").finditer(mask, opening):
        depth += 1 if match.group() in _PAIRS else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"unbalanced bracket in line {line_of(mask, opening)}")


def split(text: str, mask: str, separator: str) -> list[tuple[str, str]]:
    """Split (text, mask) at a separator that is in no bracket."""
    parts, depth, start = [], 0, 0
    i = 0
    while i < len(mask):
        if mask[i] in _PAIRS:
            depth += 1
        elif mask[i] in _PAIRS.values():
            depth -= 1
        elif depth == 0 and mask.startswith(separator, i):
            parts.append((text[start:i], mask[start:i]))
            start = i + len(separator)
        i += 1
    parts.append((text[start:], mask[start:]))
    return parts


def line_of(text: str, offset: int) -> int:
    """The number of the line that holds an offset, from 1."""
    return text.count("\n", 0, offset) + 1


@dataclass
class Edits:
    """Replacements of parts of one text, put in all at once; lines keep their numbers."""

    text: str
    changes: list[tuple[int, int, str]] = field(default_factory=list)

    def replace(self, start: int, end: int, new: str) -> None:
        missing = self.text.count("\n", start, end) - new.count("\n")
        if missing < 0:
            raise ValueError(f"the replacement has more lines: {new!r}")
        self.changes.append((start, end, new + "\n" * missing))

    def apply(self) -> str:
        parts, done = [], 0
        for start, end, new in sorted(self.changes):
            if start < done:
                raise ValueError(f"overlapping edits at line {line_of(self.text, start)}")
            parts += [self.text[done:start], new]
            done = end
        return "".join([*parts, self.text[done:]])


@dataclass(frozen=True)
class Function:
    """A function definition outside of any other."""

    name: str
    head: str  # from the end of the previous declaration to the parameters
    parameters: str
    start: int  # of the head
    body: int  # of its opening brace
    end: int  # behind its closing brace

    @property
    def is_kernel(self) -> bool:
        return "__global__" in self.head


_HEAD = re.compile(r"\b([A-Za-z_]\w*)\s*\(")


def functions(text: str, mask: str | None = None) -> list[Function]:
    """All function definitions at the top level (or in `extern "C" {}` or a namespace)."""
    mask = masked(text) if mask is None else mask
    # A preprocessor line is no part of a declaration.
    mask = re.sub(r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", lambda m: re.sub(r"[^\n]", " ", m.group()),
                  mask, flags=re.MULTILINE)  # fmt: skip
    found: list[Function] = []
    _collect(text, mask, 0, len(mask), found)
    return found


def _collect(text: str, mask: str, position: int, end: int, found: list[Function]) -> None:
    start = position
    while position < end:
        c = mask[position]
        if c == ";":
            start = position + 1
        elif c in "([":
            position = closing(mask, position)
        elif c == "{":
            close = closing(mask, position)
            head_mask = mask[start:position]
            function = _function(text, mask, start, position, close + 1)
            if function:
                found.append(function)
                start = close + 1
            elif re.search(r"\b(namespace|extern)\b", head_mask):
                _collect(text, mask, position + 1, close, found)
                start = close + 1
            position = close
        position += 1


def _function(text: str, mask: str, start: int, body: int, end: int) -> Function | None:
    """The last `name(...)` before the body; attributes with brackets come before the name."""
    last = None
    at = start
    while match := _HEAD.search(mask, at, body):
        close = closing(mask, match.end() - 1)
        last = (match, close)
        at = close + 1
    if last is None or mask[last[1] + 1 : body].strip() not in ("", "const", "noexcept"):
        return None
    match, close = last
    parameters = text[match.end() : close]
    return Function(match.group(1), text[start : match.start()], parameters, start, body, end)
