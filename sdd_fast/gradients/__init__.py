"""What the teacher asks an image to change: its residual at the latent, carried to the image."""
