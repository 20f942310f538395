"""The comparison of image set A with image set B, one module per step."""
