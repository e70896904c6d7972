"""A trained model without what does no good: scripts/clean.py.

criteria    the rules, their thresholds, and the order in which they are applied
sight       which cameras have a Gaussian in their picture, how near and how wide
islands     groups of Gaussians that nothing connects with the rest
boxes       bounds, and the crop box of the live viewer
result      the model that is left: written, measured, compared view by view
page        what it came to, as one HTML file
"""
