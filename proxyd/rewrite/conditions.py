"""Conditions over a vCPU's registers, as rules and the knowledge base write them.

    ID_AA64MMFR3_EL1.TCRX == 0 and TCR2_EL1 == 0
    PMCR_EL0 & 1 == 0
    listed(SCTLR2_EL1) and destination.ID_AA64PFR0_EL1.EL2 == 0

Operands are registers of the stream, fields of them, the same of the destination (``destination.``), and integers;
operators are ``== != < <= > >= & and or not``, and ``listed(REGISTER)`` says whether a list has a register. A register
that has no name here is ``register(0x603000000013c4f7)``. A signed field of 0xf is -1.

A register that is not there makes a comparison *undecided*, and an undecided condition does not hold: ``not (X == 0)``
does not hold either if there is no X, nor does ``Y == 0 and X == 0``. Only ``or`` can do without it, if its other side
holds. What is not known never permits a change.

The text is parsed by Python's own ``ast`` and only the nodes named here are accepted; nothing is ever executed.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from formats.arm64.id_fields import field_named
from formats.arm64.register_id import MAX_ID, id_of

Registers = Mapping[int, int]
# Value of an expression: None is undecided.
_Value = int | bool | None
_Evaluate = Callable[[Registers, Registers | None], _Value]

_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[int, int], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

DESTINATION: Final = "destination"
ACCEPTED: Final = (
    "registers, REGISTER.FIELD, destination.REGISTER, integers, == != < <= > >= & and or not, listed(REGISTER)"
)

# Nobody writes a condition of that length by hand; it bounds the depth of the tree as well.
MAX_LENGTH: Final = 1000


class ConditionError(ValueError):
    """The text is no condition. The message says where, what is accepted, and what was found."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition. ``registers`` are the ids of the stream's registers that it reads."""

    text: str
    registers: frozenset[int]
    _evaluate: _Evaluate

    @classmethod
    def parse(cls, text: str, where: str) -> Condition:
        """Parse ``text``; ``where`` (file and key) opens the message of the :class:`ConditionError`."""
        return _Parser(text, where).condition()

    def holds(self, stream: Registers, destination: Registers | None) -> bool:
        """Whether it holds. ``destination`` is None where its registers are not known."""
        return self._evaluate(stream, destination) is True

    def __str__(self) -> str:
        return self.text


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self.where = where
        self.registers: set[int] = set()

    def condition(self) -> Condition:
        if len(self.text) > MAX_LENGTH:
            raise ConditionError(
                f"{self.where}: condition of at most {MAX_LENGTH} characters expected, found {len(self.text)}"
            )
        try:
            evaluate = self.boolean(self.tree())
        except (RecursionError, MemoryError):
            raise ConditionError(f"{self.where}: condition with fewer nested parts expected") from None
        return Condition(self.text, frozenset(self.registers), evaluate)

    def tree(self) -> ast.expr:
        text = self.text.strip()
        try:
            with warnings.catch_warnings():
                # Python warns of things such as "1 is 1", which are refused here anyway.
                warnings.simplefilter("ignore")
                return ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError) as error:
            # At an unexpected end Python names no column.
            column = getattr(error, "offset", None) or len(text) + 1
            why = getattr(error, "msg", error)
            raise ConditionError(
                f"{self.where}: column {column}: condition expected, found {self.text!r}: {why}"
            ) from error

    def fail(self, node: ast.AST, expected: str = ACCEPTED) -> NoReturn:
        found = ast.get_source_segment(self.text.strip(), node) or self.text
        column = getattr(node, "col_offset", 0) + 1
        raise ConditionError(f"{self.where}: column {column}: {expected} expected, found {found!r}")

    def boolean(self, node: ast.expr) -> _Evaluate:
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                return _all([self.boolean(value) for value in values])
            case ast.BoolOp(op=ast.Or(), values=values):
                return _any([self.boolean(value) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _not(self.boolean(operand))
            case ast.Compare():
                return self.compare(node)
            case ast.Call():
                return self.listed(node)
            case _:
                return self.fail(node, "comparison, listed(REGISTER), or such joined by and, or, not")

    def compare(self, node: ast.Compare) -> _Evaluate:
        operands = [self.value(operand) for operand in (node.left, *node.comparators)]
        operators = []
        for op in node.ops:
            if type(op) not in _COMPARISONS:
                self.fail(node, "== != < <= > or >=")
            operators.append(_COMPARISONS[type(op)])
        if not any(isinstance(part, ast.Name) for part in ast.walk(node)):
            # A bare id is a number: "0x603000000013c103 != 0" would hold for every guest.
            self.fail(node, "comparison with a register (one by its id is register(ID))")

        def evaluate(stream: Registers, destination: Registers | None) -> _Value:
            values = [operand(stream, destination) for operand in operands]
            if None in values:
                return None
            return all(
                op(left, right)  # type: ignore[arg-type]
                for op, left, right in zip(operators, values, values[1:], strict=False)
            )

        return evaluate

    def value(self, node: ast.expr) -> _Evaluate:
        match node:
            case ast.Constant(value=int() as number) if not isinstance(number, bool):
                return lambda _stream, _destination: number
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as number)) if not isinstance(
                number, bool
            ):
                return lambda _stream, _destination: -number
            case ast.BinOp(op=ast.BitAnd(), left=left, right=right):
                return _and(self.value(left), self.value(right))
            case ast.Name() | ast.Attribute() | ast.Subscript() | ast.Call():
                return self.operand(node)
            case _:
                return self.fail(node)

    def operand(self, node: ast.expr) -> _Evaluate:
        of_destination, register, field_name = self.names(node)
        field = None
        if field_name is not None:
            try:
                field = field_named(register, field_name)
            except ValueError as error:
                raise ConditionError(f"{self.where}: {error}") from error

        def evaluate(stream: Registers, destination: Registers | None) -> _Value:
            registers = destination if of_destination else stream
            if registers is None or register not in registers:
                return None
            value = registers[register]
            return value if field is None else field.get(value)

        return evaluate

    def names(self, node: ast.expr) -> tuple[bool, int, str | None]:
        """[destination.]REGISTER[.FIELD], where REGISTER may end in an index; or [destination.]register(ID)."""
        if isinstance(node, ast.Call):
            return self.by_id(node)
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        match node:
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int() as index)):
                parts.insert(0, f"{name}[{index}]")
            case ast.Subscript(
                value=ast.Attribute(value=ast.Name(id=first), attr=name), slice=ast.Constant(value=int() as place)
            ):
                parts[:0] = [first, f"{name}[{place}]"]
            case ast.Name(id=name):
                parts.insert(0, name)
            case _:
                self.fail(node)
        of_destination = parts[0] == DESTINATION
        names = parts[1:] if of_destination else parts
        if not 1 <= len(names) <= 2:
            self.fail(node, "REGISTER or REGISTER.FIELD")
        try:
            register = id_of(names[0])
        except ValueError as error:
            raise ConditionError(f"{self.where}: {error}") from error
        if not of_destination:
            self.registers.add(register)
        return of_destination, register, names[1] if len(names) == 2 else None

    def by_id(self, node: ast.Call) -> tuple[bool, int, None]:
        """register(0x...), for a register that has no name here."""
        match node:
            case ast.Call(func=ast.Name(id="register"), args=[ast.Constant(value=int() as register)], keywords=[]):
                of_destination = False
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="destination"), attr="register"),
                args=[ast.Constant(value=int() as register)],
                keywords=[],
            ):
                of_destination = True
            case _:
                self.fail(node, "register(ID)")
        if isinstance(register, bool) or register > MAX_ID:
            self.fail(node, "register(ID), with an id of 64 bits,")
        if not of_destination:
            self.registers.add(register)
        return of_destination, register, None

    def listed(self, node: ast.Call) -> _Evaluate:
        if not (isinstance(node.func, ast.Name) and node.func.id == "listed" and len(node.args) == 1) or node.keywords:
            self.fail(node, "listed(REGISTER)")
        of_destination, register, field_name = self.names(node.args[0])
        if field_name is not None:
            self.fail(node, "listed(REGISTER), without a field,")

        def evaluate(stream: Registers, destination: Registers | None) -> _Value:
            registers = destination if of_destination else stream
            return None if registers is None else register in registers

        return evaluate


# Three-valued logic: an undecided part leaves the whole undecided, but for an "or" with a part that holds.


def _all(parts: list[_Evaluate]) -> _Evaluate:
    def evaluate(stream: Registers, destination: Registers | None) -> _Value:
        values = [part(stream, destination) for part in parts]
        return None if None in values else all(values)

    return evaluate


def _any(parts: list[_Evaluate]) -> _Evaluate:
    def evaluate(stream: Registers, destination: Registers | None) -> _Value:
        # One part that holds is enough: nothing undecided can take that away.
        values = [part(stream, destination) for part in parts]
        if True in values:
            return True
        return None if None in values else False

    return evaluate


def _not(part: _Evaluate) -> _Evaluate:
    def evaluate(stream: Registers, destination: Registers | None) -> _Value:
        value = part(stream, destination)
        return None if value is None else not value

    return evaluate


def _and(left: _Evaluate, right: _Evaluate) -> _Evaluate:
    def evaluate(stream: Registers, destination: Registers | None) -> _Value:
        first, second = left(stream, destination), right(stream, destination)
        return None if first is None or second is None else first & second

    return evaluate
