"""Folding an ONNX model."""
