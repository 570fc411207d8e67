"""The layers of a Transformer, one concept a file.

A layer is called with its input and returns its output and a function: ``y, backward = layer(x)``.
``backward(dy)`` adds the gradients of the layer's parameters to them and returns that of ``x``.
What the backward pass needs lives in the closure, so a layer itself holds no state but parameters.
"""
