"""Model directories: of models in other formats, and of compressed ones."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import jax.numpy as jnp
import seqio

from gpt4x import configuration, run_directory, storage
from gpt4x.checkpoints import frozen_models
from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from gpt4x.interop import exports, hugging_face, peft_files, tokenizer_files, transfo_xl
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.models.saved_model import SavedModel

# The data of a model that comes without any: text files of the user, which eval and fine-tuning ask for.
_DATA = """
import gpt4x.tasks
MIXTURE_OR_TASK_NAME = '{task}'
TASK_FEATURE_LENGTHS = {{'targets': {segment_length}}}
BATCH_SIZE = 8
"""
_TASKS = {"ByteVocabulary": "local_text_bytes", "WordVocabulary": "local_text_words", "NoneType": "local_text_words",
          "HuggingFaceVocabulary": "local_text_tokenizer"}


@dataclasses.dataclass(frozen=True)
class Foreign:
  """A model of another format, and its configuration."""

  model: LanguageModel
  params: Any
  vocabulary: seqio.Vocabulary | None
  text: str | None  # The gin text that it came with.
  bindings: Sequence[str]  # Gin bindings of the model and of the file of its words.
  segment_length: int = 128  # For a model that came without gin text.
  files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)  # What is kept beside the model, by name.

  @property
  def data(self) -> str:
    """Gin text of the data, for a model that came without gin text."""
    task = _TASKS.get(type(self.vocabulary).__name__, "local_text_spm")
    return _DATA.format(task=task, segment_length=self.segment_length)


def read(source: str, directory: pathlib.Path, model_dir: pathlib.Path) -> Foreign:
  """Reads a directory of format `source`, as convert's flag --from has it; writes words of it into `model_dir`."""
  vocabulary = text = None
  more: dict[str, Any] = {}
  if source == "transfo_xl":
    model, params = transfo_xl.from_hugging_face(directory)
    if (words := transfo_xl.read_words(directory)) is not None:
      vocabulary = vocabularies.write_words(words, model_dir)
  elif source == "huggingface":
    model, params = hugging_face.load(directory)
    vocabulary = tokenizer_files.vocabulary(directory)
    more = {"segment_length": hugging_face.segment_length(directory / hugging_face.CONFIG),
            "files": tokenizer_files.kept(directory)}
  else:
    model, params = exports.load(directory)
    if (directory / run_directory.VOCABULARY).exists():
      import gpt4x.media.vocabulary  # noqa: F401  Registers its class.
      vocabulary = vocabularies.load(directory)
    if (config := directory / run_directory.CONFIG).exists():
      try:
        text = config.read_text(encoding="utf-8")
      except UnicodeDecodeError as error:
        raise UserError(f"{config} is not UTF-8 at byte {error.start}: copy it again") from error
  if vocabulary is not None and vocabulary.vocab_size > model.config.vocab_size:
    raise UserError(f"{directory}: the vocabulary has {vocabulary.vocab_size} ids, and the model"
                    f" {model.config.vocab_size}: copy the one that belongs to it")
  return Foreign(model, params, vocabulary, text, bindings_of(model.config, vocabulary, model_dir), **more)


def bindings_of(config: TransformerConfig, vocabulary: seqio.Vocabulary | None, model_dir: pathlib.Path) -> list[str]:
  """Gin bindings of a model, and of the files of its vocabulary in `model_dir`."""
  fields = dataclasses.asdict(config)
  bindings = ["LanguageModel.form=None"]
  for field, cls in (("moe", "MoEConfig"), ("code_places", "CodePlaces")):
    parts = fields.pop(field) or {}
    bindings += [f"{cls}.{name}={value!r}" for name, value in parts.items()]
    bindings.append(f"TransformerConfig.{field}={f'@{cls}()' if parts else None}")
  bindings += [f"TransformerConfig.{name}={value!r}" for name, value in fields.items()]
  if isinstance(vocabulary, vocabularies.WordVocabulary):
    file = model_dir / run_directory.WORDS
    bindings.append(f"LocalText.words={str(file if storage.is_remote(file) else file.absolute())!r}")
  if isinstance(vocabulary, vocabularies.HuggingFaceVocabulary):
    where = model_dir if storage.is_remote(model_dir) else model_dir.absolute()
    bindings.append(f"LocalText.tokenizer={str(where)!r}")
  return bindings


def keep(model_dir: pathlib.Path, found: Foreign, step: int = 0, where: str = "the model's configuration") -> None:
  """Makes a model directory of a model; `where` is what it came from, for messages."""
  files, text = (["runs/experiment.gin"], found.data) if found.text is None else ([], found.text)
  text = configuration.text_of(files, found.bindings, text, where)
  for name, content in found.files.items():
    storage.make_directory((model_dir / name).parent)
    storage.write(model_dir / name, content)
  write(model_dir, found.params, found.vocabulary, text, step, found.model.frozen_models)


def keep_new(model_dir: pathlib.Path, model: LanguageModel, params: Any, vocabulary: seqio.Vocabulary | None,
             segment_length: int, files: Mapping[str, bytes], step: int = 0) -> None:
  """`keep` for a model that came from nowhere; `files` are what is kept beside it, by name."""
  bindings = bindings_of(model.config, vocabulary, model_dir)
  keep(model_dir, Foreign(model, params, vocabulary, None, bindings, segment_length, files), step)


def read_adapters(directory: pathlib.Path, base: str) -> Foreign:
  """Reads adapters of PEFT's for the model in the directory `base`, whose data, words and configuration they have."""
  model, params = peft_files.load(directory, base)
  where = base if storage.is_remote(base) else str(storage.path(base).absolute())
  bindings = ["LanguageModel.form=@LowRank()", f"LowRank.base={where!r}",
              *(f"LowRank.{name}={getattr(model.form, name)!r}" for name in ("rank", "alpha", "kernels"))]
  vocabulary = vocabularies.load(base) if vocabularies.saved_in(base) else None
  text = configuration.read(storage.path(base) / run_directory.CONFIG)
  return Foreign(model, params, vocabulary, text, bindings, files=tokenizer_files.copied(base))


def write(model_dir: pathlib.Path, params: Any, vocabulary: seqio.Vocabulary | None, config_text: str,
          step: int = 0, models: Mapping[str, SavedModel] | None = None) -> None:
  """Writes a model directory, as `eval`, `generate` and `train.init_from` read it; `models` are those it needs."""
  if vocabulary is not None:
    vocabularies.save(vocabulary, model_dir)
  checkpoints = Checkpoints(str(model_dir), CheckpointConfig())
  checkpoints.save(step, {"params": params, "step": jnp.asarray(step, jnp.int32)}, data_state={}, seed=0,
                   config_text=config_text, wait=True, frozen=frozen_models.find(models or {}, {}))
  checkpoints.close()
  storage.write(model_dir / run_directory.CONFIG, config_text.encode())
