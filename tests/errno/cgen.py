"""Turns the cases of ``errno_memory.json`` into one C program.

``python -m tests.errno.cgen`` prints it.  `compile_program` builds it against Linux's own headers,
which come with the ziglang package.  What does not depend on the data is in ``prelude.c``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.c_compiler import compile_c
from tests.vectors.errno_load import (
    Call,
    Case,
    Close,
    Control,
    ErrnoVectors,
    Expr,
    Fields,
    Memory,
    OpenToken,
    Out,
    Step,
    Token,
    load_errno,
)

__all__ = ("compile_program", "program")

_UAPI = Path(__file__).parents[2] / "uapi"
_PRELUDE = Path(__file__).with_name("prelude.c")
_INT_MAX = 0x7FFF_FFFF

_SCALARS = {"u8": "uint8_t", "u32": "uint32_t", "u64": "uint64_t"}


def program(vectors: ErrnoVectors) -> str:
    """The whole source."""
    cases = [case for case in vectors.cases if not case.blocked_by]
    declarations = "\n".join([_names(vectors), _errno_names(cases), _saved(cases), ""])
    text = _PRELUDE.read_text(encoding="utf-8")
    text = text.replace("@DECLARATIONS@", declarations)
    return text.replace("@CASES@", "\n".join(_Writer().cases(cases)))


def compile_program(vectors: ErrnoVectors, directory: Path) -> Path:
    """Build the program, with all warnings for errors; returns its path."""
    source, binary = directory / "errno_cases.c", directory / "errno_cases"
    source.write_text(program(vectors), encoding="utf-8")
    compile_c(source, binary, "-Wall", "-Wextra", "-Werror", f"-I{_UAPI}")
    return binary


# ---- what the cases are about ----------------------------------------------------------------


def _names(vectors: ErrnoVectors) -> str:
    """The file's own names, as macros."""
    lines = []
    for name, expr in vectors.names.items():
        text = _c(expr)
        lines.append(f"#define {name} {text if len(expr.tokens) == 1 else f'({text})'}")
    return "\n".join([*lines, ""])


def _calls(cases: list[Case]) -> Iterator[Call]:
    for case in cases:
        yield from (step for step in case.steps() if isinstance(step, Call))


def _errno_names(cases: list[Case]) -> str:
    """A function from number to name; what no case expects is shown by strerror."""
    names = sorted({call.errno.name for call in _calls(cases)} - {"OK"})
    rows = [f'\tcase {name}: return "{name}";' for name in names]
    head = "static const char *errno_name(int number)\n{\n\tswitch (number) {"
    tail = '\tcase 0: return "OK";\n\tdefault: return strerror(number);\n\t}\n}\n'
    return "\n".join([head, *rows, tail])


def _saved(cases: list[Case]) -> str:
    """What steps can save, by label."""
    labels = {call.label for call in _calls(cases) if call.save}
    labels |= {step.label for case in cases for step in case.steps() if isinstance(step, OpenToken)}
    rows = [f"\tuint64_t {label};" for label in sorted(labels)]
    return "\n".join(
        ["/* What earlier steps of a case answered. */", "struct saved {", *rows, "};"]
    )


# ---- expressions -----------------------------------------------------------------------------


def _c(expr: Expr) -> str:
    """An expression in C."""
    shifts = any(token.text == "<<" for token in expr.tokens)
    words = [_word(token, shifts) for token in expr.tokens]
    text = " ".join(words)
    return re.sub(r"\( ", "(", re.sub(r" \)", ")", re.sub(r"(^|[(|*+] )([-~]) ", r"\1\2", text)))


def _word(token: Token, wide: bool) -> str:
    if token.kind == "saved":
        return f"run->saved.{token.text}"
    if token.kind == "address":
        return f"(uintptr_t)&{token.text}[{token.index}]"
    if token.kind == "number" and (wide or int(token.text, 0) > _INT_MAX):
        return f"{token.text}ULL"
    return token.text


def _assignments(target: str, fields: Fields) -> list[str]:
    return [f"{target}.{path} = {_c(expr)};" for path, expr in fields.items()]


# ---- calls -----------------------------------------------------------------------------------


def _c_type(name: str) -> str:
    return _SCALARS.get(name, f"struct {name}")


def _declare(memory: Memory) -> str:
    kind = _c_type(memory.type)
    if memory.place == "plain":
        return f"{kind} {memory.name}[{memory.count}] = {{0}};"
    size = f"{memory.count} * sizeof({kind})"
    at_end = int(memory.place == "page_end")
    return f"{kind} *{memory.name} = take_pages(run, {size}, {at_end});"


def _fill(memory: Memory) -> Iterator[str]:
    for index, item in enumerate(memory.items):
        element = f"{memory.name}[{index}]"
        if isinstance(item, Expr):
            yield f"{element} = {_c(item)};"
        else:
            yield from _assignments(element, item)


_FILES = {"drm": "DRM_FD", "other": "other_fd(run)", "far": "FAR_FD"}


def _call_body(call: Call) -> list[str]:
    """Statements, without indent; they leave the function with 0 at the first wrong answer."""
    lines = [f"struct {call.struct.__name__} arg = {{0}};", *map(_declare, call.memory), ""]
    for memory in call.memory:
        lines += _fill(memory)
    lines += _assignments("arg", call.fields)
    fd = _FILES[call.file]
    expected = "0" if call.errno.name == "OK" else call.errno.name
    what = call.ioctl if call.label == "arg" else call.label
    lines.append(_check(f'call(run, "{what}", {fd}, {call.ioctl}, &arg, {expected})'))
    lines += [_check(_compare(out)) for out in call.out]
    if call.save:
        lines.append(f"run->saved.{call.label} = arg.{call.save};")
    return [*lines, "return 1;"]


def _check(condition: str) -> str:
    return f"if (!{condition})\n\treturn 0;"


def _compare(out: Out) -> str:
    function = "equal" if out.relation == "==" else "at_least"
    return f'{function}(run, "{out.path}", {out.path}, {_c(out.value)})'


# ---- functions -------------------------------------------------------------------------------


def _function(name: str, body: list[str], comment: str = "") -> str:
    text = "\n".join(body)
    indented = "\n".join(f"\t{line}".rstrip() for line in text.split("\n"))
    head = f"/* {comment} */\n" if comment else ""
    return f"{head}static int {name}(struct run *run)\n{{\n{indented}\n}}\n"


def _identifier(text: str) -> str:
    return re.sub(r"\W", "_", text)


class _Writer:
    """Writes functions: one for each case, and one for each step that cases share."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, ...], str] = {}
        """Body of a step -> the name of its function."""
        self._names: set[str] = set()

    def cases(self, cases: list[Case]) -> Iterator[str]:
        """All functions, then the table of the cases."""
        for case in cases:
            yield from self._case(case)
        yield "static const struct {\n\tconst char *id;\n\tint profiles;"
        yield "\tint (*play)(struct run *run);\n} cases[] = {"
        for case in cases:
            profiles = " | ".join(f"ON_{profile.upper()}" for profile in case.profiles)
            yield f'\t{{ "{case.id}", {profiles}, case_{_identifier(case.id)} }},'
        yield "};\n"

    def _case(self, case: Case) -> list[str]:
        """New functions for its steps, then its own."""
        assert case.call is not None
        functions: list[str] = []
        before = [self._condition(step, functions) for step in case.setup]
        after = [self._condition(step, functions) for step in case.then]
        body = _call_body(case.call)
        blank = body.index("") + 1
        lines = [*body[:blank], *map(_check, before), *body[blank:-1], *map(_check, after)]
        name = f"case_{_identifier(case.id)}"
        return [*functions, _function(name, [*lines, "return 1;"], _comment(case))]

    def _condition(self, step: Step, functions: list[str]) -> str:
        """A step as an expression that is true when it went well."""
        match step:
            case Call():
                return f"{self._step_function(step, functions)}(run)"
            case Control():
                return f'control(run, "{step.name}", "{step.text}")'
            case OpenToken():
                return f"open_token(run, {_c(step.token)}, &run->saved.{step.label})"
            case Close():
                return f"close_fd(run, {_c(step.fd)})"

    def _step_function(self, call: Call, functions: list[str]) -> str:
        body = _call_body(call)
        known = self._steps.get(tuple(body))
        if known is not None:
            return known
        name, number = f"step_{call.label}", 1
        while name in self._names:
            number += 1
            name = f"step_{call.label}_{number}"
        self._names.add(name)
        self._steps[tuple(body)] = name
        functions.append(_function(name, body))
        return name


def _comment(case: Case) -> str:
    section, _, row = case.row.rpartition("/")
    file = "" if section.startswith("execution.md") else "memory.md "
    return f"{file}{section}, row {row}"


if __name__ == "__main__":
    sys.stdout.write(program(load_errno()))
