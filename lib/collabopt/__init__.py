"""Collaborative model optimization: prune, cluster and quantize Keras models so that each step keeps the last win.

Importing the package is cheap. The modules that compute import TensorFlow through `collabopt.backend`.
"""
