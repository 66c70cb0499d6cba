"""Run a chat template of a model folder: a program by strangers, in bounded time and memory.

Jinja's sandbox keeps a template from Python, not from using up the machine: "{{ 'a' | center(10 ** 10) }}", nested
loops, a text that a loop doubles. So a template's tree is changed before it is compiled: every expression is counted
with the size of its value, and so is every round of a loop. What could make much of little in one step is missing,
or computes first how large the result would be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, ItemsView, Iterable, KeysView, Mapping, ValuesView
from datetime import datetime
from functools import lru_cache
from types import CodeType
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

_STEPS = 100_000
"""Steps that a template may take; those of real models take hundreds for a query and a document."""
_STEPS_FOR_EACH, _MOST_STEPS = 50, 1_000_000
"""More steps for each that it takes to read the variables once, and the most: a long instruction is not the template's
fault, but a folder's default prompt may be long on purpose."""
_MOST_NODES = 8000
"""Nodes of a template's tree, which bound the time to compile it; those of real models have up to two thousand."""
_MOST_LOOPS = 16
"""Loops in each other. Python compiles twenty."""
_CHARACTERS = 4
"""log2 of the characters of a text that count as one step."""
_MAX_RANGE = 1000
_MAX_STRIPPED = 64
"""Characters that one call may strip: each of a text's is looked up among them."""
_MAX_FACTOR = 1 << 53
_MAX_INDENT = 8

_STATEMENTS = (
    "Template",
    "Output",
    "TemplateData",
    "For",
    "If",
    "Assign",
    "AssignBlock",
    "Macro",
    "ExprStmt",
    "Break",
    "Continue",
)
_COUNTED = (
    "Name",
    "Const",
    "Tuple",
    "List",
    "Dict",
    "Filter",
    "Call",
    "Getitem",
    "Getattr",
    "Concat",
)
_UNCOUNTED = (
    "NSRef",
    "Pair",
    "Keyword",
    "Slice",
    "Compare",
    "Operand",
    "CondExpr",
    "Test",
    "And",
    "Or",
    "Not",
    "Neg",
    "Pos",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "FloorDiv",
    "Mod",
    "Pow",
)
_NODES = frozenset((*_STATEMENTS, *_COUNTED, *_UNCOUNTED))
_FILTERS = (
    "capitalize",
    "count",
    "d",
    "default",
    "first",
    "int",
    "items",
    "last",
    "length",
    "lower",
    "map",
    "reject",
    "rejectattr",
    "reverse",
    "select",
    "selectattr",
    "string",
    "title",
    "upper",
)
_TESTS = frozenset(TESTS) - {"callable", "escaped", "filter", "test"}
_STRIPS = frozenset({"strip", "lstrip", "rstrip"})
# Those that read a text a few times at most, and make nothing larger of it than a list of its parts. `rfind` and its
# like may compare every place with the whole of a long text.
_TEXT_METHODS = _STRIPS | {
    "capitalize",
    "count",
    "endswith",
    "find",
    "index",
    "isalpha",
    "isdigit",
    "isspace",
    "join",
    "lower",
    "removeprefix",
    "removesuffix",
    "replace",
    "split",
    "splitlines",
    "startswith",
    "title",
    "upper",
}
_DICT_METHODS = frozenset({"get", "items", "keys", "values"})


def run_template(source: str, variables: Mapping[str, Any]) -> str:
    """Return the text that a template makes.

    Args:
        source: the template.
        variables: what it may name: texts, numbers, lists and dicts.

    Returns:
        the text.

    Raises:
        TemplateError: it is no template, fails, takes too many steps, or uses what none needs.
        ArithmeticError: as Python raises it in the template's expressions; so are the others.
        AttributeError: see above.
        LookupError: see above.
        MemoryError: it is too deep to be compiled.
        RecursionError: it is too deep, or a macro calls itself without an end.
        SyntaxError: it is too deep to be compiled.
        TypeError: see above.
        ValueError: see above.
    """
    code = _compiled(source)
    sandbox = _Sandbox()
    before = sandbox.left
    sandbox.spend(dict(variables), limited=False)
    sandbox.left = min(before + _STEPS_FOR_EACH * (before - sandbox.left), _MOST_STEPS)
    template = sandbox.template_class.from_code(sandbox, code, dict(sandbox.globals))
    return template.render(variables)


@lru_cache(maxsize=16)
def _compiled(source: str) -> CodeType:
    sandbox = _Sandbox()
    tree: nodes.Template = _Counting().visit(sandbox.parse(source))
    tree.set_environment(sandbox)
    return sandbox.compile(tree)


class _Counting(NodeTransformer):
    """Checks the nodes of a template, and puts a count around each expression and the items of each loop."""

    _within = 0
    _nodes = 0

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """Return what takes the place of a node."""
        kind = type(node).__name__
        self._check(node, kind)
        self._within += kind in ("For", "Macro")
        self.generic_visit(node)
        self._within -= kind in ("For", "Macro")
        if isinstance(node, nodes.For):
            assert isinstance(node.iter, nodes.Expr)
            node.iter = _filtered(node.iter, "listed")
        if isinstance(node, nodes.TemplateData):
            return _filtered(nodes.Const(node.data, lineno=node.lineno), "counted")
        # A name or tuple that is assigned to is no value.
        if kind in _COUNTED and getattr(node, "ctx", "load") == "load":
            assert isinstance(node, nodes.Expr)
            return _filtered(node, "counted")
        return node

    def _check(self, node: nodes.Node, kind: str) -> None:
        if kind not in _NODES:
            raise SecurityError(f"a chat template may not use {kind}")
        self._nodes += 1
        if self._nodes > _MOST_NODES or self._within > _MOST_LOOPS:
            raise SecurityError(
                f"a chat template may have {_MOST_NODES} nodes and {_MOST_LOOPS} loops in each other"
            )
        if getattr(node, "dyn_args", None) or getattr(node, "dyn_kwargs", None):
            raise SecurityError("a chat template may not use * or ** in a call")
        if isinstance(node, nodes.For) and node.recursive:
            raise SecurityError("a chat template may not use recursive loops")
        # Nothing in these two would be counted.
        if isinstance(node, nodes.Macro) and self._within:
            raise SecurityError("a chat template may define macros outside loops and macros alone")
        if isinstance(node, nodes.AssignBlock) and (node.filter is not None or not node.body):
            raise SecurityError("a chat template may not use a block with a filter or without text")


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with what chat templates use, where everything has its price.

    Attributes:
        left: the steps that are left.
    """

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self) -> None:
        """Make one for a single run."""
        # Folding constants would run before anything is counted.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], optimized=False
        )
        self.left = _STEPS
        self.filters = {name: FILTERS[name] for name in _FILTERS}
        self.filters |= {
            "counted": _counted,
            "listed": _listed,
            "list": _listed,
            "join": _join,
            "replace": _replace,
            "tojson": _tojson,
            "trim": _trim,
        }
        self.tests = {name: TESTS[name] for name in _TESTS}
        self.globals = {
            "dict": _dict,
            "namespace": _Names,
            "raise_exception": _raise_exception,
            "range": _range,
            "strftime_now": _strftime_now,
        }

    def spend(self, value: object, *, limited: bool = True) -> None:
        """Count a value with all that is in it, as often as it is in it.

        Args:
            value: any.
            limited: fail if too few steps are left.

        Raises:
            SecurityError: too few steps are left.
        """
        found = [value]
        self.left -= 1
        while found:
            item = found.pop()
            more: Iterable[Any] = ()
            if isinstance(item, str):
                self.left -= len(item) >> _CHARACTERS
            elif isinstance(item, int):
                self.left -= item.bit_length() >> _CHARACTERS
            elif isinstance(item, dict):
                self.left -= 2 * len(item)
                more = (*item.keys(), *item.values())
            elif isinstance(item, (list, tuple, KeysView, ValuesView, ItemsView)):
                self.left -= len(item)
                more = item
            if limited and self.left < 0:
                raise SecurityError(
                    "a chat template may not take so many steps or make so much text"
                )
            found.extend(more)

    def spend_characters(self, count: int) -> None:
        """Count a text that is not there yet; see `spend`."""
        self.left -= count >> _CHARACTERS
        self.spend(None)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator whose result is little more than its operands."""
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        small = numbers and abs(left) < _MAX_FACTOR and abs(right) < _MAX_FACTOR
        text = operator == "%" and not numbers
        if operator == "**" or (operator == "*" and not small) or text:
            raise SecurityError(f"a chat template may not use {operator} here")
        result = super().call_binop(context, operator, left, right)
        self.spend(result)
        return result

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a function, or a method of a text."""
        text = getattr(obj, "__self__", None)
        if isinstance(text, str):
            name = obj.__name__
            # The compiler adds the variables of a loop, which `super().call` takes off.
            given = {key: value for key, value in kwargs.items() if not key.startswith("_")}
            if name == "join":
                return _joined(self, text, *args, **given)
            if name == "replace":
                return _replaced(self, text, *args, **given)
            if name in _STRIPS:
                _check_stripped(*args, **given)
        return super().call(context, obj, *args, **kwargs)

    def call_filter(self, name: str, value: Any, args: Any = None, *more: Any, **named: Any) -> Any:
        """Apply a filter that `map` names, to one item."""
        self.spend((value, *(args or ())))
        return super().call_filter(name, value, args, *more, **named)

    def call_test(self, name: str, value: Any, args: Any = None, *more: Any, **named: Any) -> Any:
        """Apply a test that `select` names, to one item."""
        self.spend((value, *(args or ())))
        return super().call_test(name, value, args, *more, **named)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow the methods that chat templates use."""
        if isinstance(obj, str):
            return attr in _TEXT_METHODS
        if isinstance(obj, dict):
            return attr in _DICT_METHODS
        return isinstance(obj, (LoopContext, Namespace)) and not attr.startswith("_")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Leave `str.format` to `is_safe_attribute`, which refuses it."""
        return None


# --- Filters --------------------------------------------------------------------------------------
def _sandbox(context: Context) -> _Sandbox:
    assert isinstance(context.environment, _Sandbox)
    return context.environment


@pass_context
def _counted(context: Context, value: Any) -> Any:
    _sandbox(context).spend(value)
    return value


@pass_context
def _listed(context: Context, values: Iterable[Any]) -> list[Any]:
    sandbox, found = _sandbox(context), []
    for value in values:
        sandbox.spend(value)
        found.append(value)
    return found


@pass_context
def _join(context: Context, values: Any, d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        values = FILTERS["map"](context, values, attribute=attribute)
    return _joined(_sandbox(context), str(d), map(str, values))


def _joined(sandbox: _Sandbox, between: str, values: Iterable[Any]) -> str:
    parts = []
    for value in values:
        sandbox.spend(value)
        parts.append(value)
    sandbox.spend_characters(len(between) * len(parts))
    return between.join(parts)


@pass_context
def _replace(context: Context, text: Any, old: Any, new: Any, count: Any = None) -> str:
    limit = -1 if count is None else count
    return _replaced(_sandbox(context), str(text), str(old), str(new), limit)


def _replaced(sandbox: _Sandbox, text: str, old: str, new: str, count: int = -1, /) -> str:
    found = text.count(old)
    sandbox.spend_characters(len(text) + len(new) * (found if count < 0 else min(found, count)))
    return text.replace(old, new, count)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    indents = indent is None or (isinstance(indent, int) and indent <= _MAX_INDENT)
    if not indents or (separators is not None and sum(map(len, separators)) > _MAX_INDENT):
        raise SecurityError(
            f"a chat template may indent and separate JSON by {_MAX_INDENT} characters at most"
        )
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _trim(value: Any, chars: Any = None) -> str:
    _check_stripped(chars)
    return str(value).strip(chars)


def _check_stripped(characters: str | None = None, /) -> None:
    if characters is not None and len(characters) > _MAX_STRIPPED:
        raise SecurityError(f"a chat template may strip {_MAX_STRIPPED} characters at most")


# --- Functions ------------------------------------------------------------------------------------
class _Names(Namespace):
    """A namespace, whose text does not have what is in it: that is counted where it is read."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _dict(*given: Any, **named: Any) -> dict[Any, Any]:
    return dict(*given, **named)


def _raise_exception(message: Any = "") -> None:
    raise TemplateError(str(message))


def _range(*arguments: int) -> list[int]:
    numbers = range(*arguments)
    if len(numbers) > _MAX_RANGE:
        raise SecurityError(f"a chat template may count to {_MAX_RANGE}")
    return list(numbers)


def _strftime_now(layout: str) -> str:
    if len(layout) > _MAX_STRIPPED:
        raise SecurityError(
            f"a chat template may write a date with {_MAX_STRIPPED} characters at most"
        )
    return datetime.now().strftime(layout)
