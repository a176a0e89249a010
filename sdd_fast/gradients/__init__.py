"""What the teacher asks of an image: the residual at its latent, and the gradient behind it."""
