"""A training step, by autograd over the ops or by the fused rasteriser; and what its parts take."""
