"""Ways to change a program: each gives the lines of a statement with one thing in them exchanged."""

import ast
from collections.abc import Iterator
from typing import NamedTuple


class Mutant(NamedTuple):
    """Lines `first` to `last` of a text, counted from 0, and what stands in their place."""

    kind: str
    first: int
    last: int
    new: str


OTHER: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.MatMult: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.USub: ast.UAdd,
}  # fmt: skip
"""What stands in place of an operator."""


def mutants(text: str) -> Iterator[Mutant]:
    """Yield every mutant of a program's text, in the order of its lines."""
    tree = ast.parse(text)
    skipped = set(_skipped(tree))
    for node in ast.walk(tree):
        if id(node) in skipped or not hasattr(node, "lineno"):
            continue
        for kind, new in _changes(node):
            if ast.dump(ast.parse(new)) != ast.dump(ast.parse(ast.unparse(node))):
                yield _placed(text, kind, node, new)


def _skipped(tree: ast.Module) -> Iterator[int]:
    """Yield what people read, and types: by `id`."""
    for node in ast.walk(tree):
        parts: list[ast.AST] = []
        if isinstance(node, ast.Raise | ast.JoinedStr):
            parts = [node]
        elif isinstance(node, ast.FunctionDef):
            given = [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]
            more = [arg for arg in (node.args.vararg, node.args.kwarg) if arg is not None]
            types = [node.returns, *(arg.annotation for arg in [*given, *more])]
            parts = [*node.decorator_list, *(one for one in types if one is not None)]
        elif isinstance(node, ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper():
            # A type by another name.
            parts = [node] if isinstance(node.value, ast.Subscript) else []
        for part in parts:
            yield from map(id, ast.walk(part))


def _changes(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the ways to change one node, each as text in its place."""
    match node:
        case ast.Compare(ops=[op]):
            yield "comparison", _with(node, ops=[_other(op)])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.UnaryOp(op=ast.USub() as op):
            yield "operator", _with(node, op=_other(op))
        case ast.Constant(value=bool() as value):
            yield "constant", str(not value)
        case ast.Constant(value=int() | float() as value):
            yield "constant", repr(value + 1 if isinstance(value, int) else 2 * value or 1.0)
        case ast.IfExp(test=test):
            yield "condition", _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Return(value=ast.expr() as value):
            yield "returned", f"return {_replaced(value)}"
        case ast.Call(args=[first, second, *rest]) if not _starred(node):
            yield "arguments", _with(node, args=[second, first, *rest])


def _other(op: ast.AST) -> ast.AST:
    return OTHER[type(op)]()


def _with(node: ast.AST, **fields: object) -> str:
    values = {name: getattr(node, name) for name in node._fields} | fields
    return f"({ast.unparse(ast.fix_missing_locations(type(node)(**values)))})"


def _replaced(value: ast.expr) -> str:
    """Return the parts of a tuple in reverse order, and None for anything else."""
    if isinstance(value, ast.Tuple) and len(value.elts) > 1:
        return ", ".join(ast.unparse(part) for part in reversed(value.elts))
    return "None"


def _starred(node: ast.Call) -> bool:
    return any(isinstance(arg, ast.Starred) for arg in node.args)


def _placed(text: str, kind: str, node: ast.AST, new: str) -> Mutant:
    """Put a text in place of a node in the lines that it stands on."""
    assert isinstance(node, ast.expr | ast.stmt)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    lines = text.splitlines(keepends=True)
    first, last = node.lineno - 1, node.end_lineno
    head = lines[first].encode()[: node.col_offset].decode()
    tail = lines[last - 1].encode()[node.end_col_offset :].decode()
    return Mutant(kind, first, last, head + new + tail)
