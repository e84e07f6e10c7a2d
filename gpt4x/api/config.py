"""GPT4Config: the sizes of a model by the names of GPT-2's configuration."""

import dataclasses
import os
from typing import Any, Self

from gpt4x.api import pretrained
from gpt4x.errors import nearest, UserError
from gpt4x.models.config import MoEConfig, TransformerConfig
from gpt4x.models.places import CodePlaces

# GPT-2's names, and other names of transformers for the same; then those of TransformerConfig.
_NAMES = {"n_embd": "embed_dim", "n_layer": "num_layers", "n_head": "num_heads", "n_inner": "mlp_dim"}
_OTHERS = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
           "intermediate_size": "n_inner", "max_position_embeddings": "n_positions"}
_TOKENS = "bos_token_id", "eos_token_id", "pad_token_id"
# What the models of this project's family have in common (gin_configs/models/decoder.gin).
_FAMILY: dict[str, Any] = dict(positions="rotary", norm="rms", norm_position="pre", activation="swiglu",
                               mlp_bias=False, tie_embeddings=False)
_FREE = 1024  # Positions that a token sees beside the memory, unless it is said; GPT-2's n_positions.


class GPT4Config:
  """What a GPT4LMHeadModel is made by.

  Attributes:
    transformer: the TransformerConfig behind it. Its fields can be read here too.
    n_positions: the latest positions that a token sees, itself included: the longest text that is seen whole.
    bos_token_id: the input before a text's first token, which no text has in its ids.
    eos_token_id: the token that ends a text; None: none does.
    pad_token_id: fills up rows; None: any id may, where an attention mask says so.
  """

  model_type = "gpt4"

  def __init__(self, vocab_size: int = 50257, n_positions: int | None = None, n_embd: int = 768, n_layer: int = 12,
               n_head: int = 12, n_inner: int | None = None, memory_length: int = 0, *, bos_token_id: int = 0,
               eos_token_id: int | None = None, pad_token_id: int | None = None, **more: Any):
    """Takes GPT-2's names, the memory of training, and any field of TransformerConfig (models/config.py).

    Without `n_positions`, a token sees 1,024 beside the memory. What is not said is as in the models of this project's
    family: rotary positions, RMS norms in front, SwiGLU, no biases, untied embeddings.

    Raises:
      UserError: for a name that there is not, or a value that contradicts another.
    """
    named = dict(n_positions=n_positions, n_embd=n_embd, n_layer=n_layer, n_head=n_head, n_inner=n_inner)
    named |= {_OTHERS[name]: more.pop(name) for name in list(more) if name in _OTHERS}
    fields = {field.name for field in dataclasses.fields(TransformerConfig)}
    for name in more:
      if name not in fields:
        known = {"vocab_size", *named, *_TOKENS, *fields}
        raise UserError(f"GPT4Config has no {name}{nearest(name, known)}")
    more |= {name: cls(**more[name]) for name, cls in (("moe", MoEConfig), ("code_places", CodePlaces))
             if isinstance(more.get(name), dict)}
    sizes = {_NAMES[name]: value for name, value in named.items() if name in _NAMES}
    self._take(TransformerConfig(**{**_FAMILY, "vocab_size": vocab_size, "memory_length": memory_length, **sizes,
                                    **more}), named["n_positions"], (bos_token_id, eos_token_id, pad_token_id))

  @classmethod
  def of(cls, transformer: TransformerConfig, n_positions: int | None = None,
         tokens: pretrained.Tokens = (0, None, None)) -> Self:
    """The configuration around a TransformerConfig; `tokens` are the ids of bos, eos and pad."""
    made = cls.__new__(cls)
    made._take(transformer, n_positions, tokens)
    return made

  def _take(self, transformer: TransformerConfig, n_positions: int | None, tokens: pretrained.Tokens) -> None:
    self.transformer = transformer
    memory = self._memory
    whole = transformer.same_length and memory
    self.n_positions = n_positions if n_positions is not None else memory if whole else _FREE + memory
    self.bos_token_id, self.eos_token_id, self.pad_token_id = tokens
    if whole and self.n_positions != memory:
      raise UserError(f"GPT4Config.n_positions = {n_positions}, but with same_length a token sees the {memory} of the"
                      " memory: leave it out")
    if not whole and self.n_positions <= memory:
      raise UserError(f"GPT4Config.n_positions = {n_positions} must be above the memory of {memory}: a token sees that"
                      " and its own segment")

  @property
  def _memory(self) -> int:
    return max(self.transformer.memory_length, self.transformer.eval_memory_length or 0)

  @property
  def segment_length(self) -> int:
    """Tokens of a segment, which with the memory are what a token sees."""
    return self.n_positions - self._memory or self.n_positions

  @classmethod
  def from_pretrained(cls, name: str | os.PathLike, **changes: Any) -> Self:
    """The configuration of a model, found as GPT4LMHeadModel.from_pretrained finds it; no weights are read."""
    return cls.of(*pretrained.read_sizes(pretrained.find(name))).replaced(**changes)

  def replaced(self, **changes: Any) -> Self:
    """With other values of what GPT4Config(...) takes."""
    return type(self)(**self.to_dict() | changes)

  def to_dict(self) -> dict[str, Any]:
    """All that makes it again, by the names that `GPT4Config(...)` takes; JSON."""
    fields = dataclasses.asdict(self.transformer)
    ours = {field: name for name, field in _NAMES.items()}
    return {ours.get(name, name): list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()} | {
                "n_positions": self.n_positions, **{name: getattr(self, name) for name in _TOKENS}}

  def __getattr__(self, name: str) -> Any:
    if name.startswith("_") or name == "transformer":  # Before there is one, as while it is copied.
      raise AttributeError(name)
    if name in _OTHERS:
      return getattr(self, _OTHERS[name])
    try:
      return getattr(self.transformer, _NAMES.get(name, name))
    except AttributeError:
      raise AttributeError(f"GPT4Config has no {name}") from None

  def __eq__(self, other: Any) -> bool:
    return isinstance(other, GPT4Config) and self.to_dict() == other.to_dict()

  __hash__ = None  # type: ignore[assignment]

  def __repr__(self) -> str:
    return f"GPT4Config({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"
