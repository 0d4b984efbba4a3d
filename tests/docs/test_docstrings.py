"""Docstrings of public names say what is taken, what is returned and what is raised, with shapes of tensors."""

import ast
import enum
import importlib
import inspect
import re
import textwrap

import pytest

from tests.docs.pages import REFERENCE

OURS = ("dgl_lowbit", "numba_kernels", __name__)
_SECTION = re.compile(r"^([A-Z]\w+)\n-{3,}\n", re.MULTILINE)
_TENSOR = re.compile(r"\b(tensor|array|ndarray)s?\b", re.IGNORECASE)
# (N, classes), (), "a scalar", "of shape …", "the same shape", rows of something
_SHAPE = re.compile(r"\([^()]*\)|\bscalar|\bshape|\bmask", re.IGNORECASE)


def public():
    """Classes and functions of ours that ``__all__`` of the modules of the reference names, each once."""
    seen, cases = set(), []
    for module in sorted(REFERENCE):
        for name in importlib.import_module(module).__all__:
            value = getattr(importlib.import_module(module), name)
            is_ours = (getattr(value, "__module__", None) or "").startswith(OURS)
            if is_ours and callable(value) and value not in seen:
                seen.add(value)
                cases.append(pytest.param(value, id=f"{module}.{name}"))
    return cases


def sections(value):
    """Sections of a docstring by title; what stands before them is called "summary"."""
    first, *rest = _SECTION.split(inspect.getdoc(value) or "")
    return {"summary": first.strip(), **dict(zip(rest[::2], rest[1::2]))}


def entries(section):
    """Entries of a section: the names, the type and the whole text of each."""
    for part in re.split(r"\n(?=\S)", section.strip()):
        names, _, kind = part.partition("\n")[0].partition(" : ")
        kind = re.sub(r"{.*?}|\bdict of.*|\bmapping of.*", "", kind or names)  # choices such as {"tensor", "row"}
        yield [name.strip("* ") for name in names.split(",")], kind, part


def taken(value):
    """Names of what a function or constructor takes; what constructors hand on to their parents is said there."""
    handed_on = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) if inspect.isclass(value) else ()
    return [name for name, parameter in inspect.signature(value).parameters.items() if parameter.kind not in handed_on]


def statements(function, kind):
    """Statements of one kind in a function, those of functions within it left out."""
    pending = list(ast.parse(textwrap.dedent(inspect.getsource(function))).body[0].body)
    while pending:
        node = pending.pop()
        if isinstance(node, kind):
            yield node
        if not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            pending += ast.iter_child_nodes(node)


def own_code(value):
    """The functions of ours that a call of a function or class runs first."""
    names = ("__init__", "__post_init__") if inspect.isclass(value) else ()
    functions = [vars(value)[name] for name in names if name in vars(value)] or [value] * inspect.isfunction(value)
    return [function for function in functions if is_written(function)]


def is_written(function):
    """Whether a function stands in a file of ours, and was not generated."""
    return function.__module__.startswith(OURS) and function.__code__.co_filename != "<string>"


def raises(function):
    return any("NotImplementedError" not in ast.dump(node) for node in statements(function, ast.Raise))


def without_shape(section):
    """Names of tensors and arrays in a section of which no shape is said."""
    of_tensors = ((names, text) for names, kind, text in entries(section) if _TENSOR.search(kind))
    return [name for names, text in of_tensors if not _SHAPE.search(text) for name in names]


def lacks(value):
    """What the docstring of a function or class does not say."""
    said = sections(value)
    if not said["summary"]:
        return ["a summary"]
    if inspect.isclass(value) and issubclass(value, (Exception, enum.Enum)):
        return []
    missing = []
    titles = ("Parameters", "Attributes") if inspect.isclass(value) else ("Parameters",)
    named = [name for title in titles for names, _, _ in entries(said.get(title, "")) for name in names]
    missing += [f"the parameter {name}" for name in taken(value) if name not in named]
    if inspect.isfunction(value) and any(node.value is not None for node in statements(value, ast.Return)):
        missing += [] if {"Returns", "Yields"} & said.keys() else ["what it returns"]
    if any(raises(code) for code in own_code(value)) and "Raises" not in said:
        missing.append("what it raises")
    for title in ("Parameters", "Returns"):
        missing += [f"the shape of {name}" for name in without_shape(said.get(title, ""))]
    return missing


@pytest.mark.parametrize("value", public())
def test_docstrings_say_what_is_taken_returned_and_raised(value):
    assert lacks(value) == []


@pytest.mark.parametrize("value", [case for case in public() if inspect.isclass(case.values[0])])
def test_public_methods_have_docstrings_that_say_what_they_raise(value):
    missing = []
    for name, member in vars(value).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(function) or not is_written(function):
            continue
        doc = inspect.getdoc(getattr(value, name))
        if not doc:
            missing.append(name)
        elif raises(function) and not re.search(r"\bRaises?\b", doc):
            missing.append(f"what {name} raises")
    assert missing == []


def test_what_a_docstring_lacks_is_found():
    def take(x, y):
        """Take a tensor.

        Parameters
        ----------
        x : torch.Tensor
            Rows.
        """
        if y:
            raise ValueError
        return x

    assert lacks(take) == ["the parameter y", "what it returns", "what it raises", "the shape of x"]
