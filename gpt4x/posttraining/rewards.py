"""Reward functions: what an answer is worth, by the prompt, the answer and the reference that a record has for it.

Any function (prompt, answer, reference) -> float is one, once `gin.configurable` or `gin.external_configurable` has
given it a name.
"""

from collections.abc import Callable
import re

import gin

Reward = Callable[[str, str, str], float]
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@gin.configurable
def distinct_letters(prompt: str, answer: str, reference: str) -> float:
  """How many different letters of a to z an answer has: a toy."""
  del prompt, reference
  return float(len({letter for letter in answer.lower() if "a" <= letter <= "z"}))


@gin.configurable
def exact_match(prompt: str, answer: str, reference: str) -> float:
  """1 if the answer is the reference, whatever blanks are around it; else 0."""
  del prompt
  return float(answer.strip() == reference.strip())


@gin.configurable
def last_number(prompt: str, answer: str, reference: str) -> float:
  """1 if the last number of the answer is that of the reference, as in word problems; else 0."""
  del prompt
  found, wanted = ([float(number.replace(",", "")) for number in _NUMBER.findall(text)] for text in (answer, reference))
  return float(bool(found and wanted) and found[-1] == wanted[-1])


@gin.configurable
def matches(prompt: str, answer: str, reference: str, pattern: str = gin.REQUIRED) -> float:
  """1 if the whole answer matches a regular expression, such as a form that it is to have; else 0."""
  del prompt, reference
  return float(re.fullmatch(pattern, answer, re.DOTALL) is not None)


@gin.configurable
def length(prompt: str, answer: str, reference: str, characters: int = 100) -> float:
  """How near the answer's length is to a number of characters: 1 there, 0 for nothing or for twice as many and more."""
  del prompt, reference
  return max(0.0, 1 - abs(len(answer) - characters) / characters)
