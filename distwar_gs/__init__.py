"""The trainer library of distwar-gs: from a Scene (package `datasets`) to a trained set of 3D Gaussians.

Rooms, from the ground up; none imports from a higher floor (tests/test_house.py):

    system                                      files, signals, terminals, devices, errors
    config, capture, formats, evaluation        settings; photos to a scene; files of Gaussians; losses and metrics
    gaussians, rendering                        parameters and rows; from them to images
    strategies                                  how many Gaussians there are, and where
    checkpoints, engines                        what a run goes on from; a training step
    training                                    the loop
    viewing                                     pictures and videos of trained models
    cli                                         the command lines

Reading order: config.schema, cli, gaussians.model, rendering.renderer, engines.base, strategies.adaptive,
training.step, training.state, training.trainer; then formats.export, evaluation.metrics, viewing.pictures.
"""
