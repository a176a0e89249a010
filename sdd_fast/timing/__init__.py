"""What edits cost: times of single units, measured, and totals, computed from them (Sec. 5.3)."""
