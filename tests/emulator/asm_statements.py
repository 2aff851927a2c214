"""Find `asm` statements in C++ and take them apart."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from tests.emulator.source_text import closing, line_of, masked, split

_ASM = re.compile(r"\b(?:asm|__asm__|__asm)\b(\s*\b(?:volatile|__volatile__|goto)\b)*\s*\(")
_BLANK = r"(?:\s|//[^\n]*|/\*.*?\*/)*"
_STRING = re.compile(rf'{_BLANK}(?:R"(\w*)\((.*?)\)\1"|("(?:\\.|[^"\\\n])*")){_BLANK}', re.DOTALL)
_OPERAND = re.compile(r'\s*(?:\[(\w+)\]\s*)?"([^"]*)"\s*\(')


class AsmSyntaxError(ValueError):
    """An asm statement that is not `asm("template" : outputs : inputs : clobbers)`."""


@dataclass(frozen=True)
class Operand:
    constraint: str  # "=f", "+r", "l", "n"
    expression: str
    name: str | None = None

    @property
    def letter(self) -> str:
        return self.constraint.lstrip("=+&")

    @property
    def written(self) -> bool:
        return self.constraint[0] in "=+"

    @property
    def read(self) -> bool:
        return self.constraint[0] != "="


@dataclass(frozen=True)
class AsmStatement:
    start: int  # offsets in the source, without the semicolon
    end: int
    line: int
    template: str  # with % and brace escapes as the author wrote them
    operands: tuple[Operand, ...]
    extended: bool  # has operand lists: then %% stands for %

    def numbered_template(self) -> str:
        """The template with `%[name]` as `%n` and `%%` as `%`."""
        text = self.template
        for i, operand in enumerate(self.operands):
            if operand.name:
                text = text.replace(f"%[{operand.name}]", f"%{i}")
        return text.replace("%%", "%") if self.extended else text


def statements(source: str) -> list[AsmStatement]:
    """All asm statements of a source, in order."""
    mask = masked(source)
    found = []
    for match in _ASM.finditer(mask):
        opening = match.end() - 1
        close = closing(mask, opening)
        line = line_of(source, match.start())
        sections = split(source[opening + 1 : close], mask[opening + 1 : close], ":")
        template = _template(sections[0][0], line)
        # "::" is two separators; a scope operator in an expression is inside its parentheses.
        operands = [o for section in sections[1:3] for o in _operands(*section, line)]
        found.append(
            AsmStatement(
                match.start(), close + 1, line, template, tuple(operands), len(sections) > 1
            )
        )
    return found


def _template(text: str, line: int) -> str:
    parts, at = [], 0
    while match := _STRING.match(text, at):
        parts.append(match.group(2) if match.group(3) is None else ast.literal_eval(match.group(3)))
        at = match.end()
    if text[at:].strip():
        raise AsmSyntaxError(f"line {line}: the template is not a string literal: {text[at:]!r}")
    return "".join(parts)


def _operands(text: str, mask: str, line: int) -> list[Operand]:
    if not text.strip():
        return []
    operands = []
    for part, part_mask in split(text, mask, ","):
        match = _OPERAND.match(part)
        if not match:
            raise AsmSyntaxError(f"line {line}: not an operand: {part.strip()!r}")
        close = closing(part_mask, match.end() - 1)
        operands.append(Operand(match.group(2), part[match.end() : close].strip(), match.group(1)))
    return operands
