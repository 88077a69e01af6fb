"""How the sample files are made; `train.py` makes them all."""
