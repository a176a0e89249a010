"""Training a domain from pictures: every network that is needed, on two CPU cores or a GPU."""
