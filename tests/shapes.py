"""Shapes in signatures are checked while the tests run, by jaxtyping and beartype.

`check_shapes_of(packages)` changes how these packages are imported: a function whose annotations have a shape, such as
`Float[Array, "B L D"]`, is checked in each call. While jax.jit traces that costs a little, afterwards nothing. Plain
annotations are left to mypy, and classes to themselves: leaves of a pytree may be anything.
"""

import ast
from collections.abc import Callable, Sequence
import importlib.abc
import importlib.machinery
import inspect
import sys
from typing import Any, get_args

import beartype
import jaxtyping

_CHECKED = ast.parse("__import__('tests.shapes', fromlist=['checked']).checked", mode="eval").body


def check_shapes_of(*packages: str) -> None:
  """From now on; what is imported already stays as it is."""
  sys.meta_path.insert(0, _Finder(packages))


def checked(function: Callable) -> Callable:
  """`function`, each call of it checked: one name is one size in all of its arguments and what it returns."""
  found = jaxtyping.jaxtyped(function, typechecker=_check_shapes)
  found.__signature__ = inspect.signature(function)  # gin asks for it, and does not look through a wrapper.
  return found


def _check_shapes(function: Callable) -> Callable:
  function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if _has_shape(hint)}
  return beartype.beartype(function)


def _has_shape(hint: Any) -> bool:
  return (inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)) or any(map(_has_shape, get_args(hint)))


class _Finder(importlib.abc.MetaPathFinder):

  def __init__(self, packages: Sequence[str]):
    self._packages = packages

  def find_spec(self, name, path=None, target=None):
    if not any(f"{name}.".startswith(f"{package}.") for package in self._packages):
      return None
    spec = importlib.machinery.PathFinder.find_spec(name, path, target)
    if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
      spec.loader = _Loader(spec.loader.name, spec.loader.path)
    return spec


class _Loader(importlib.machinery.SourceFileLoader):
  """Puts `checked` next to each function whose annotations have a string, be it a shape; compiles anew each time."""

  def get_code(self, fullname):
    path = self.get_filename(fullname)
    tree = ast.parse(self.get_data(path), path)
    for node in ast.walk(tree):
      if isinstance(node, ast.FunctionDef):
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        hints = [node.returns, *(argument.annotation for argument in every if argument)]
        if any(isinstance(part, ast.Constant) and isinstance(part.value, str)
               for hint in hints if hint for part in ast.walk(hint)):
          # The innermost: jax.custom_vjp and the like keep their methods, and see the same function.
          node.decorator_list.append(ast.copy_location(_CHECKED, node))
    return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)
