"""What a Mixture-of-Experts model is: its layers, routers, experts and checkpoints.

Knows torch and transformers, nothing of unlearning. Begin at `architectures`.
"""
