"""What was learnt, in figures: densities, divergences between sample sets, samples, importance weights.

Everything takes numpy arrays, so it serves any model and any baseline. Whatever is estimated comes with its
standard error, interval or p-value, and every random choice with its seed.
"""
