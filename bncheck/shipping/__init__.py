"""A model as an ONNX file that one can ship, and two files held against each other."""
