"""Floor 6, compress: from a trained dense network to one of group convolutions."""
