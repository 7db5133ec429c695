"""Collaborative model optimization: prune, cluster and quantize Keras models so that each step keeps the last one's win.

Importing the package is cheap. The modules that compute import TensorFlow through `collabopt.backend`.
"""
