"""ONNX models that run: their numbers, inputs and sizes, runtimes, and float64."""
