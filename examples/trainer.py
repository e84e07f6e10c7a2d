"""Trains and fine-tunes by the classes that users of transformers know, and continues a prompt.

    python examples/trainer.py                  # 60 steps, about a minute on two CPU cores
    python examples/trainer.py --model=runs/example --steps=20 --file=letters.txt
    gpt4x generate --model_dir=runs/trainer --prompt="def main("

Without --model it makes a small model of bytes; without --file it trains on this machine's Python. It prints the loss
before and after, and what the model makes of a prompt. The same command with --resume goes on with the run.
"""

import argparse
import pathlib
import tempfile

from gpt4x import (
  DataCollatorForLanguageModeling,
  GPT4Config,
  GPT4LMHeadModel,
  GPT4Tokenizer,
  TextDataset,
  Trainer,
  TrainingArguments,
)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", help="a model to start from: a directory, a name that ships with gpt4x, or the hub's")
  parser.add_argument("--file", default=tempfile.__file__, help="text to train on")
  parser.add_argument("--output_dir", default="runs/trainer")
  parser.add_argument("--steps", type=int, default=60)
  parser.add_argument("--resume", action="store_true", help="go on with the run in --output_dir")
  arguments = parser.parse_args()

  if arguments.model:
    tokenizer = GPT4Tokenizer.from_pretrained(arguments.model)
    model = GPT4LMHeadModel.from_pretrained(arguments.model)
  else:
    tokenizer = GPT4Tokenizer.of_bytes()
    model = GPT4LMHeadModel(GPT4Config(vocab_size=384, n_positions=128, n_embd=64, n_layer=2, n_head=4))

  # Blocks of the file; the last tenth of them is held out.
  blocks = TextDataset(tokenizer, arguments.file, block_size=64)
  held_out = max(1, len(blocks) // 10)
  train, held = [blocks[i] for i in range(len(blocks) - held_out)], [blocks[-1 - i] for i in range(held_out)]

  trainer = Trainer(
      model=model,
      args=TrainingArguments(
          output_dir=arguments.output_dir, max_steps=arguments.steps, per_device_train_batch_size=16,
          learning_rate=3e-3, warmup_ratio=0.1, lr_scheduler_type="cosine", weight_decay=0.1, logging_steps=10,
          save_steps=50),
      data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),  # The next token, not masked ones.
      train_dataset=train, eval_dataset=held, tokenizer=tokenizer)

  before = trainer.evaluate()
  result = trainer.train(resume_from_checkpoint=arguments.resume)
  print(f"{pathlib.Path(arguments.file).name}: {len(blocks)} blocks, {result.global_step} steps")
  after = trainer.evaluate()
  print(f"bits per byte: {before['eval_bits_per_byte']:.3f} before, {after['eval_bits_per_byte']:.3f} after")

  prompt = tokenizer("def main(", return_tensors="np")
  ids = model.generate(prompt.input_ids, max_new_tokens=40, do_sample=True, temperature=0.7, seed=1)
  print(repr(tokenizer.decode(ids[0], skip_special_tokens=True)))


if __name__ == "__main__":
  main()
