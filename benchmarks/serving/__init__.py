"""What the server does under load, beside the engine alone and beside others.

The scripts of this folder say in their first lines what their rows are. Guesses on a text that repeats itself: eight
tokens are judged on the ring in 22 to 25 ms, and eight steps of one row take 63 to 66. Before, they were read behind a
copy of the memory, in 38 to 70 ms, and what stood only just before the text's end was guessed to go on for no longer
than it was: 0.78 to 0.88 of a stream without guesses.
"""
