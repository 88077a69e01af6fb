"""What is examined and how it is run: the user's model, its inputs, its layers."""
