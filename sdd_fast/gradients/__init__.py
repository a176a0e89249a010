"""What the teacher asks of an image: the residual at its latent, and the gradient behind it.

The *guidance scale* g weighs the prompt in the teacher's prediction; the *guidance RMS* is the size
of what the prompt then adds, which a balanced g makes the same for every prompt. `GuidanceConfig`
holds g and all else that the gradient depends on; `guidance` computes it, as a `Guidance`.
"""
