"""A trainer for encoder-decoder Transformers in numpy, with hand-written backward passes."""
