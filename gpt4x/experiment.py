"""Experiment: a model, its data and what it is trained for, whichever command or loop reads them."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, TYPE_CHECKING

import gin
import jax

from gpt4x.checkpoints import frozen_models, layout
from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.compression import low_rank, quantization
import gpt4x.compression.training_products  # noqa: F401  A form that gin knows.
from gpt4x.data.dataset import Dataset, DatasetConfig
from gpt4x.data.row_mixture import RowMixture
from gpt4x.errors import refuse, UserError
from gpt4x.models import extension
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.model import Model
from gpt4x.models.saved_model import SavedModel
from gpt4x.objectives.next_token import NextToken
from gpt4x.objectives.objective import Objective
from gpt4x.partitioning import Partitioner

if TYPE_CHECKING:
  import seqio


# What objectives compare, and a task that has it.
_COMPARED = {"pairs": ("a better and a worse answer", "local_preferences_bytes"),
             "triples": ("descriptions of entities", "local_descriptions_bytes")}


@gin.configurable(denylist=["vocabulary"])
@dataclasses.dataclass(frozen=True)
class Experiment:
  """A model, the data it is trained on, and the objective."""

  model: Model
  dataset: DatasetConfig | RowMixture
  objective: Objective = dataclasses.field(default_factory=lambda: NextToken())  # Looked up late: as gin has it then.
  vocabulary: "seqio.Vocabulary | None" = None  # Of the run that this is the experiment of; None: it is of none yet.

  @functools.cached_property
  def data(self) -> Dataset:
    """What `dataset` names, resolved once."""
    import gpt4x.tasks  # noqa: F401  Registers the shipped tasks; a gin file imports a user's own.
    return self.dataset.open(self.vocabulary, getattr(self.objective, "token_features", None))

  def of_run(self, model_dir: str) -> "Experiment":
    """The experiment of the run in a directory, whose data has the vocabulary that the run keeps."""
    from gpt4x.data import vocabularies
    import gpt4x.media.vocabulary  # noqa: F401  Registers its class.
    if not vocabularies.saved_in(model_dir):  # Some converted models have none.
      return self
    return dataclasses.replace(self, vocabulary=vocabularies.load(model_dir))

  def to_train(self, model_dir: str, goes_on: bool, init_from: str | None) -> "Experiment":
    """The experiment as a loop trains it, once its vocabulary is found to fit and to be one that a run can keep.

    A run that goes on has its own; a new one must have that of the run that it starts from, or that one and
    media. Nothing is tokenized.
    """
    from gpt4x.data import vocabularies
    experiment = self.of_run(model_dir) if goes_on else self
    experiment.check_vocabulary()
    experiment.check_pairs()
    vocabularies.spec(experiment.data.vocabulary)
    if init_from and not goes_on:
      vocabularies.check_alike(experiment.data.vocabulary, self.dataset.mixture_or_task_name, init_from)
      if vocabularies.extends(experiment.data.vocabulary, init_from):
        config = self.language_model.config
        refuse(config, config.adaptive_cutoffs, "adaptive_cutoffs",
               f"makes clusters of ids, to which media cannot be added: start from another model than {init_from}")
    return experiment

  @property
  def language_model(self) -> LanguageModel:
    """The model, where text is asked of it; a UserError if it is none of language."""
    if not isinstance(self.model, LanguageModel):
      raise UserError(f"the model is a {type(self.model).__name__}, which has no text: name a run of a language model")
    return self.model.whole_model

  @property
  def held_models(self) -> Mapping[str, SavedModel]:
    """All models that training needs and never changes: the objective's, and the base of a model of adapters."""
    return {**self.model.frozen_models, **self.frozen_models}

  @property
  def frozen_models(self) -> Mapping[str, SavedModel]:
    """The models whose parameters the objective is given, by name; none for most."""
    own = getattr(self.objective, "frozen_models", {})
    return {**self.model.frozen_models, **own} if getattr(self.objective, "refers_to_base", False) else own

  def collector(self, partitioner: Partitioner) -> Any | None:
    """What makes a batch of the data, by the parameters, one to train on, where an objective has such `rollouts`."""
    rollouts = getattr(self.objective, "rollouts", None)
    return rollouts.collector(self, partitioner) if rollouts else None

  @property
  def memory_length(self) -> int:
    """The training memory; none for examples, which stand alone."""
    return self.model.config.memory_length if self.dataset.carries_memory else 0

  @property
  def eval_memory_length(self) -> int:
    return (self.model.config.eval_memory_length or 0) if self.dataset.carries_memory else 0

  def decoding_window(self, window: int | None = None) -> int:
    """The latest positions that each decoded token attends to; None: a segment and the longer of the two memories."""
    if window is None:
      memory = max(self.memory_length, self.eval_memory_length)
      window = memory if self.model.config.same_length and memory else memory + self.dataset.segment_length
    if window < 1:
      raise UserError(f"generate.window = {window} must be at least 1")
    return window

  def check_vocabulary(self) -> None:
    """Raises UserError if the data may hold a token that the model, or one of the frozen, has no embedding for."""
    from gpt4x.data import vocabularies
    size, room = self.data.vocabulary.vocab_size, self.model.config.vocab_size
    if size > room and not isinstance(self.model, LanguageModel):
      raise UserError(f"{self.dataset.mixture_or_task_name} has a vocabulary of {size} ids, but a codec is trained on"
                      " bytes: name a task of these, such as local_image_bytes")
    if size > room:
      raise UserError(
          f"TransformerConfig.vocab_size = {room} is smaller than the {size} ids of the vocabulary of"
          f" {self.dataset.mixture_or_task_name}: make it at least {size}")
    self._check_places()
    if getattr(self.objective, "on_policy", 0.0):
      eos = self.data.vocabulary.eos_id
      refuse(self.objective, eos not in (None, getattr(self.objective, "eos_id", None)), "eos_id",
             f"does not end the documents of {self.dataset.mixture_or_task_name}: make it {eos}")
    for one in self.held_models.values():
      vocabularies.check_alike(self.data.vocabulary, self.dataset.mixture_or_task_name, one.directory,
                               f"give {one.parameter} another directory")
      if vocabularies.extends(self.data.vocabulary, one.directory):
        raise UserError(f"{one.parameter} = {one.directory!r} knows none of the media of"
                        f" {self.dataset.mixture_or_task_name}: name a model with the same vocabulary")

  def check_pairs(self) -> None:
    """Raises UserError unless the objective compares what the data has several sequences of."""
    task, found = self.dataset.mixture_or_task_name, getattr(self.data, "sequences", None)
    name, wanted = type(self.objective).__name__, getattr(self.objective, "compares", None)
    if wanted and wanted != found:
      what, other = _COMPARED[wanted]
      raise UserError(f"{name} compares {what}, and {task} has one text a record: name a task such as {other}")
    if found and found != wanted:
      objective = "@Preference()" if found == "pairs" else "@JointEmbedding()"
      raise UserError(f"{task} has {_COMPARED[found][0]} a record, and {name} would train on all alike: set OBJECTIVE ="
                      f" {objective}, or name another task")

  def _check_places(self) -> None:
    """Raises UserError if the model would look for codes among other ids than the vocabulary has them."""
    places = self.model.config.code_places if isinstance(self.model, LanguageModel) else None
    if places is None:
      return
    vocabulary = self.data.vocabulary
    found = getattr(vocabulary, "layout", None)
    sizes = (found.text_size, found.num_sizes) if found else (vocabulary.vocab_size, places.num_sizes)
    refuse(places, places.text_size != sizes[0], "text_size",
           f"is not that of {self.dataset.mixture_or_task_name}, whose vocabulary has {sizes[0]} ids of text: set it to"
           " these, or TransformerConfig.code_places = None")
    refuse(places, places.num_sizes != sizes[1], "num_sizes", f"is not MediaTokens.sizes = {sizes[1]}: set it to that")

  def restore_params(self, model_dir: str, partitioner: Partitioner, step: int | None = None) -> tuple[int, Any]:
    """(step, params) of a checkpoint, the newest if step is None, laid out on the partitioner's mesh; whole ones."""
    directory, models = Checkpoints(model_dir), self.model.frozen_models
    step, params = directory.restore_params(partitioner.place(*self.model.declared), step)
    if not models:
      return step, params
    whole = {name: dataclasses.replace(one, dtype="float32") for name, one in models.items()}
    known = directory.frozen(step)
    references = frozen_models.find(whole, {name: known[name] for name in models if name in known}, strict=False)
    params = self.model.whole(params, frozen_models.load(whole, references, partitioner))
    with partitioner.activate():
      return step, jax.jit(low_rank.merged)(params)

  def params_from(self, model_dir: str, partitioner: Partitioner, fresh: Any) -> Any:
    """The newest parameters of the run that a new one starts from; ids that it does not know have those of `fresh`."""
    from gpt4x.data import vocabularies
    known = vocabularies.extends(self.data.vocabulary, model_dir)
    shapes, declarations = self.model.declared
    directory = Checkpoints(model_dir)
    saved = directory.param_shapes()
    if known is None:
      return self._arrays_from(directory, saved, partitioner)
    narrower = extension.narrower(shapes, declarations, saved)
    params = directory.restore_params(partitioner.place(*narrower))[1]
    with partitioner.activate():
      return extension.extended(params, fresh, declarations, known)

  def _arrays_from(self, directory: Checkpoints, saved: Mapping[str, tuple[int, ...]], partitioner: Partitioner) -> Any:
    """The newest parameters, whole ones where a directory has integers."""
    if isinstance(self.model, LanguageModel) and layout.leaves_by_name(self.model.declared[0]).keys() != saved.keys():
      for form in quantization.STORED:
        quantized = LanguageModel(self.model.config, form)
        shapes, declarations = quantized.declared
        if {name: leaf.shape for name, leaf in layout.leaves_by_name(shapes).items()} == saved:
          params = directory.restore_params(partitioner.place(shapes, declarations))[1]
          placed = jax.tree.map(lambda leaf: leaf.sharding, partitioner.place(*self.model.declared))
          return jax.jit(lambda params: quantization.arrays(params, declarations), out_shardings=placed)(params)
    return directory.restore_params(partitioner.place(*self.model.declared))[1]
