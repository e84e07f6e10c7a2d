"""Files of weights, the files beside them, and what reads them."""

import collections
import json
import pathlib
import pickle
from typing import Any

import numpy as np
import safetensors.numpy

from benchmarks.fuzzing import mutations
from benchmarks.fuzzing.kinds import Kind
from gpt4x.interop import exports, tensor_files, torch_files, transfo_xl
from gpt4x.interop import hugging_face as hugging_face_models
from gpt4x.models.config import MoEConfig, TransformerConfig
from gpt4x.models.language_model import LanguageModel
from tests.interop import hugging_face, llama

_TENSORS = {"a.weight": np.arange(60, dtype=np.float32).reshape(5, 12), "b": np.ones(7, np.float32)}
_WORDS = ["<eos>", "<unk>", "the", "ünïcödé", ","]
_VOCABULARY = {"counter": collections.Counter(_WORDS), "special": ["<eos>"], "lower_case": False, "delimiter": None,
               "idx2sym": _WORDS, "sym2idx": collections.OrderedDict((word, i) for i, word in enumerate(_WORDS))}
_MEMORY = 64 << 20  # A changed file has some kilobytes, or five megabytes of operations.
_PICKLES = (mutations.edit_pickle, mutations.random_pickle, mutations.odd_number, mutations.odd_number,
            mutations.odd_object)


def _torch_zip(folder: pathlib.Path) -> None:
  hugging_face.torch_zip(folder / "pytorch_model.bin", _TENSORS)


def _torch_legacy(folder: pathlib.Path) -> None:
  hugging_face.torch_legacy(folder / "pytorch_model.bin", _TENSORS)


def _safetensors(folder: pathlib.Path) -> None:
  safetensors.numpy.save_file(_TENSORS, folder / "model.safetensors")


def _index(folder: pathlib.Path) -> None:
  for name, tensor in _TENSORS.items():
    safetensors.numpy.save_file({name: tensor}, folder / f"{name}.safetensors")
  (folder / "folder").mkdir()
  weight_map = {name: f"{name}.safetensors" for name in _TENSORS}
  (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total": 1}, "weight_map": weight_map}))


def _vocabulary_pickle(folder: pathlib.Path) -> None:
  (folder / "vocab.pkl").write_bytes(pickle.dumps(_VOCABULARY, protocol=4))


def _vocabulary_torch(folder: pathlib.Path) -> None:
  hugging_face.torch_legacy(folder / "vocab.bin", _VOCABULARY)


def _vocabulary_text(folder: pathlib.Path) -> None:
  (folder / "vocab.txt").write_text("".join(f"{word} 5\n" for word in _WORDS), encoding="utf-8")


def _hugging_face(folder: pathlib.Path) -> None:
  config = hugging_face.make_config(cutoffs=[5, 12], div_val=2, vocab_size=20)
  hugging_face.write(folder, config, hugging_face.make_tensors(config))


def _llama(folder: pathlib.Path) -> None:
  config = llama.make_config("mistral")
  llama.write(folder, config, llama.make_tensors(config))


def _export(folder: pathlib.Path) -> None:
  import jax
  model = LanguageModel(TransformerConfig(
      vocab_size=7, num_layers=2, embed_dim=4, num_heads=2, mlp_dim=6, adaptive_cutoffs=(3,), memory_length=3,
      moe=MoEConfig(num_experts=2, period=2)))
  exports.save(folder, model, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), model.declared[0]))


def _read_tensors(folder: pathlib.Path) -> None:
  file = tensor_files.open_directory(folder)
  for name, shape in file.shapes.items():
    assert np.array(file.read(name)).shape == shape
  for path in folder.glob("*.bin"):
    for tensor in torch_files.load(path).values():
      low, high = np.lib.array_utils.byte_bounds(tensor.array())
      first, last = np.lib.array_utils.byte_bounds(tensor.storage.numbers)
      assert first <= low <= high <= last or not tensor.array().size, "a tensor outside its storage"


def _read_words(folder: pathlib.Path) -> None:
  words: Any = transfo_xl.read_words(folder)
  assert "".join(words).encode() and all(word.split() == [word] for word in words) and len({*words}) == len(words)


KINDS = {
    "torch_zip": Kind(_torch_zip, {"pytorch_model.bin": mutations.any_of(
        *mutations.BYTES, mutations.in_zip(mutations.any_of(*mutations.BYTES)),
        *[mutations.in_zip(mutation, "data.pkl") for mutation in _PICKLES * 3])}, _read_tensors, memory=_MEMORY),
    "torch_legacy": Kind(_torch_legacy, {"pytorch_model.bin": mutations.any_of(
        *mutations.BYTES,
        *[mutations.last_pickle(mutation, count) for mutation in _PICKLES for count in (2, 3, 3, 4)])},
        _read_tensors, memory=_MEMORY),
    "vocabulary_pickle": Kind(_vocabulary_pickle, {"vocab.pkl": mutations.any_of(
        *mutations.BYTES, *_PICKLES * 2)}, _read_words, memory=_MEMORY),
    "vocabulary_torch": Kind(_vocabulary_torch, {"vocab.bin": mutations.any_of(
        *mutations.BYTES, *[mutations.last_pickle(mutation, 3) for mutation in _PICKLES * 2])},
        _read_words, memory=_MEMORY),
    "vocabulary_text": Kind(_vocabulary_text, {"vocab.txt": mutations.any_of(*mutations.BYTES, mutations.edit_text)},
                            _read_words, memory=_MEMORY),
    "safetensors": Kind(_safetensors, {"model.safetensors": mutations.any_of(
        *mutations.BYTES, *[mutations.json_in_safetensors] * 4)}, _read_tensors, memory=_MEMORY),
    "index": Kind(_index, {"model.safetensors.index.json": mutations.any_of(
        *mutations.BYTES, mutations.edit_text, *[mutations.edit_json] * 5)}, _read_tensors, memory=_MEMORY),
    "config": Kind(_hugging_face, {"config.json": mutations.any_of(
        mutations.flip_bits, mutations.edit_text, *[mutations.edit_json] * 5)}, transfo_xl.from_hugging_face),
    "llama": Kind(_llama, {"config.json": mutations.any_of(
        mutations.flip_bits, mutations.edit_text, *[mutations.edit_json] * 5)}, hugging_face_models.load),
    "export": Kind(_export, {"config.json": mutations.any_of(
        mutations.flip_bits, mutations.edit_text, *[mutations.edit_json] * 5)}, exports.load),
}
