"""What the tests of the Python face share: bytes with a mask token, a model that compiles fast, and one device."""

import pytest

from tests.api import small


@pytest.fixture(scope="session", name="tokenizer")
def _tokenizer():
  return small.make_tokenizer()


@pytest.fixture(scope="session", name="model")
def _model():
  """Whose parameters no test changes."""
  return small.make_model()


@pytest.fixture(scope="session", name="text")
def _text(tmp_path_factory):
  """A file of 161 bytes: ten blocks of 16 and one byte more."""
  path = tmp_path_factory.mktemp("text") / "train.txt"
  path.write_text("".join(chr(97 + (7 * i + i * i // 5) % 26) for i in range(161)))
  return path
