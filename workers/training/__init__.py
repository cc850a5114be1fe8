"""Training: stages of a family by gradient or closed form, with budget, checkpoints, EMA and early stopping."""
