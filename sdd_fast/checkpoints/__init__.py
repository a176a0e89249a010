"""Checkpoint files of other programs → our networks. Nothing in a file is ever executed.

    path ──read_checkpoint──► Checkpoint ──load_generator, load_encoder, …──► network

`read` and `unpickle` know file formats, not networks. One file for each kind of network knows its
layouts; the architecture is told from the tensors, and every tensor is accounted for.
"""
