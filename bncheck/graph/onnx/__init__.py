"""ONNX models as the graph, without torch."""
