"""What the server does under load, beside the engine alone and beside others.

The scripts of this folder say in their first lines what their rows are. Up to commit 7a343ed all 16 slots were decoded
for one stream as well, which `streams16` had for its peer.
"""
