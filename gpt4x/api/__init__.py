"""The Python face in the manner of Hugging Face, on this project's own loop, checkpoints and engine.

    config.py      GPT4Config: sizes by GPT-2's names
    pretrained.py  what a name stands for, and models read from there and written
    tokenizer.py   GPT4Tokenizer, over a vocabulary
    model.py       GPT4LMHeadModel: logits, loss, generate
    datasets.py    TextDataset
    collators.py   DataCollatorForLanguageModeling
    arguments.py   TrainingArguments
    trainer.py     Trainer
    collated.py    a program's own examples, as the loop reads data
"""
