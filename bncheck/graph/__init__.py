"""One graph of calls, read from a torch.export program or an ONNX model."""
