"""Whole edits: select timesteps, distill, measure and report, each in a folder of its own."""
