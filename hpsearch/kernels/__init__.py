"""The products of the convolution, compiled from C or in torch."""
