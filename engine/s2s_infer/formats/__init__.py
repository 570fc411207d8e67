"""Files: the native model file, safetensors, PyTorch archives, and what a wrong file is."""
