"""Edits on the Hugging Face hub: their repositories read, described by a card, and written.

Nothing in a repository is executed, and weights are read from safetensors alone. Importing this
imports no huggingface_hub; `mixins` does, and what asks the hub.
"""
