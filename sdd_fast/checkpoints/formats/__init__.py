"""The containers that checkpoints come in; they know nothing about networks."""
