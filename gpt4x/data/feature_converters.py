"""seqio feature converters: examples to rows of `decoder_*` features."""

from collections.abc import Mapping

from gpt4x.data import tensorflow_quietly  # noqa: F401

# isort: split
import seqio
import tensorflow as tf

BESIDE = "weights", "segments"  # What a task may know of each token of its targets.
_INT32 = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)


class WeightedLMFeatureConverter(seqio.LMFeatureConverter):
  """seqio's converter for targets alone, with what a task knows of each token.

  `weights` are those of the loss, 0 or 1. `segments` number the sequences of an example from 1: no token of one sees
  another, and each has an input of its own before its first token. Such examples are not packed. Id 0 may be a token.
  """

  MODEL_FEATURES: Mapping[str, seqio.FeatureConverter.FeatureSpec] = seqio.LMFeatureConverter.MODEL_FEATURES

  def __init__(self, beside: tuple[str, ...], **kwargs):
    """Takes which of BESIDE there are, `weights` among them."""
    super().__init__(**kwargs)
    self.TASK_FEATURES = dict.fromkeys(("targets", *beside), _INT32)
    if not self.pack:
      self.MODEL_FEATURES = {**self.MODEL_FEATURES, "decoder_segment_ids": _INT32}
    if "segments" in beside:
      self.MODEL_FEATURES = {**self.MODEL_FEATURES, "decoder_sequences": _INT32}

  def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
    # seqio takes 0 for padding, wherever it packs; between, all numbers are one more.
    ds = ds.map(lambda example: {name: example[name] + 1 for name in self.TASK_FEATURES})
    return self._pack_or_pad(ds, task_feature_lengths).map(self._convert_example, tf.data.AUTOTUNE)

  def _convert_example(self, features: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    less = {name: tf.maximum(features[name] - 1, 0) for name in self.TASK_FEATURES}
    found = dict(super()._convert_example({**features, **less}))
    found["decoder_loss_weights"] = less["weights"]
    if not self.pack:
      found["decoder_segment_ids"] = less.get("segments", tf.cast(features["weights"] > 0, tf.int32))
    if "segments" in less:
      found["decoder_sequences"] = less["segments"]
      found["decoder_input_tokens"] = seqio.utils.make_autoregressive_inputs(
          less["targets"], sequence_id=less["segments"], bos_id=self.bos_id)
    return found

  def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
    found = dict(super().get_model_feature_lengths(task_feature_lengths))
    return found | dict.fromkeys((*self.MODEL_FEATURES, "decoder_segment_ids"), task_feature_lengths["targets"])


class MaskedLMFeatureConverter(WeightedLMFeatureConverter):
  """Rows in which all tokens see each other, and those of weight 1 are predicted where they stand, from `inputs`."""

  MODEL_FEATURES = {**seqio.LMFeatureConverter.MODEL_FEATURES, "decoder_causal_attention": _INT32}

  def __init__(self, **kwargs):
    super().__init__(("weights", "inputs"), **kwargs)

  def _convert_example(self, features: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    return {**super()._convert_example(features), "decoder_input_tokens": tf.maximum(features["inputs"] - 1, 0),
            "decoder_causal_attention": tf.cast(features["weights"] > 0, tf.int32)}


def converter(kind: str, beside: tuple[str, ...], pack: bool, bos_id: int) -> seqio.FeatureConverter:
  """The converter of a DatasetConfig's `feature_converter`, for a task with features `beside` its targets."""
  if kind == "masked_lm":
    return MaskedLMFeatureConverter(pack=pack, bos_id=bos_id)
  if beside:
    return WeightedLMFeatureConverter(beside, pack=pack, bos_id=bos_id)
  made = seqio.LMFeatureConverter if kind == "lm" else seqio.PrefixLMFeatureConverter
  return made(pack=pack, bos_id=bos_id)
