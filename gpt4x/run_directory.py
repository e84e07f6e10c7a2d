"""The names in a model directory."""

CONFIG = "config.gin"  # The configuration of the run, from which every command continues.
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
LOSSES = "loss.png"
PROFILE = "profile"
LOCK = "train.lock"  # Who writes here; see launch/lock.py.
# The run's own vocabulary: its class and arguments, and the file that it reads, if any.
VOCABULARY = "vocabulary.json"
SENTENCEPIECE = "sentencepiece.model"
WORDS = "words.txt"
TOKENIZER = "tokenizer.json"
OWN_VOCABULARY = "vocabulary.bin"
