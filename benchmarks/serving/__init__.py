"""What the server does under load, beside the engine alone and beside others.

The scripts of this folder say in their first lines what their rows are. While all 16 slots were decoded for one stream
as well (commit 7a343ed) it had 21.6 tokens/s, guesses were 1.60 times that, and a first token took 1.24 times the
prompt. With as few slots as are needed a stream alone is five times as fast, and guesses no longer pay: to read eight
tokens at once copies the memory, which takes as long as nine steps of one row. They end by themselves after eight
tries, whose time is what is lost.
"""
