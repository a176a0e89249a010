"""Which timesteps carry a prompt's meaning: the Hybrid Quality Score and choices made by it."""
