"""Learning from audio: distillation of a small network from a large one.   [extra: train]"""
