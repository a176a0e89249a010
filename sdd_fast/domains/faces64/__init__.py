"""faces64: rendered faces of 64 × 64 pixels with labeled attributes and captions."""
