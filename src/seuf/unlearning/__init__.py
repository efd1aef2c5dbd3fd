"""Take knowledge out of a model. Begin at `algorithm`, which is Algorithm 1 of the paper."""
