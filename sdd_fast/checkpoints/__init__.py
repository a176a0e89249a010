"""Checkpoint files of other programs → our networks. Nothing in a file is ever executed.

    path ──read_checkpoint──► Checkpoint ──stylegan2, psp, arcface, mapper, latents …──► network

`formats` knows containers, not networks. Each layout has `read`, which builds what it finds in a
file or returns None, and `describe`, which says what that is: the architecture is told from the
tensors, and every tensor is accounted for. `load` and `inspect` ask all of them.
"""
