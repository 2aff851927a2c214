"""Break a CUDA source on purpose, one synchronisation at a time: a good test fails on each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.emulator import asm_statements
from tests.emulator.source_text import Function, closing, functions, line_of, masked


@dataclass(frozen=True)
class Mutation:
    """A source with one thing removed or weakened."""

    description: str  # what, and in which line of which function
    source: str
    kind: str  # "removed" or "weakened"


# Statements that only order threads or memory; each is removed as a whole.
_CALLS = (
    r"__syncthreads",
    r"__syncwarp",
    r"__threadfence(?:_block|_system)?",
    r"__cluster_barrier_(?:arrive|arrive_relaxed|wait)",
    r"[\w:]*\bthis_(?:grid|cluster|thread_block)\s*\(\s*\)\s*\.\s*(?:sync|barrier_arrive|barrier_wait)",
)
_CALL = re.compile(rf"(?<![\w.])(?:{'|'.join(_CALLS)})\s*\(")
# PTX that orders, or waits for, something.
_ORDERING = re.compile(
    r"\b(?:bar\.|barrier\.|fence\.(?!proxy|mbarrier_init)|membar\.|cp\.async\.(?:bulk\.)?wait_|"
    r"mbarrier\.(?:try_wait|test_wait)|griddepcontrol\.wait)"
)
_WEAKER = (  # what a stronger spelling becomes
    (re.compile(r"\b(ld)\.acquire\b"), r"\1.relaxed", "acquire becomes relaxed"),
    (re.compile(r"\b(st|red|atom)\.release\b"), r"\1.relaxed", "release becomes relaxed"),
    (re.compile(r"\b(red|atom)\.acq_rel\b"), r"\1.relaxed", "acq_rel becomes relaxed"),
    (re.compile(r"\b(atom)\.acquire\b"), r"\1.relaxed", "acquire becomes relaxed"),
    (re.compile(r"\b(barrier\.cluster\.arrive)\.release\b"), r"\1.relaxed",
     "release becomes relaxed"),
    (re.compile(r"\b((?:ld|st|red|atom)\.(?:acquire|release|acq_rel))\.(?:gpu|cluster|sys)\b"),
     r"\1.cta", "scope becomes cta"),
)  # fmt: skip


def mutations(source: str) -> list[Mutation]:
    """Every source that lacks one barrier, fence or wait, or has one atomic access weaker.

    Calls of helper functions that only synchronise (TVM's `tvm_builtin_cuda_cta_sync`, say, or a
    grid barrier given as source) are removed one by one, too, as are the synchronisations inside
    of those helpers. Atomic accesses are not removed, since mostly they also count something; their
    release, acquire and scope are weakened.
    """
    mask = masked(source)
    bodies = functions(source, mask)
    helpers = _synchronizing_helpers(source, mask, bodies)
    found: dict[str, Mutation] = {}
    for function in bodies:
        if function.name in helpers and function.name.startswith("tvm_builtin_"):
            continue  # TVM's own wrappers are removed where they are called
        for start, end, what in _removable(source, mask, function, helpers):
            line = line_of(source, start)
            text = source[:start] + ";" + "\n" * source.count("\n", start, end) + source[end:]
            _add(found, f"{function.name}, line {line}: without {what}", text, "removed")
    for start, end, template, what in _weakened(source):
        function = next((f.name for f in bodies if f.start <= start < f.end), "the file")
        text = source[:start] + template + source[end:]
        _add(found, f"{function}, line {line_of(source, start)}: {what}", text, "weakened")
    return list(found.values())


def _add(found: dict[str, Mutation], description: str, source: str, kind: str) -> None:
    while description in found:  # two in one line
        description += " (next)"
    found[description] = Mutation(description, source, kind)


def _synchronizing_helpers(source: str, mask: str, bodies: list[Function]) -> set[str]:
    """Functions that are no kernels and in which nothing but synchronisation happens."""
    helpers: set[str] = set()
    grown = True
    while grown:
        grown = False
        for function in bodies:
            if function.is_kernel or function.name in helpers:
                continue
            if _only_synchronizes(source, mask, function, helpers):
                helpers.add(function.name)
                grown = True
    return helpers


def _only_synchronizes(source: str, mask: str, function: Function, helpers: set[str]) -> bool:
    if not re.search(r"\bvoid\b", function.head):
        return False
    if not any(True for _ in _removable(source, mask, function, helpers)):
        return False
    # Writing to memory, other than by an atomic, is more than synchronising.
    body = mask[function.body : function.end]
    return not re.search(r"\]\s*=[^=]|[;{}]\s*\*+\s*[\w(]", body)


def _removable(
    source: str, mask: str, function: Function, helpers: set[str]
) -> Iterator[tuple[int, int, str]]:
    """(start, end, text) of the statements of a function that only synchronise."""
    start = function.body
    calls = list(_CALL.finditer(mask, start, function.end))
    for name in helpers - {function.name}:
        calls += re.compile(rf"(?<![\w.]){re.escape(name)}\s*\(").finditer(
            mask, start, function.end
        )
    for match in calls:
        end = _statement_end(mask, closing(mask, match.end() - 1) + 1)
        if end is not None:
            text = " ".join(source[match.start() : end].split())
            yield match.start(), end, f"`{text[:80]}`"
    for statement in asm_statements.statements(source[: function.end]):
        if statement.start >= start and _ORDERING.search(statement.template):
            end = _statement_end(mask, statement.end)
            if end is not None:
                template = " ".join(statement.template.split())
                yield statement.start, end, f"`{template[:80]}`"


def _statement_end(mask: str, position: int) -> int | None:
    """Behind the semicolon that follows; None if the call is part of an expression."""
    match = re.compile(r"\s*;").match(mask, position)
    return match.end() if match else None


def _weakened(source: str) -> Iterator[tuple[int, int, str, str]]:
    """(start, end, new text, what) for asm statements, whose PTX text is replaced in place."""
    for statement in asm_statements.statements(source):
        text = source[statement.start : statement.end]
        for pattern, replacement, what in _WEAKER:
            if pattern.search(statement.template):
                changed = pattern.sub(replacement, text)
                if changed != text:
                    name = " ".join(pattern.search(statement.template).group().split())
                    yield statement.start, statement.end, changed, f"`{name}`: {what}"
