"""An ONNX model of opset 18, which torch writes, at an older one that a runtime asks for.

onnx's own converter (1.23) has no way down for Relu, Add, Mul, LayerNormalization and many more.
"""
