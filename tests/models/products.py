"""What dtypes a program's matrix products have."""

from collections.abc import Iterator
from typing import Any

import jax


def dtypes(function: Any, *arguments: Any) -> set[tuple[str, str, str]]:
  """(left, right, result) of every product in a program, kernels and loops included."""
  return {tuple(str(var.aval.dtype) for var in (*equation.invars, *equation.outvars))
          for equation in _equations(jax.make_jaxpr(function)(*arguments).jaxpr)
          if equation.primitive.name == "dot_general"}


def _equations(jaxpr: Any) -> Iterator[Any]:
  for equation in jaxpr.eqns:
    yield equation
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from _equations(inner)
