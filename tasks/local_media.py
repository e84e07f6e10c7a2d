"""Media on this machine: gin's `LocalMedia.files` says which, and `MediaTokens` what codes them."""

import functools

import seqio

from gpt4x.media.byte_examples import media_bytes
from gpt4x.media.medium import MEDIA
from gpt4x.media.preprocessors import append_eos, drop_condition, inputs_and_targets, media_codes, targets
from gpt4x.media.source import LocalMediaSource
from gpt4x.media.text_metrics import accuracy, word_error_rate
from gpt4x.media.vocabulary import MediaVocabulary


class _Task(seqio.Task):
  """Mixes 10,000 lines, which are often sorted by label or speaker, or all if they are fewer.

  A buffer of more than all would fill itself with pass after pass before the first example.
  """

  def get_dataset(self, sequence_length=None, split="train", **options):
    if options.get("shuffle", True):
      options.setdefault("shuffle_buffer_size", min(10_000, self.source.num_input_examples(split)))
    return super().get_dataset(sequence_length, split, **options)


# Documents, for pre-training: parts in their order, a caption before or behind its medium.
seqio.TaskRegistry.add_provider("local_media", _Task(
    "local_media",
    source=LocalMediaSource("document"),
    preprocessors=[media_codes, targets, append_eos],
    output_features={"targets": seqio.Feature(MediaVocabulary(), add_eos=True)},
))

# Understanding: media, and a question if there is one, are the inputs.
seqio.TaskRegistry.add_provider("local_media_to_text", _Task(
    "local_media_to_text",
    source=LocalMediaSource("to_text"),
    preprocessors=[media_codes, inputs_and_targets, append_eos],
    output_features={"inputs": seqio.Feature(MediaVocabulary(), add_eos=False),
                     "targets": seqio.Feature(MediaVocabulary(), add_eos=True)},
    metric_fns=[accuracy, word_error_rate],
))

# Generation: some of the texts are dropped in training, for guidance.
seqio.TaskRegistry.add_provider("local_text_to_media", _Task(
    "local_text_to_media",
    source=LocalMediaSource("to_media"),
    preprocessors=[media_codes, inputs_and_targets, drop_condition, append_eos],
    output_features={"inputs": seqio.Feature(MediaVocabulary(), add_eos=False),
                     "targets": seqio.Feature(MediaVocabulary(), add_eos=True)},
))

# One model of both, of records that have a medium and its text.
seqio.MixtureRegistry.add("local_media_both_ways", ["local_media_to_text", "local_text_to_media"], default_rate=1.0)

# Pixels or samples of one length, for the training of codecs: local_image_bytes, local_audio_bytes, local_video_bytes.
for _medium in MEDIA:
  seqio.TaskRegistry.add(
      f"local_{_medium}_bytes",
      source=LocalMediaSource(_medium),  # type: ignore[arg-type]
      preprocessors=[functools.partial(media_bytes, medium=_medium)],
      output_features={"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=False)},
  )
