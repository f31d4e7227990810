"""ONNX files as graphs: `reader.read_onnx`."""
