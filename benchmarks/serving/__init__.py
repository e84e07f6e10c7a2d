"""What the server does under load, beside the engine alone and beside others.

The scripts of this folder say in their first lines what their rows are. While all 16 slots were decoded for one stream
as well (commit 7a343ed) it had 21.6 tokens/s, guesses were 1.60 times that, and a first token took 1.24 times the
prompt. With as few slots as are needed a stream alone is five times as fast, and guesses no longer pay: eight tokens
are judged in 38 to 50 ms, of which the weights are 15 and the rest is attention to a memory of 704 positions, and a
step of one row is 9 to 11. Where layers are scanned it took 59 ms before a memory was read where it lies (commit
05d98d8), and 38 since. They end by themselves after eight tries, whose time is what is lost.

An hour of mixed load is `benchmarks/serving/load.py`.
"""
