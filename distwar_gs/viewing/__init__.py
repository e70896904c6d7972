"""Trained models, and the pictures and videos of them."""
