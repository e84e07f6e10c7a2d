"""What the name of a model stands for, and models read from there and written.

A name is a directory of ours (a run, or a model that was saved or converted), one in the layout of Hugging Face, a
model that ships with this package, or one of the hub's.
"""

import dataclasses
import os
import pathlib
from typing import Any, NamedTuple

from gpt4x import configuration, run_directory, storage
from gpt4x.checkpoints.manager import Checkpoints
from gpt4x.compression import quantization
from gpt4x.data import vocabularies
from gpt4x.data.chat_template import Template
from gpt4x.errors import one_line, UserError
from gpt4x.experiment import Experiment
from gpt4x.interop import exports, hugging_face, json_files, model_directories, tokenizer_files
from gpt4x.interop.model_directories import Foreign
from gpt4x.launch import lock
import gpt4x.media.vocabulary  # noqa: F401  Registers its class, which a run may have.
from gpt4x.models.config import TransformerConfig
from gpt4x.models.language_model import LanguageModel
from gpt4x.partitioning import Partitioner

SHIPPED = pathlib.Path(__file__).resolve().parents[1] / "shipped"
# What the hub may have of a model beside its weights in safetensors.
_NOT_NEEDED = ["*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "original/*", "onnx/*"]


Tokens = tuple[int, int | None, int | None]  # The ids of bos, eos and pad.


class Sizes(NamedTuple):
  """What a GPT4Config is made of; without `n_positions` a token sees the memory alone."""

  transformer: TransformerConfig
  n_positions: int | None
  tokens: Tokens


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A model that was read.

  Attributes:
    sizes: its configuration.
    params: its parameters; None where they were not asked for.
    vocabulary: what its ids stand for, if it came with that.
    place: (directory, step) of the checkpoint that has these parameters as they are; None: no checkpoint has.
    sees_prompts_whole: whether a prompt's tokens see each other in both directions (a prefix LM).
    files: what was beside the model and is to be kept with it, by name.
  """

  sizes: Sizes
  params: Any
  vocabulary: Any
  place: tuple[str, int] | None = None
  sees_prompts_whole: bool = False
  files: dict[str, bytes] = dataclasses.field(default_factory=dict)


def find(name: str | os.PathLike) -> pathlib.Path:
  """The directory that a name stands for, of this machine or of an object store."""
  text = os.fspath(name)
  where = storage.path(text)
  if storage.is_remote(text) or where.is_dir():
    return where
  shipped = sorted(path.name for path in SHIPPED.glob("*") if path.is_dir()) if SHIPPED.is_dir() else []
  if text in shipped:
    return SHIPPED / text
  known = f" (with gpt4x come: {', '.join(shipped)})" if shipped else ""
  what = f"there is no model {text!r}: it is no directory here, and none that comes with gpt4x{known}"
  if text.startswith((".", "/", "~", os.sep)) or text.count("/") > 1 or not text:
    raise UserError(f"{what}: correct the path")
  return _from_hub(text, what)


def _from_hub(name: str, what: str) -> pathlib.Path:
  try:
    import huggingface_hub
  except ImportError:
    raise UserError(f"{what}: name another, or pip install huggingface_hub for models of the hub") from None
  try:
    return pathlib.Path(huggingface_hub.snapshot_download(name, ignore_patterns=_NOT_NEEDED))
  except Exception as error:  # Of the network, of the hub, of its library: none is ours to tell apart.
    raise UserError(f"{what}, and the hub did not give it ({type(error).__name__}: {one_line(error, 120)}): correct the"
                    " name, or see to the network") from None


def read_vocabulary(directory: pathlib.Path) -> Any:
  """The vocabulary of a directory; a UserError if it has none that we can read."""
  if vocabularies.saved_in(directory) and (directory / run_directory.VOCABULARY).exists():
    return vocabularies.load(directory)
  with storage.local_copy(directory, "*.json") as here:
    found = tokenizer_files.vocabulary(here)
  if found is None:
    raise UserError(f"{directory} has no tokenizer ({run_directory.VOCABULARY} or {run_directory.TOKENIZER}): name the"
                    " directory that has it")
  return found


def read_template(directory: pathlib.Path) -> Template | None:
  """How the model of a directory writes conversations, if anything there says so."""
  with storage.local_copy(directory, "*.j*") as here:  # jinja and json.
    content = tokenizer_files.kept(here).get(run_directory.CHAT_TEMPLATE)
  return None if content is None else Template(content.decode("utf-8", "replace"), f"the template of {directory}")


def read_sizes(directory: pathlib.Path) -> Sizes:
  """The configuration of a model, without its weights."""
  if _is_ours(directory):
    return _of_run(_experiment(directory))
  path = directory / hugging_face.CONFIG
  _check_foreign(path)
  if _format(path) == "export":
    return _of_foreign(_read_foreign(directory), directory)  # Its sizes are checked with its weights alone.
  vocabulary = tokenizer_files.vocabulary(directory)
  config = hugging_face.read_config(path)
  window = hugging_face.segment_length(path) + (config.eval_memory_length or 0)
  return Sizes(config, window, _tokens(vocabulary, path))


def read(directory: pathlib.Path) -> Loaded:
  """A model with its weights, on one device."""
  if not _is_ours(directory):
    _check_foreign(directory / hugging_face.CONFIG)
    found = _read_foreign(directory)
    return Loaded(_of_foreign(found, directory), found.params, found.vocabulary, files=dict(found.files))
  where, experiment = str(directory), _experiment(directory)
  model = experiment.language_model
  step, params = experiment.restore_params(where, Partitioner(data=1, num_devices=1))
  plain = model is experiment.model and model.form is None
  if model.form is not None:
    params = quantization.arrays(params, model.declared[1])
  return Loaded(_of_run(experiment), params, experiment.vocabulary, (where, step) if plain else None,
                experiment.dataset.feature_converter == "prefix_lm", tokenizer_files.copied(directory))


def save(directory: str | os.PathLike, model: LanguageModel, params: Any, segment_length: int, vocabulary: Any,
         files: dict[str, bytes]) -> tuple[str, int]:
  """Writes a model directory, which `gpt4x generate` reads; returns (directory, step of the checkpoint).

  Where a model was saved before, this is a newer checkpoint: nothing is lost. The directory of a run is refused.
  """
  where = storage.path(directory)
  if (where / run_directory.ENVIRONMENT).exists():
    raise UserError(f"{where} has a training run, which a model would be mixed up with: name another directory")
  if vocabulary is None and (where / run_directory.VOCABULARY).exists():
    vocabulary = vocabularies.load(where)  # The tokenizer was saved first.
  with lock.held(str(where)):
    latest = Checkpoints(str(where)).latest_step()
    step = 0 if latest is None else latest + 1
    model_directories.keep_new(where, model, params, vocabulary, segment_length, files, step)
  return str(where), step


def _is_ours(directory: pathlib.Path) -> bool:
  """Whether a directory has checkpoints: what `gpt4x export` wrote has a config.gin as well."""
  return (directory / run_directory.CHECKPOINTS).exists() and (directory / run_directory.CONFIG).exists()


def _check_foreign(path: pathlib.Path) -> None:
  if storage.is_remote(path) or not path.exists():
    raise UserError(f"{path.parent} has no model: neither {run_directory.CONFIG} with {run_directory.CHECKPOINTS}, as"
                    f" gpt4x writes it, nor {path.name} with weights: correct the path")


def _format(path: pathlib.Path) -> str:
  """What `gpt4x convert` calls the format of a config.json."""
  return "export" if json_files.read(path).get("format") == exports.FORMAT else "huggingface"


def _read_foreign(directory: pathlib.Path) -> Foreign:
  return model_directories.read(_format(directory / hugging_face.CONFIG), directory, directory)


def _of_foreign(found: Foreign, directory: pathlib.Path) -> Sizes:
  tokens = _tokens(found.vocabulary, directory / hugging_face.CONFIG)
  return Sizes(found.model.config, _window(found.model.config, found.segment_length), tokens)


def _experiment(directory: pathlib.Path) -> Experiment:
  return configuration.build_of(str(directory), "Experiment").of_run(str(directory))


def _of_run(experiment: Experiment) -> Sizes:
  config = experiment.language_model.config
  return Sizes(config, _window(config, experiment.dataset.segment_length), tokens_of(experiment.vocabulary))


def _window(config: TransformerConfig, segment_length: int) -> int | None:
  """The positions that a token sees: a segment, and the longer of the memories that the model may have."""
  memory = max(config.memory_length, config.eval_memory_length or 0)
  return None if config.same_length and memory else memory + segment_length


def tokens_of(vocabulary: Any) -> Tokens:
  """The ids of bos, eos and pad, as a GPT4Config has them."""
  if vocabulary is None:
    return 0, None, None
  return vocabularies.start_id(vocabulary), vocabulary.eos_id, vocabulary.pad_id


def _tokens(vocabulary: Any, path: pathlib.Path) -> Tokens:
  if vocabulary is not None:
    return tokens_of(vocabulary)
  content = json_files.read(path)  # What a model without a tokenizer says itself.
  bos, eos, pad = (value if isinstance(value := content.get(f"{name}_token_id"), int) else None
                   for name in ("bos", "eos", "pad"))
  return bos or 0, eos, pad
