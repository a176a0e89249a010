"""Whole edits: select timesteps, distil, measure and report, each in a folder of its own."""
