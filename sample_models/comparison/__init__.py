"""The experiment that everyone quotes, on real digits: with BatchNorm and without, by rates."""
