"""Raw photographs to latents: finding and cropping the face, encoding, refining."""
