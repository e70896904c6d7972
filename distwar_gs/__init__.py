"""The trainer library of distwar-gs: from a Scene (package distwar_datasets) to a trained set of 3D Gaussians.

Rooms, from the ground up; none imports from a higher floor (tests/test_house.py):

    system                                      files, signals, terminals, devices, errors
    config, capture, formats, evaluation        settings; photos to a scene; files of Gaussians; losses and metrics
    gaussians, rendering                        parameters and rows; from them to images
    strategies                                  how many Gaussians there are, and where
    checkpoints, engines                        what a run goes on from; a training step
    training                                    the loop
    viewing                                     pictures and videos of trained models; the live viewer
    cleaning                                    what does no good in a trained model, taken out
    cli                                         the command lines
    programs                                    train.py and render.py

Reading order: training.step, the page of a step; gaussians.model, rendering.renderer, engines.base;
strategies.adaptive, strategies.mcmc, strategies.guided (the default); training.state, training.trainer; config.schema,
cli; then formats.table, evaluation.metrics, viewing.pictures.
"""
