"""Public images, sounds and videos with their texts, read by tensorflow-datasets where the network is.

Each set is three tasks: NAME has documents, NAME_to_text understands, and text_to_NAME makes; one of questions has two.
"""

import functools

import seqio

from gpt4x.media.preprocessors import append_eos, drop_condition, inputs_and_targets, targets
from gpt4x.media.public import array_codes, PublicSet, PublicSource
from gpt4x.media.text_metrics import accuracy, word_error_rate
from gpt4x.media.vocabulary import MediaVocabulary

_ALL = {"train": "train", "validation": "validation", "test": "test"}

SETS = {
    "coco_captions": PublicSet(
        "coco_captions:1.1.0", {"train": "train+restval", "validation": "val", "test": "test"}, "image", "image",
        "captions/text"),
    "clevr": PublicSet(
        "clevr:3.1.0", {"train": "train", "validation": "validation"}, "image", "image", "question_answer/answer",
        questions="question_answer/question"),
    # Its labels are WordNet's, such as n01440764. The archives have to be fetched by hand.
    "imagenet": PublicSet(
        "imagenet2012:5.1.0", {"train": "train", "validation": "validation"}, "image", "image", "label"),
    "librispeech": PublicSet(
        "librispeech/default:2.1.1",
        {"train": "train_clean100+train_clean360+train_other500", "validation": "dev_clean", "test": "test_clean"},
        "audio", "speech", "text", rate=16000),
    "speech_commands": PublicSet("speech_commands:0.0.3", _ALL, "audio", "audio", "label", rate=16000),
    "spoken_digit": PublicSet(
        "spoken_digit:1.0.9", {"train": "train[:90%]", "validation": "train[90%:]"}, "audio", "audio", "label",
        rate=8000),
    "ucf101": PublicSet(
        "ucf101/ucf101_1_256:2.0.0", {"train": "train", "validation": "test"}, "video", "video", "label", rate=25),
    # The videos have to be fetched by hand.
    "webvid": PublicSet(
        "webvid:1.0.0", {"train": "train", "validation": "validation"}, "video", "video", "caption", rate=30),
}

_TARGETS = {"targets": seqio.Feature(MediaVocabulary(), add_eos=True)}
_BOTH = {"inputs": seqio.Feature(MediaVocabulary(), add_eos=False), **_TARGETS}

for _name, _set in SETS.items():
  _codes = functools.partial(array_codes, public=_set, text_first=False)
  seqio.TaskRegistry.add(
      _name, source=PublicSource(_set), preprocessors=[_codes, targets, append_eos], output_features=_TARGETS)
  seqio.TaskRegistry.add(
      f"{_name}_to_text", source=PublicSource(_set), preprocessors=[_codes, inputs_and_targets, append_eos],
      output_features=_BOTH, metric_fns=[accuracy, word_error_rate])
  if not _set.questions:
    seqio.TaskRegistry.add(
        f"text_to_{_name}", source=PublicSource(_set), output_features=_BOTH,
        preprocessors=[functools.partial(array_codes, public=_set, text_first=True), inputs_and_targets, drop_condition,
                       append_eos])
