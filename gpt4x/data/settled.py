"""Tasks with vocabularies that stay as they are while a run lasts, and that are the run's own."""

import copy
import dataclasses
from typing import Any, TYPE_CHECKING

from gpt4x.errors import UserError

if TYPE_CHECKING:
  import seqio


def settle(provider: "seqio.Task | seqio.Mixture", own: "seqio.Vocabulary | None" = None
           ) -> "seqio.Task | seqio.Mixture":
  """The task or mixture with settled vocabularies; what is registered under its name is left alone.

  A vocabulary that a task knows by no more than a name, or whose file is gone, becomes `own`, that of the run that the
  data is for. A UserError if any other vocabulary of targets differs from it. Vocabularies that encode alike become one
  object. Without `own`, each becomes what its file holds now.
  """
  return _Settling(own).provider(provider)


class _Settling:
  """Makes one object of each task and vocabulary, however often it is met."""

  def __init__(self, own: "seqio.Vocabulary | None"):
    self._own = own
    self._made: dict[int, tuple[Any, Any]] = {}  # By the id of what was given, which is kept so that no other gets it.
    self._vocabularies: list[seqio.Vocabulary] = []

  def provider(self, given: Any) -> Any:
    import seqio

    if id(given) not in self._made:
      make = self._task if isinstance(given, seqio.Task) else self._mixture
      self._made[id(given)] = given, make(given)
    return self._made[id(given)][1]

  # Copies, since a user's subclass may be made of other arguments; seqio has no public way to change a part.
  # pylint: disable=protected-access

  def _mixture(self, mixture: "seqio.Mixture") -> "seqio.Mixture":
    settled = copy.copy(mixture)
    settled._task_map = {name: self.provider(one) for name, one in mixture._task_map.items()}
    settled._tasks = [self.provider(task) for task in mixture._tasks]
    settled._sub_mixtures = [self.provider(one) for one in mixture._sub_mixtures]
    return mixture if settled._task_map == mixture._task_map else settled

  def _task(self, task: "seqio.Task") -> "seqio.Task":
    features = dict(task.output_features)
    targets = features["targets"].vocabulary if "targets" in features else None
    for name, feature in task.output_features.items():
      # The run keeps the vocabulary of targets alone.
      own = self._own if feature.vocabulary == targets else None
      vocabulary = self._vocabulary(feature.vocabulary, own, task.name)
      if vocabulary is not feature.vocabulary:
        features[name] = dataclasses.replace(feature, vocabulary=vocabulary)
    if all(features[name] is feature for name, feature in task.output_features.items()):
      return task
    settled = copy.copy(task)
    settled._output_features = type(task._output_features)(features)
    return settled

  def _vocabulary(self, given: "seqio.Vocabulary", own: "seqio.Vocabulary | None", task: str) -> "seqio.Vocabulary":
    from gpt4x.data import vocabularies

    found = vocabularies.held(given, own)
    if own is not None and vocabularies.spec(found) != vocabularies.spec(own):
      raise UserError(f"task {task} has the vocabulary {vocabularies.describe(found)}, but the run was trained with"
                      f" {vocabularies.describe(own)}: give the task that one, or start in a new directory")
    for earlier in self._vocabularies:
      if vocabularies.alike(found, earlier):
        return earlier
    self._vocabularies.append(found)
    return found
