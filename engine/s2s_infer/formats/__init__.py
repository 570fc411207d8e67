"""Files: the native model file, safetensors, PyTorch archives, and what is wrong with a wrong file."""
