"""The paper's figures: one module each, with `units` to measure and `draw` to make a picture."""
