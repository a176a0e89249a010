"""Training a domain from captioned images: every network that is needed, on two cores or a GPU."""
