"""The frozen model that a policy is compared with: one of its own directory, or the base under its adapters."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
from jaxtyping import Float

from gpt4x.errors import refuse, UserError
from gpt4x.models import saved_model
from gpt4x.models.language_model import Batch, LanguageModel, Params
from gpt4x.models.saved_model import SavedModel
from gpt4x.models.shapes import Array


class Referring(Protocol):
  """What counts here of an objective with a reference."""

  @property
  def reference(self) -> str | None: ...
  @property
  def step(self) -> int | None: ...
  @property
  def dtype(self) -> saved_model.DType: ...
  @property
  def saved(self) -> SavedModel | None: ...


def frozen_models(objective: Referring) -> dict[str, SavedModel]:
  """The reference, where a directory is named; only where training or evaluation asks for it is it looked for."""
  if objective.reference is None:
    return {}
  parameter = f"{type(objective).__name__}.reference"
  return {"reference": objective.saved or saved_model.read(parameter, objective.reference, objective.step,
                                                           objective.dtype)}


def of(objective: Referring, model: LanguageModel, models: Mapping[str, SavedModel],
       frozen: Mapping[str, Params]) -> tuple[LanguageModel, Params]:
  """The reference and its parameters; a UserError if there is none that fits the model."""
  if not isinstance(model, LanguageModel):
    raise UserError(f"{type(objective).__name__} trains language models, and the model is a {type(model).__name__}:"
                    " choose another objective")
  name, found = "reference", models.get("reference")
  if found is None:
    name, found = "base", model.frozen_models.get("base")
  if found is None:
    raise UserError(f"{type(objective).__name__}.reference = None, and the model has no base under adapters: name the"
                    " directory of the model that training starts from")
  refuse(objective, model.config.vocab_size != found.model.config.vocab_size, "reference",
         f"gives logits of {found.model.config.vocab_size} ids: make TransformerConfig.vocab_size ="
         f" {model.config.vocab_size} as many, or name another")
  return found.model, frozen[name]


def token_log_probs(model: LanguageModel, params: Params, batch: Batch, dropout_rng: jax.Array | None = None,
                    ) -> tuple[Float[Array, "B L"], Any]:
  """The log-probability of each target of rows that stand alone, and the model's own sums."""
  tokens = batch["decoder_input_tokens"]
  output = model.forward(params, tokens, model.initial_memory(len(tokens), 0), batch["decoder_segment_ids"],
                         batch.get("decoder_causal_attention"), dropout_rng=dropout_rng)
  return model.token_log_probs(params, output.hidden, batch["decoder_target_tokens"]), output.sums
