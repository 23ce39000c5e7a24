"""Mutants of a module: its source with one operator, constant or statement changed.

Only bodies of functions are changed. Texts for humans (messages of errors, log lines, docstrings),
annotations and assertions are not: a test that noticed such a change would be a worse one.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from types import CodeType
from typing import NamedTuple

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
UNCHANGED = (ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)
WORD = re.compile(r"[\w.-]+")
LENGTH = 110  # of the text that describes a change


class Mutant(NamedTuple):
    """One change: in which function, at which line, and what."""

    number: int
    function: str
    line: int
    change: str


def mutants_of(source: str) -> list[Mutant]:
    """Return all mutants of a module."""
    mutator = _Mutator(None)
    mutator.visit(ast.parse(source))
    return mutator.found


def mutated_code(source: str, file: str, mutant: Mutant) -> CodeType:
    """Return the code of the changed module-level function or method."""
    mutator = _Mutator(mutant.number)
    tree = ast.fix_missing_locations(mutator.visit(ast.parse(source)))
    return functions_of(compile(tree, file, "exec"))[mutator.changed]


def marked_codes(source: str, file: str) -> dict[tuple[str, int], CodeType]:
    """Return the code of each function, calling `_reached` with its name and line first.

    Functions inside of it call it with the name of the outermost one.
    """
    tree = _Marker().visit(ast.parse(source))
    return functions_of(compile(ast.fix_missing_locations(tree), file, "exec"))


def functions_of(code: CodeType) -> dict[tuple[str, int], CodeType]:
    """Return the functions and methods in the code of a module, by qualified name and line."""
    found = {}
    for each in code.co_consts:
        if isinstance(each, CodeType):
            if "<" in each.co_qualname:
                continue
            # The body of a class has no `CO_OPTIMIZED`.
            if each.co_flags & 1:
                found[each.co_qualname, each.co_firstlineno] = each
            else:
                found |= functions_of(each)
    return found


class _Scopes(ast.NodeTransformer):
    """Know in which outermost function a node is."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.key: tuple[str, int] | None = None

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        if self.key is not None:
            return node
        self.names.append(node.name)
        node.body = [self.visit(each) for each in node.body]
        self.names.pop()
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        outer, key = self.key is None, self.key
        if outer:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            self.key = (".".join([*self.names, node.name]), first)
        self.body(node, outer=outer)
        self.key = key
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self.visit_FunctionDef(node)  # type: ignore[arg-type]

    def body(self, node: ast.FunctionDef, *, outer: bool) -> None:
        raise NotImplementedError


class _Marker(_Scopes):
    def body(self, node: ast.FunctionDef, *, outer: bool) -> None:
        # An inner function, as the wrapper of a decorator, is mutated as part of its outer one.
        node.body = [self.visit(each) for each in node.body]
        if self.key is not None:
            mark = ast.parse(f"_reached({self.key!r})").body
            at = 1 if ast.get_docstring(node) is not None else 0
            node.body[at:at] = mark
            for each in mark:
                for part in ast.walk(each):
                    ast.copy_location(part, node.body[-1])


class _Mutator(_Scopes):
    def __init__(self, target: int | None) -> None:
        super().__init__()
        self.target = target
        self.found: list[Mutant] = []
        self.changed = ("", 0)
        self.stores: Counter[str] = Counter()
        self.texts: Counter[tuple[str, str]] = Counter()

    def body(self, node: ast.FunctionDef, *, outer: bool) -> None:
        if outer:
            self.stores = Counter(
                each.id
                for each in ast.walk(node)
                if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
            )
            self.stores.update(each.arg for each in ast.walk(node) if isinstance(each, ast.arg))
        node.body = [self.visit(each) for each in node.body]

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, UNCHANGED):
            return node
        if self.key is not None:
            for text, build in self._changes(node):
                number = len(self.found)
                self.texts[self.key[0], text] += 1
                times = self.texts[self.key[0], text]
                change = text if times == 1 else f"{text} ({times})"
                line = getattr(node, "lineno", 0)
                self.found.append(Mutant(number, self.key[0], line, change))
                if number == self.target:
                    self.changed = self.key
                    return ast.copy_location(build(), node)
        return super().visit(node)

    # ---- what is left as it is ------------------------------------------------------------------

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return node if _is_text(node) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name.endswith("Error") or name in ("isinstance", "getattr", "cast"):
            return node
        return self.generic_visit(node)

    # ---- what is changed ------------------------------------------------------------------------

    def _changes(self, node: ast.AST) -> Iterator[tuple[str, Callable[[], ast.AST]]]:
        if isinstance(node, ast.stmt):
            yield from self._of_statement(node)
        elif isinstance(node, ast.expr):
            for new in _of_expression(node):
                yield f"{_short(node)} -> {_short(new)}", lambda new=new: new
        elif isinstance(node, ast.ExceptHandler) and not isinstance(node.body[0], ast.Raise):
            yield f"{_short(node)} -> raise", lambda: _raising(node)
        elif isinstance(node, ast.comprehension):
            for at, test in enumerate(node.ifs):
                if _is_plain(test):
                    text = f"{_short(test)} -> not {_short(test)}"
                    yield text, lambda at=at: _with_test(node, at)

    def _of_statement(self, node: ast.stmt) -> Iterator[tuple[str, Callable[[], ast.AST]]]:
        if isinstance(node, ast.If | ast.While) and _is_plain(node.test):
            test = ast.UnaryOp(ast.Not(), node.test)
            word = type(node).__name__.lower()
            changed = deepcopy(node)
            changed.test = ast.copy_location(test, node.test)
            yield f"{word} {_short(node.test)} -> {word} {_short(test)}", lambda: changed
        if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
            other = deepcopy(node)
            other.op = ARITHMETIC[type(node.op)]()
            yield f"{_short(node)} -> {_short(other)}", lambda: other
        if isinstance(node, ast.Return):
            if node.value is not None and not isinstance(node.value, ast.Constant):
                # The value stays in the code, for the sake of `super()` and generators.
                none = ast.IfExp(ast.Constant(True), ast.Constant(None), node.value)
                yield f"{_short(node)} -> return None", lambda: ast.Return(none)
        elif self._is_removable(node):
            text = f"delete {_short(node)}"
            yield text, lambda: ast.If(ast.Constant(False), [node], [])

    def _is_removable(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.Expr):
            return not _is_text(node)
        if isinstance(node, ast.Assign):
            names = [each for each in node.targets if isinstance(each, ast.Name)]
            # Without its first value, a name is an error that any test finds.
            return len(names) < len(node.targets) or all(self.stores[each.id] > 1 for each in names)
        return isinstance(node, ast.AugAssign | ast.Delete | ast.Raise | ast.Break | ast.Continue)


def _of_expression(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for operator in COMPARISONS[type(node.ops[0])]:
            yield ast.Compare(node.left, [operator()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        for at in range(len(node.values)):
            rest = [each for index, each in enumerate(node.values) if index != at]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        if not (_is_string(node.left) or _is_string(node.right)):
            yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.IfExp):
        if _is_plain(node.test):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in CALLS:
            yield ast.Call(ast.Name(CALLS[node.func.id], ast.Load()), node.args, _named(node))
        elif node.func.id == "suppress":
            yield ast.Call(node.func, [], [])
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node.value)


def _of_constant(value: object) -> Iterator[ast.expr]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield ast.Constant(value + 1)
    elif isinstance(value, float):
        yield ast.Constant(value * 2 or 1.0)
    elif isinstance(value, str) and (not value or WORD.fullmatch(value)):
        yield ast.Constant(value + "X")


def _named(call: ast.Call) -> list[ast.keyword]:
    assert isinstance(call.func, ast.Name)
    return [] if call.func.id == "sorted" else call.keywords


def _is_plain(test: ast.expr) -> bool:
    """Return True if a condition has no operator that is changed itself."""
    return not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant)


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def _is_text(node: ast.Expr) -> bool:
    """Return True for a docstring, `...` or a line of a log."""
    value = node.value
    return isinstance(value, ast.Constant) or (
        isinstance(value, ast.Call) and ast.unparse(value.func).startswith("logger.")
    )


def _raising(node: ast.ExceptHandler) -> ast.AST:
    changed = deepcopy(node)
    changed.body.insert(0, ast.If(ast.Constant(True), [ast.Raise()], []))
    return changed


def _with_test(node: ast.comprehension, at: int) -> ast.AST:
    changed = deepcopy(node)
    changed.ifs[at] = ast.UnaryOp(ast.Not(), node.ifs[at])
    return changed


def _short(node: ast.AST) -> str:
    text = ast.unparse(node).strip().splitlines()[0]
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"
