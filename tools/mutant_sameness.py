"""Finds the mutants that no test could notice, because what they change means nothing to Python.

mutmut changes every string. In three places neither value nor letters matter when the code runs: the
type that ``typing.cast`` is given, and the case of a header's name and of a codec's. To count those
as unnoticed would say something of mutmut and nothing of the tests.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ORIGINAL = "orig"
_BY_HEADER = {"get", "get_list", "pop", "add"}
_BY_HEADER_OF_HANDLER = {"set_header", "add_header", "clear_header"}
_BY_CODEC = {"encode", "decode"}


def same_as_original(code: str) -> set[str]:
    """Return the names of the mutants in a module, as mutmut wrote it, that do what it did before."""
    originals: dict[str, str] = {}
    mutants: dict[str, list[tuple[str, str]]] = {}
    for node in _functions(ast.parse(code)):
        function, mark, number = node.name.partition("__mutmut_")
        if not mark:
            continue
        name, node.name = node.name, ""
        meaning = ast.dump(_Meaning().visit(node))
        if number == ORIGINAL:
            originals[function] = meaning
        else:
            mutants.setdefault(function, []).append((name, meaning))
    return {
        name
        for function, changed in mutants.items()
        for name, meaning in changed
        if meaning == originals[function]
    }


def _functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


class _Meaning(ast.NodeTransformer):
    """Brings what means the same to the same form."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        function = node.func
        if isinstance(function, ast.Name) and function.id == "cast" and len(node.args) == 2:
            return node.args[1]
        if isinstance(function, ast.Attribute) and (
            function.attr in _BY_HEADER_OF_HANDLER | _BY_CODEC
            or (function.attr in _BY_HEADER and _are_headers(function.value))
        ):
            node.args[:1] = [_without_case(argument) for argument in node.args[:1]]
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if _are_headers(node.value):
            node.slice = _without_case(node.slice)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.ops[0], ast.In | ast.NotIn) and _are_headers(node.comparators[0]):
            node.left = _without_case(node.left)
        return node


def _are_headers(node: ast.AST) -> bool:
    """Whether an expression is called ``headers``: tornado's, that know no case."""
    return getattr(node, "attr", getattr(node, "id", "")) in {"headers", "_headers"}


def _without_case(node: Any) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return ast.Constant(node.value.lower())
    return node
