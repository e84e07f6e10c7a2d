"""A model of Llama's architecture as a GGUF file, for llama.cpp and what is built on it.

That is rotary positions, RMS norms in front, SwiGLU, no biases and one table, with no memory before the text: within
the window that it is written with, such a model is a Llama. Where `embed` scales by sqrt(D), that goes into the table.
"""

from collections.abc import Iterator, Mapping
import os
from typing import Any, TYPE_CHECKING

import gguf
import numpy as np

from gpt4x import storage
from gpt4x.data import vocabularies
from gpt4x.errors import UserError
from gpt4x.inference.engine import BOS
from gpt4x.interop import decoding_weights
from gpt4x.interop.decoding_weights import Weight
from gpt4x.models.config import TransformerConfig

if TYPE_CHECKING:
  import seqio

NAME = "model.gguf"
TYPES = {"gguf": gguf.GGMLQuantizationType.F32, "gguf-f16": gguf.GGMLQuantizationType.F16,
         "gguf-q8_0": gguf.GGMLQuantizationType.Q8_0}
_FILE_TYPES = {"gguf": gguf.LlamaFileType.ALL_F32, "gguf-f16": gguf.LlamaFileType.MOSTLY_F16,
               "gguf-q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
# What a Llama has; everything else is a size, or has to do with training or execution.
_NEEDED: dict[str, Any] = {
    "positions": "rotary", "norm": "rms", "norm_position": "pre", "activation": "swiglu", "mlp_bias": False,
    "qkv_bias": False, "qk_norm": False, "output_bias": False, "moe": None, "adaptive_cutoffs": ()}
_READ_BY_LLAMA = "SentencePieceVocabulary", "LosslessSentencePieceVocabulary"
_KERNELS = {"attention.value": "attn_v", "mlp.wi_gate": "ffn_gate", "mlp.wi": "ffn_up", "mlp.wo": "ffn_down"}
_NORMS = {"attention_norm.scale": "attn_norm", "mlp_norm.scale": "ffn_norm"}


def check_free(directory: str | os.PathLike) -> None:
  """Raises UserError if the file would take the place of something."""
  if (path := storage.path(directory) / NAME).exists():
    raise UserError(f"{path} is there already: choose another directory, or remove it")


def check(config: TransformerConfig, vocabulary: "seqio.Vocabulary | None") -> None:
  """Raises UserError for a model that is no Llama, or a vocabulary that llama.cpp does not read."""
  for name, needed in _NEEDED.items():
    if (found := getattr(config, name)) != needed:
      raise UserError(f"GGUF is for models of Llama's architecture: {name} is {found!r}, and {needed!r} there; choose"
                      " another --format")
  if config.has_projections:
    raise UserError(f"GGUF is for models of Llama's architecture: vocab_embed_dim is {config.vocab_embed_dim}, and"
                    f" {config.embed_dim} there; choose another --format")
  if vocabulary is not None and (name := vocabularies.spec(vocabulary)["class"]) not in _READ_BY_LLAMA:
    raise UserError(f"GGUF needs a SentencePiece vocabulary, and this is a {name}: choose another --format")


def save(directory: str | os.PathLike, config: TransformerConfig, parameters: Mapping[str, Weight], window: int,
         kind: str = "gguf", vocabulary: "seqio.Vocabulary | None" = None) -> None:
  """Writes model.gguf into a directory without one.

  Args:
    directory: where to.
    config: the model's.
    parameters: layer by layer, as `decoding_weights.named` gives them.
    window: positions that a token sees, which llama.cpp takes as the longest text.
    kind: one of TYPES: the type of matrices. Norms are float32, and matrices that have no whole blocks are too.
    vocabulary: of SentencePiece; None: the file has none, and tokens are numbers.
  """
  check(config, vocabulary)
  check_free(directory)
  storage.make_directory(storage.path(directory))
  with storage.new_file(storage.path(directory) / NAME) as unfinished:
    writer = gguf.GGUFWriter(unfinished, "llama")
    _describe(writer, config, window, kind)
    _add_vocabulary(writer, config, vocabulary)
    for name, array in tensors(config, parameters):
      plain = array.ndim == 1 or array.shape[-1] % gguf.GGML_QUANT_SIZES[TYPES[kind]][0]
      wanted = gguf.GGMLQuantizationType.F32 if plain else TYPES[kind]
      writer.add_tensor(name, gguf.quants.quantize(array, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(config: TransformerConfig, parameters: Mapping[str, Weight]) -> Iterator[tuple[str, np.ndarray]]:
  """Llama's tensors by GGUF's names, matrices as [O, I]."""
  c = config
  found = lambda name: decoding_weights.dense(parameters[name])
  matrix = lambda kernel, inputs: np.ascontiguousarray(kernel.reshape(inputs, -1).T)
  table = found("vocabulary.table")
  yield "token_embd.weight", table * np.float32(c.embed_dim**0.5) if c.scale_embeddings else table
  yield "output.weight", table if c.tie_embeddings else found("vocabulary.output_kernel")
  yield "output_norm.weight", found("final_norm.scale")
  for i in range(c.num_layers):
    layer, block = f"layers.{i // c.share_layers}.", f"blk.{i}."
    for name, norm in _NORMS.items():
      yield f"{block}{norm}.weight", found(layer + name)
    for name, other in (("query", "attn_q"), ("key", "attn_k")):
      # Llama's rotary pairs lie side by side, ours are the halves of a head.
      kernel = found(f"{layer}attention.{name}")
      paired = np.swapaxes(kernel.reshape(*kernel.shape[:2], 2, -1), 2, 3)
      yield f"{block}{other}.weight", matrix(paired, c.embed_dim)
    yield f"{block}attn_output.weight", matrix(found(f"{layer}attention.out"), c.num_heads * c.head_dim)
    for name, other in _KERNELS.items():
      kernel = found(layer + name)
      yield f"{block}{other}.weight", matrix(kernel, kernel.shape[0])


def _describe(writer: gguf.GGUFWriter, c: TransformerConfig, window: int, kind: str) -> None:
  writer.add_file_type(_FILE_TYPES[kind])
  writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
  writer.add_context_length(window)
  writer.add_embedding_length(c.embed_dim)
  writer.add_block_count(c.num_layers)
  writer.add_feed_forward_length(c.mlp_dim)
  writer.add_head_count(c.num_heads)
  writer.add_head_count_kv(c.num_kv_heads)
  writer.add_key_length(c.head_dim)
  writer.add_value_length(c.head_dim)
  writer.add_rope_dimension_count(c.head_dim)
  writer.add_rope_freq_base(c.rotary_base)
  writer.add_layer_norm_rms_eps(c.norm_epsilon)
  writer.add_vocab_size(c.vocab_size)


def _add_vocabulary(writer: gguf.GGUFWriter, c: TransformerConfig, vocabulary: Any) -> None:
  if vocabulary is None:
    writer.add_tokenizer_model("no_vocab")
    return
  from sentencepiece import sentencepiece_model_pb2
  pieces = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.sp_model)  # type: ignore[attr-defined]
  # llama.cpp has one reader for SentencePiece's BPE, "llama", and one for its unigrams, "t5".
  unigrams = pieces.trainer_spec.model_type == pieces.trainer_spec.UNIGRAM
  writer.add_tokenizer_model("t5" if unigrams else "llama")
  known = pieces.pieces[:c.vocab_size]
  beyond = range(len(known), c.vocab_size)
  # The types have SentencePiece's numbers.
  writer.add_token_list([*(one.piece for one in known), *(f"[PAD{i}]" for i in beyond)])
  writer.add_token_scores([*(one.score for one in known), *(-1000.0 for _ in beyond)])
  writer.add_token_types([*(one.type for one in known), *(gguf.TokenType.UNUSED for _ in beyond)])
  writer.add_add_space_prefix(pieces.normalizer_spec.add_dummy_prefix)
  writer.add_remove_extra_whitespaces(pieces.normalizer_spec.remove_extra_whitespaces)
  if unigrams and pieces.normalizer_spec.precompiled_charsmap:
    writer.add_precompiled_charsmap(pieces.normalizer_spec.precompiled_charsmap)
  writer.add_bos_token_id(BOS)
  writer.add_eos_token_id(vocabulary.eos_id)
  writer.add_unk_token_id(vocabulary.unk_id)
  writer.add_add_bos_token(True)  # Every document begins so.
  writer.add_add_eos_token(False)
