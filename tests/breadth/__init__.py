"""Models of others: architectures of other libraries, ONNX files of other projects.

`python -m tests.breadth` describes how to run it; its tables are in docs/breadth.md.
"""
