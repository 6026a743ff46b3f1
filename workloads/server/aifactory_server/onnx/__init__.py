"""Back end `onnxruntime`: models in ONNX, computed by ONNX Runtime on CPUs."""
