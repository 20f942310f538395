"""Figures of results for papers and notebooks: one column wide, light or dark, without pyplot.

Every function returns a `matplotlib.figure.Figure` and draws on given axes if there are any. Only
this package and the figures of `editing` import matplotlib, and only when a figure is drawn.
"""
