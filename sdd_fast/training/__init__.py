"""Training a domain from pictures: every network that `sdd_fast` needs, on two CPU cores or a GPU."""
