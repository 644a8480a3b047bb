"""Plain PyTorch definitions of the operators: readable, any device and dtype, gradients by autograd."""
