"""The embedded domain of real photographs of clothing: Fashion-MNIST, 28 pixels a side."""
