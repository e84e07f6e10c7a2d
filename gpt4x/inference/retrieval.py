"""Documents that are put ahead of a prompt, where attention sees them as an earlier part of the same document."""

from collections.abc import Iterable, Sequence
import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import gin
import numpy as np

from gpt4x.checkpoints.reader import Reader
from gpt4x.data import vocabularies
from gpt4x.data.document_index import DocumentIndex, Found
from gpt4x.errors import require, UserError
from gpt4x.experiment import Experiment
from gpt4x.inference.hidden_states import HiddenStates
from gpt4x.partitioning import Partitioner


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Retrieval:
  """How documents are found.

  Attributes:
    by: 'words' (BM25), 'vectors' of the model, or 'both'; None: by all that the index has.
  """

  by: Literal["words", "vectors", "both"] | None = None

  def __post_init__(self):
    require(self, "'words', 'vectors' or 'both'", lambda value: value in ("words", "vectors", "both"), "by")


class Ahead(NamedTuple):
  """What is put ahead of a prompt: ids, the documents in them, and the names of those that did not fit whole."""

  ids: list[int]
  documents: list[Found]
  cut: list[str]


class Vectors:
  """Vectors of texts by the model of a run: the mean of its hidden states, and the last (`hidden_states.py`)."""

  def __init__(self, experiment: Experiment, model_dir: str, step: int | None = None):
    self._experiment, self._model_dir = experiment, model_dir
    self.step, self.checksum = Reader(model_dir).params_checksum(step)
    self._vocabulary: Any = vocabularies.load(model_dir)
    model = experiment.language_model
    self._known = range(vocabularies.first_text_id(self._vocabulary), model.config.vocab_size)
    self._states = HiddenStates(model, experiment.decoding_window(), vocabularies.start_id(self._vocabulary),
                                experiment.dataset.feature_converter == "prefix_lm")

  @functools.cached_property
  def _params(self) -> Any:
    return self._experiment.restore_params(self._model_dir, Partitioner(data=1, num_devices=1), self.step)[1]

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """float32 [n, F]"""
    ids = [list(self._vocabulary.encode(text)) for text in texts]
    for some in ids:
      if wrong := [token for token in some if token not in self._known]:
        raise UserError(f"a document has the token {wrong[0]}, and the model knows {self._known.start} to"
                        f" {self._known.stop - 1}: copy the vocabulary that it was trained with into {self._model_dir}")
    return self._states(self._params, ids)


class Retriever:
  """Finds documents for prompts, and writes them as the model's vocabulary does."""

  def __init__(self, directory: str, experiment: Experiment, model_dir: str, step: int | None = None, count: int = 1,
               vocabulary: Any = None):
    """Opens an index; a UserError if its vectors are those of another model.

    Args:
      directory: of the index.
      experiment, model_dir, step: the model that will read the documents.
      count: documents for each prompt.
      vocabulary: of the model; None: that of the run.
    """
    self._index, self._by, self._count = DocumentIndex(directory), Retrieval().by, count
    self._vocabulary = vocabulary or vocabularies.load(model_dir)
    self._vectors = None
    if self._by is None and self._index.model or self._by in ("vectors", "both"):
      self._vectors = Vectors(experiment, model_dir, step)
      made_by = self._index.model.get("checksum", self._vectors.checksum)
      if made_by != self._vectors.checksum:
        raise UserError(f"the vectors of {directory} are of other parameters (step {self._index.model['step']},"
                        f" {made_by[:8]}) than those of {model_dir} (step {self._vectors.step},"
                        f" {self._vectors.checksum[:8]}): make the index anew by gpt4x index, or set"
                        " Retrieval.by = 'words'")

  def find(self, question: str, spare: int = 0) -> list[Found]:
    """The documents for a question, the best first, and so many more."""
    vector = self._vectors([question])[0] if self._vectors and question else None
    by = self._by if vector is not None or not self._vectors else "words"
    return self._index.search(question, self._count + spare, vector, by)

  def ahead(self, question: str, room: int) -> Ahead:
    """What is put ahead of a prompt, of up to `room` tokens."""
    return self.written(self.find(question), room)

  def written(self, documents: Iterable[Found], room: int) -> Ahead:
    """The documents as ids, each with a line end behind it; the best comes last, next to the question.

    What does not fit is cut at its end, that of the best document last.
    """
    ids, used, cut = list[int](), list[Found](), list[str]()
    for one in list(documents)[:self._count]:
      written = list(self._vocabulary.encode(one.text.rstrip("\n") + "\n"))
      if len(written) > room - len(ids):
        cut.append(one.name)
        written = written[:max(0, room - len(ids))]
      if written:
        ids, used = written + ids, [*used, one]
    return Ahead(ids, used, cut)
