"""Documents chosen by their fields; a field that is missing is an error."""

import pickle

import pytest

from gpt4x.errors import UserError
from gpt4x.preparation.document import Document, Dropped
from gpt4x.preparation.rules.where import Where


def judged(value, **parameters):
  return Where("score", **parameters)(Document("f:1", "text", fields={"score": value, "url": "u"}))


@pytest.mark.parametrize("value, parameters", [
    (0.5, {"least": 0.5}), (3, {"most": 3}), (2, {"least": 1, "most": 3}),
    ("en", {"among": ("en", "de")}),
    (None, {"among": ("en", None)}), (2, {"among": [1, 2], "least": 2}),
    ([1], {"among": [[1], [2]]}), (0, {"least": 0})])
def test_kept(value, parameters):
  assert isinstance(judged(value, **parameters), Document)


@pytest.mark.parametrize("value, parameters, shown", [
    (0.4, {"least": 0.5}, 0.4), (4, {"most": 3}, 4), ("fr", {"among": ("en",)}, "fr"), (None, {"least": 0}, "None"),
    (1, {"among": [1, 2], "least": 2}, 1), (True, {"among": ["x"]}, "True"), (float("inf"), {"most": 1}, float("inf"))])
def test_dropped(value, parameters, shown):
  assert judged(value, **parameters) == Dropped("where_score", shown)


def test_a_missing_field_names_those_that_are_there():
  with pytest.raises(UserError, match=r"Where.field = 'qualty': f:1 has no such field \(it has quality, url\)"):
    Where("qualty", least=0)(Document("f:1", fields={"url": "", "quality": 1}))
  with pytest.raises(UserError, match="it has none"):
    Where("a", least=0)(Document("f:1"))
  with pytest.raises(UserError, match="are for numbers"):
    judged("high", least=0)


def test_parameters():
  assert pickle.loads(pickle.dumps(Where("a", least=1))) == Where("a", least=1)
  for wrong, named in (({}, "keeps everything"), ({"least": 2, "most": 1}, "above most"), ({"least": "x"}, "a number"),
                       ({"among": "en"}, "list of values")):
    with pytest.raises(UserError, match=named):
      Where("a", **wrong)
  with pytest.raises(UserError, match="name of a field"):
    Where("", least=1)
