"""faces64: rendered faces of 64 × 64 pixels with labelled attributes and captions."""
