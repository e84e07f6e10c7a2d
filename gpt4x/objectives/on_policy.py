"""Rows that a model continues by itself, within the training step."""

from typing import Any

import jax
import jax.numpy as jnp

from gpt4x.errors import refuse, UserError
from gpt4x.models.language_model import Batch, LanguageModel, Params
from gpt4x.models.memory import Memory


def check(objective: Any, model: LanguageModel) -> None:
  """Raises UserError for a model that cannot decode as it trains."""
  refuse(objective, model.config.empty_memory == "zeros", "on_policy",
         "draws from a memory with room to spare, which TransformerConfig.empty_memory = 'zeros' would attend to: set"
         " that to 'masked', or on_policy to 0")


def continued(model: LanguageModel, params: Params, batch: Batch, memory: Memory, prompt_length: int | None,
              eos_id: int | None, rng: jax.Array) -> dict[str, jax.Array]:
  """The first tokens of each row, and behind them what the model draws, as the document that the last of them is of.

  It draws from its own distribution, all ids at temperature 1, with the memory that the rows have and no dropout. Only
  what is drawn has a weight, 1 up to the first end; where padding comes before, nothing has.
  """
  if "decoder_causal_attention" in batch:
    raise UserError("Distillation.on_policy continues rows of one length of prompt, and those of 'prefix_lm' have many:"
                    " set it to 0, or DatasetConfig.feature_converter to another")
  tokens, documents = batch["decoder_input_tokens"], batch["decoder_segment_ids"]
  length = tokens.shape[1]
  prompt = length // 2 if prompt_length is None else prompt_length
  if not 0 < prompt < length:
    raise UserError(f"Distillation.prompt_length = {prompt_length} leaves nothing of rows of {length} tokens to draw:"
                    f" make it at most {length - 1}")
  # Room for the whole segment: then no token takes the place of one that a segment would still see.
  room = 0 if model.config.same_length and memory.length else length
  past = model.project_memory(params, memory).after_empty(room)
  logits, past = model.prefill(params, tokens[:, :prompt], documents[:, :prompt], past)
  last = documents[:, prompt - 1]

  def draw(carry, key):
    token, cache = carry
    logits, cache = model.decode_step(params, token, cache, last)
    token = _draw(key, logits)
    return (token, cache), token

  first, others = jax.random.split(rng)
  token = _draw(first, logits)
  _, drawn = jax.lax.scan(draw, (token, model.start_decoding(params, past)), jax.random.split(others, length - prompt))
  drawn = jnp.concatenate([token[:, None], drawn.T], 1)
  ends = (drawn == eos_id) if eos_id is not None else jnp.zeros_like(drawn, bool)
  counted = (jnp.cumsum(ends, 1) - ends == 0) & (last > 0)[:, None]
  return {
      "decoder_input_tokens": jnp.concatenate([tokens[:, :prompt], drawn[:, :-1]], 1),
      "decoder_target_tokens": jnp.concatenate([batch["decoder_target_tokens"][:, :prompt - 1], drawn], 1),
      "decoder_segment_ids": jnp.concatenate([documents[:, :prompt], jnp.repeat(last[:, None], length - prompt, 1)], 1),
      "decoder_loss_weights": jnp.pad(counted.astype(jnp.float32), ((0, 0), (prompt - 1, 0)))}


def _draw(key: jax.Array, logits: jax.Array) -> jax.Array:
  return jax.random.categorical(key, logits).astype(jnp.int32)
